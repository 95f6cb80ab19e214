"""Singular value power normalisation: the leading singular value of a matrix raised to a power (So-ViT, 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moments.unit_length import unit_length

START_AXES = ("row", "column")


def _power(s: Tensor, exponent: float) -> Tensor:
    """Return s ** exponent for s >= 0, with derivative 0 at 0, where it would be infinite."""
    dead = s <= torch.finfo(s.dtype).tiny
    return s.masked_fill(dead, 1.0).pow(exponent).masked_fill(dead, 0.0)


def svpn(
    matrix: Tensor,
    start: Tensor,
    *,
    alpha: float = 0.5,
    iterations: int = 1,
    singular_values: int | None = 1,
    start_axis: str = "row",
    eps: float = 1e-5,
) -> Tensor:
    """Raise estimates of the leading singular values of matrices to a power; the rest is divided to match the last one.

    matrix: (B, m, n).
    start: (m,) with start_axis "row" (So-ViT), (n,) with "column" (SoT): where the power iteration sets out, learnt.
    alpha: the power.
    iterations: of the power method, part of a model and not a matter of accuracy: one step gives a rough estimate.
    singular_values: r, found one after the other by deflation, all from the same start; None: all min(m, n), and then
        nothing is left over. More than one wants two steps at least: after one, what the first pair leaves has
        nothing in the direction of the start, and the next pair would be made of rounding alone.
    eps: added to s_r^(1 - alpha), which divides the rest.
    Returns (B, m, n) = sum_i s_i^alpha v_i u_i^T + rest / (s_r^(1 - alpha) + eps), in float32 or better, whatever
    autocast says around. A zero matrix gives zeros and a zero gradient, where the formula's derivative is infinite.
    Raises ValueError for another shape, an unknown axis, or numbers that are too small.

    Source: So-ViT (Xie et al., 2021), section 3.2. Ordinary operations: first and second derivatives are exact.
    """
    if start_axis not in START_AXES:
        raise ValueError(f"start_axis '{start_axis}' is unknown: use one of {', '.join(START_AXES)}")
    side = 1 if start_axis == "row" else 2
    if matrix.dim() != 3 or start.shape != matrix.shape[side : side + 1]:
        raise ValueError(
            f"svpn wants (B, m, n) matrices and a start as long as axis {side}, "
            f"got shapes {tuple(matrix.shape)} and {tuple(start.shape)}"
        )
    count = min(matrix.shape[1:]) if singular_values is None else singular_values
    _check(iterations, count)
    with torch.autocast(matrix.device.type, enabled=False):
        dtype = torch.promote_types(matrix.dtype, torch.float32)
        rest, start = matrix.to(dtype), start.to(dtype)
        dead = (rest == 0).flatten(1).all(1)[:, None, None]
        if side == 2:
            rest = rest.transpose(1, 2)
        out, s = torch.zeros_like(rest), None
        for _ in range(count):
            s, pair = _leading(rest, start, iterations)
            out = out + _power(s, alpha) * pair
            rest = rest - s * pair
        if singular_values is not None:
            out = out + rest / (_power(s, 1 - alpha) + eps)
        return (out.transpose(1, 2) if side == 2 else out).masked_fill(dead, 0.0)


def _check(iterations: int, singular_values: int) -> None:
    if iterations < 1 or singular_values < 1:
        raise ValueError(f"svpn needs a step and a value at least, got {iterations=}, {singular_values=}")
    if iterations == 1 and singular_values > 1:
        raise ValueError(
            f"{singular_values} singular values by one step are rounding from the second on: "
            "take 2 iterations or more, or 1 singular value"
        )


def _leading(matrix: Tensor, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Estimate the leading singular value (B, 1, 1) and its outer product v u^T (B, m, n) from v = start."""
    v = start.expand(matrix.shape[0], -1).unsqueeze(2)
    for _ in range(iterations):
        u = unit_length(matrix.transpose(1, 2) @ v)
        v = unit_length(matrix @ u)
    return v.transpose(1, 2) @ matrix @ u, v * u.transpose(1, 2)


class SVPN(nn.Module):
    """Singular value power normalisation with its learnt start: (B, m, n) -> (B, m n), row by row.

    size: length of the start: m with start_axis "row", n with "column". The other arguments are those of `svpn`.
    State dict: `weight`, which the usual rule (no decay on vectors) leaves out of weight decay.
    """

    def __init__(
        self,
        size: int,
        *,
        alpha: float = 0.5,
        iterations: int = 1,
        singular_values: int | None = 1,
        start_axis: str = "row",
    ) -> None:
        super().__init__()
        _check(iterations, 1 if singular_values is None else singular_values)
        self.options = {
            "alpha": alpha,
            "iterations": iterations,
            "singular_values": singular_values,
            "start_axis": start_axis,
        }
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, matrix: Tensor) -> Tensor:
        """Normalise and flatten."""
        return svpn(matrix, self.weight, **self.options).flatten(1)
