"""Powers of covariance matrices by eigen-decomposition (MPN-COV, Li et al., ICCV 2017; G2DeNet, Wang et al., 2017).

With S = V diag(l) V^T and f(l) = (l + eps)^alpha where l is kept, 0 where it is dropped, this is V diag(f(l)) V^T.
Its derivatives are written with divided differences of f (the formula of Daleckii and Krein), which stay finite where
eigenvalues meet. Differentiating the eigenvectors themselves would divide by the differences of eigenvalues.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moments.transforms import merge_axis


def _shifted(values: Tensor, eps: float, threshold: float | None) -> tuple[Tensor, Tensor]:
    """Return (B, d) l + eps (1 where dropped) and whether each eigenvalue is kept."""
    largest = values[:, -1:].clamp(min=0)
    kept = values > (torch.finfo(values.dtype).eps * largest if threshold is None else threshold)
    return torch.where(kept, values + eps, 1.0), kept


def _first_differences(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Return f[a, b] = (a^alpha - b^alpha) / (a - b) for positive numbers, without loss where they are close or equal.

    With a / b = exp(2 h) it is (a b)^((alpha - 1) / 2) sinh(alpha h) / sinh(h).
    """
    low = torch.minimum(a, b)  # the formula is even in h; from the larger, (b - a) / a may round to -1
    h = torch.log1p((torch.maximum(a, b) - low) / low) / 2
    equal = h.abs() < 1e-30
    ratio = torch.where(equal, alpha, torch.sinh(alpha * h) / torch.sinh(h).masked_fill(equal, 1.0))
    return (a.sqrt() * b.sqrt()) ** (alpha - 1) * ratio


def _pair_table(values: Tensor, eps: float, threshold: float | None, alpha: float) -> Tensor:
    """Return (B, d, d) first divided differences of f at all pairs of eigenvalues.

    A dropped eigenvalue stands for 0 with f = 0: beside a kept one the difference is f(l) / l, the exact derivative
    wherever the rank does not change. Between two dropped ones it is unbounded, and 0 is taken; the directions that
    meet it vanish for a covariance of few positions.
    """
    shifted, kept = _shifted(values, eps, threshold)
    both = _first_differences(shifted[:, :, None], shifted[:, None, :], alpha)
    alone = torch.where(kept, shifted**alpha / torch.where(kept, values, 1.0), 0.0)
    left, right = kept[:, :, None], kept[:, None, :]
    return torch.where(left & right, both, torch.where(left, alone[:, :, None], alone[:, None, :]) * (left ^ right))


def _triple_table(values: Tensor, pairs: Tensor, k: int, eps: float, threshold: float | None, alpha: float) -> Tensor:
    """Return (B, d, d) second divided differences f[l_i, l_k, l_j] for one k.

    (f[a, b] - f[b, c]) / (a - c) with a and c the outer two of the three; where all three are close, f'' / 2 at their
    mean. Three dropped eigenvalues give 0.
    """
    shifted, kept = _shifted(values, eps, threshold)
    level = torch.where(kept, values, 0.0)
    points = torch.stack(torch.broadcast_tensors(level[:, :, None], level[:, k, None, None], level[:, None, :]), dim=-1)
    ordered, order = points.sort(dim=-1, descending=True)
    spread = ordered[..., 0] - ordered[..., 2]
    i = torch.arange(values.shape[1], device=values.device)
    j = torch.full_like(i, k)
    index = torch.stack(torch.broadcast_tensors(i[:, None], j[:, None], i[None, :]), dim=-1).expand_as(order)
    index = index.gather(-1, order)
    flat = pairs.flatten(1)
    d = values.shape[1]
    high = flat.gather(1, (index[..., 0] * d + index[..., 1]).flatten(1)).view_as(spread)
    low = flat.gather(1, (index[..., 1] * d + index[..., 2]).flatten(1)).view_as(spread)
    mean = points.mean(dim=-1) + eps
    near = spread <= torch.finfo(values.dtype).eps ** (1 / 3) * mean
    curve = alpha * (alpha - 1) / 2 * torch.where(near & (mean > 0), mean, 1.0) ** (alpha - 2)
    any_kept = kept[:, :, None] | kept[:, k, None, None] | kept[:, None, :]
    return torch.where(near, curve, (high - low) / spread.masked_fill(near, 1.0)) * any_kept


def _sym(x: Tensor) -> Tensor:
    return (x + x.mT) / 2


class _Derivative(torch.autograd.Function):
    """V (F o (V^T G V)) V^T: the derivative of the power in direction G, which is its own adjoint."""

    @staticmethod
    def forward(matrix, direction, values, vectors, alpha, eps, threshold) -> Tensor:
        pairs = _pair_table(values, eps, threshold, alpha)
        return vectors @ (pairs * (vectors.mT @ _sym(direction) @ vectors)) @ vectors.mT

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        _, direction, values, vectors, *ctx.options = inputs
        ctx.save_for_backward(direction, values, vectors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        direction, values, vectors = ctx.saved_tensors
        alpha, eps, threshold = ctx.options
        with torch.autocast(grad.device.type, enabled=False):
            pairs = _pair_table(values, eps, threshold, alpha)
            g = vectors.mT @ _sym(grad) @ vectors
            by_direction = vectors @ (pairs * g) @ vectors.mT if ctx.needs_input_grad[1] else None
            if not ctx.needs_input_grad[0]:
                return None, by_direction, None, None, None, None, None
            e = vectors.mT @ _sym(direction) @ vectors
            # sum over i, j, k of g_ij f[i, k, j] (e_ik s_kj + s_ik e_kj), differentiated by s; one k at a time
            rows = []
            for k in range(e.shape[1]):
                weighted = g * _triple_table(values, pairs, k, eps, threshold, alpha)
                rows.append(2 * (e[:, k, None, :] @ weighted)[:, 0])
            return vectors @ _sym(torch.stack(rows, 1)) @ vectors.mT, by_direction, None, None, None, None, None

    @staticmethod
    def vmap(info, in_dims: tuple, *inputs) -> tuple[Tensor, int]:
        """Put the mapped axis and the batch together."""
        tensors = [merge_axis(x, dim, info.batch_size) for x, dim in zip(inputs[:4], in_dims, strict=False)]
        return _Derivative.apply(*tensors, *inputs[4:]).unflatten(0, (info.batch_size, -1)), 0


class _Power(torch.autograd.Function):
    """The power, and what its derivative needs: eigenvalues, eigenvectors and which samples are broken."""

    @staticmethod
    def forward(matrix: Tensor, alpha: float, eps: float, threshold: float | None) -> tuple[Tensor, ...]:
        # LAPACK refuses NaN with an error about convergence; the sample becomes NaN instead, as in other layers
        broken = ~matrix.isfinite().all(dim=2).all(dim=1)[:, None, None]
        values, vectors = torch.linalg.eigh(matrix.masked_fill(broken, 0.0))
        shifted, kept = _shifted(values, eps, threshold)
        result = (vectors * torch.where(kept, shifted**alpha, 0.0)[:, None, :]) @ vectors.mT
        return result.masked_fill(broken, torch.nan), values, vectors, broken

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        matrix, *ctx.options = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(matrix, *output[1:])

    @staticmethod
    def backward(ctx, grad: Tensor | None, *_) -> tuple[Tensor | None, None, None, None]:
        if grad is None:
            return None, None, None, None
        matrix, values, vectors, broken = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            result = _Derivative.apply(matrix, grad, values, vectors, *ctx.options)
            return result.masked_fill(broken, torch.nan), None, None, None

    @staticmethod
    def vmap(info, in_dims: tuple, matrix: Tensor, *options) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Put the mapped axis and the batch together."""
        found = _Power.apply(merge_axis(matrix, in_dims[0], info.batch_size), *options)
        return tuple(x.unflatten(0, (info.batch_size, -1)) for x in found), (0,) * len(found)


def matrix_power(matrix: Tensor, alpha: float = 0.5, *, eps: float = 0.0, threshold: float | None = None) -> Tensor:
    """Powers of symmetric positive semi-definite matrices.

    matrix: (B, d, d), symmetric; the gradient is the symmetric one.
    alpha: any power but 0; 0.5 is MPN-COV's and Gaussian embedding's. Negative powers are those of the pseudo-inverse.
    eps: added to the eigenvalues that are kept, before the power: 0 in MPN-COV, 1e-3 in G2DeNet.
    threshold: eigenvalues above it are kept, others contribute nothing. None: the floating-point spacing at the
        largest one, as released; eigenvalues of the size of rounding may survive that. G2DeNet: 1e-10.
    Returns (B, d, d) in float32 or better, whatever autocast says around. A zero matrix: zeros, zero gradient.
    Raises ValueError for another shape or alpha = 0.

    First and second derivatives are exact, with repeated eigenvalues too, and for covariances of few positions, whose
    rank does not change. A third derivative raises. The second costs O(d^3) operations and is meant for small d.
    """
    if matrix.dim() != 3 or matrix.shape[1] != matrix.shape[2]:
        raise ValueError(f"matrix_power wants (B, d, d) matrices, got shape {tuple(matrix.shape)}")
    if alpha == 0:
        raise ValueError("power 0 forgets the matrix: use another one, for instance 0.5")
    with torch.autocast(matrix.device.type, enabled=False):
        return _Power.apply(matrix.to(torch.promote_types(matrix.dtype, torch.float32)), alpha, eps, threshold)[0]


SCALES = ("none", "spectral", "frobenius")


class EigenPower(nn.Module):
    """`matrix_power` as a layer: (B, d, d) -> (B, d, d).

    scale: divide the result by its "spectral" or "frobenius" norm; both were tried and rejected by MPN-COV.
    """

    def __init__(
        self, alpha: float = 0.5, eps: float = 0.0, threshold: float | None = None, scale: str = "none"
    ) -> None:
        super().__init__()
        if alpha == 0:
            raise ValueError("power 0 forgets the matrix: use another one, for instance 0.5")
        if scale not in SCALES:
            raise ValueError(f"scale '{scale}' is unknown: use one of {', '.join(SCALES)}")
        self.alpha, self.eps, self.threshold, self.scale = alpha, eps, threshold, scale

    def forward(self, matrix: Tensor) -> Tensor:
        """Return the powers."""
        power = matrix_power(matrix, self.alpha, eps=self.eps, threshold=self.threshold)
        if self.scale == "none":
            return power
        with torch.autocast(matrix.device.type, enabled=False):
            norm = _largest_eigenvalue(power) if self.scale == "spectral" else _frobenius(power)
            return power / norm.masked_fill(norm == 0, 1.0)

    def extra_repr(self) -> str:
        """Show the options in printed models."""
        return f"alpha={self.alpha}, eps={self.eps}, threshold={self.threshold}, scale='{self.scale}'"


def _frobenius(matrix: Tensor) -> Tensor:
    """Return (B, 1, 1) norms with a zero gradient at zero."""
    square = matrix.square().sum(dim=(1, 2), keepdim=True)
    dead = square == 0
    return square.masked_fill(dead, 1.0).sqrt().masked_fill(dead, 0.0)


def _largest_eigenvalue(matrix: Tensor) -> Tensor:
    """Return (B, 1, 1) largest eigenvalues, differentiable twice where the largest is simple.

    The Rayleigh quotient of v + (l I - S0)^+ (S - S0) v, with v, l and S0 the constants of now, agrees with the
    eigenvalue of S up to the third order.
    """
    constant = matrix.detach()
    values, vectors = torch.linalg.eigh(constant.nan_to_num())
    largest, v = values[:, -1:], vectors[:, :, -1:]
    gap = largest - values
    weight = torch.where(gap > torch.finfo(values.dtype).eps * largest, 1 / gap.masked_fill(gap == 0, 1.0), 0.0)
    u = v + vectors @ (weight[:, :, None] * (vectors.mT @ ((matrix - constant) @ v)))
    return (u.mT @ matrix @ u) / (u.mT @ u)
