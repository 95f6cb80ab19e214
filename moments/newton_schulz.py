"""Square roots of covariance matrices by a fixed number of Newton-Schulz steps (iSQRT-COV, Li et al., CVPR 2018)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

NORMS = ("trace", "frobenius")
# Rounding grows from here on: in float32 the error rises again, and about step 30 the iteration overflows.
MANY_STEPS = 15


def _identity(d: int, factor: float, like: Tensor) -> Tensor:
    return torch.eye(d, dtype=like.dtype, device=like.device).mul_(factor).unsqueeze(0)


def _iterate(a: Tensor, iterations: int) -> Tensor:
    """Return Y_N of the coupled iteration Y <- Y T, Z <- Z T, T = (3 I - Z Y) / 2 from Y = a, Z = I.

    The first step needs no product with I and the last one no Z. Every other product is one `baddbmm`, which adds the
    diagonal on the way; the derivative of each costs two products, so nothing is gained by writing it by hand.
    """
    identity = _identity(a.shape[-1], 1.5, a).expand_as(a)
    y = torch.baddbmm(a, a, a, beta=1.5, alpha=-0.5)
    if iterations == 1:
        return y
    z = identity - 0.5 * a
    for _ in range(iterations - 2):
        t = torch.baddbmm(identity, z, y, alpha=-0.5)
        y, z = torch.bmm(y, t), torch.bmm(t, z)
    return torch.bmm(y, torch.baddbmm(identity, z, y, alpha=-0.5))


def newton_schulz_root(matrix: Tensor, iterations: int, *, eps: float = 0.0, norm: str = "trace") -> Tensor:
    """Approximate square roots of symmetric positive semi-definite matrices.

    matrix: (B, d, d). Rank-deficient ones are fine: the result is a polynomial in the matrix.
    iterations: number of steps N, part of a model and not a matter of accuracy: 3 or 5 steps are far from the exact
        root, and weights trained with N steps need N steps.
    eps: added to the norm in the division (1e-5 in TCP and TAMT, 0 in MPN-COV), not where the norm is put back.
    norm: what matrices are divided by first, "trace" or "frobenius"; both bring the spectrum into [0, 1].
    Returns (B, d, d) in float32 or better, whatever autocast says around.
    A zero matrix (no variance at all) gives zeros and a zero gradient, where the formula would give 0/0.
    Raises ValueError for another shape, fewer than one step or an unknown norm; warns above 15 steps.

    First and second derivatives are exact, by automatic differentiation. Source: iSQRT-COV, equations 2 to 4.
    """
    if matrix.dim() != 3 or matrix.shape[1] != matrix.shape[2]:
        raise ValueError(f"newton_schulz_root wants (B, d, d) matrices, got shape {tuple(matrix.shape)}")
    if iterations < 1:
        raise ValueError(f"{iterations} Newton-Schulz steps: at least one is needed")
    if norm not in NORMS:
        raise ValueError(f"norm '{norm}' is unknown: use one of {', '.join(NORMS)}")
    if iterations > MANY_STEPS:
        warnings.warn(
            f"{iterations} Newton-Schulz steps lose accuracy again to rounding: 3 to 10 are usual", stacklevel=2
        )
    with torch.autocast(matrix.device.type, enabled=False):
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        size = _norm(matrix, norm)
        # Not `size > tiny`: a NaN must stay one, and so must the root of something that is no covariance.
        dead = size.abs() <= torch.finfo(matrix.dtype).tiny
        size = size.masked_fill(dead, 1.0)
        root = _iterate(matrix / (size + eps), iterations) * size.sqrt()
        return root.masked_fill(dead, 0.0)


def _norm(matrix: Tensor, norm: str) -> Tensor:
    """Return (B, 1, 1)."""
    if norm == "trace":
        return matrix.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    return torch.linalg.matrix_norm(matrix)[:, None, None]
