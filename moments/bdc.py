"""Brownian distance covariance of the channels of a feature map (DeepBDC, Xie et al., CVPR 2022, equations 5-7).

Every channel is one observation with its M = H*W spatial values as coordinates. The BDC matrix is the doubly centred
matrix of the (scaled) Euclidean distances between channels; its upper triangle represents the image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from moments.reduction import channel_reduction
from moments.triangle import symmetric_positions, triangle_positions, upper_triangle

# Added inside the square root, after the scaling: bounds the slope of the root at zero distance by 0.5 / sqrt(EPS).
EPS = 1e-5

# Bytes of distance matrices that one pass works on: on a CPU what stays in a core's cache is not fetched again.
_CPU_BLOCK_BYTES = 1 << 20
_GPU_BLOCK_BYTES = 512 << 20


def _block_size(d: int, x: Tensor) -> int:
    """Return how many (d, d) matrices to work on at a time."""
    budget = _CPU_BLOCK_BYTES * torch.get_num_threads() if x.device.type == "cpu" else _GPU_BLOCK_BYTES
    return max(1, budget // (d * d * x.element_size()))


def _distances(x: Tensor, eps: float, out: Tensor) -> Tensor:
    """Write ``sqrt(S + eps)`` to `out`, with S the squared distances between the rows of x (B, d, M).

    S comes from the Gram matrix, so that equal rows and the diagonal give exact zeros; no gradient is recorded.
    """
    gram = torch.bmm(x, x.transpose(1, 2), out=out)
    norms = gram.diagonal(dim1=1, dim2=2).clone()
    torch.add(norms[:, :, None], gram, alpha=-2, out=gram)
    return gram.add_(norms[:, None, :]).clamp_(min=0).add_(eps).sqrt_()


def _composed(x: Tensor, log_scale: Tensor, eps: float) -> Tensor:
    """Return the BDC matrices of x (B, d, M) in ordinary differentiable operations."""
    gram = x @ x.transpose(1, 2)
    norms = gram.diagonal(dim1=1, dim2=2)
    squared = (norms[:, :, None] + norms[:, None, :] - 2 * gram).clamp(min=0)
    distance = (log_scale.exp() * squared + eps).sqrt()
    mean = distance.mean(dim=2)
    return distance - mean[:, :, None] - mean[:, None, :] + mean.mean(dim=1)[:, None, None]


class _BDC(torch.autograd.Function):
    """BDC matrices (or their triangles) that keep only the input for the backward pass.

    Distances are recomputed there: one d x M x d product is cheaper than fetching a (B, d, d) tensor from memory, and
    nothing of that size is ever held for the whole batch. The second derivative goes through `_composed`.
    """

    @staticmethod
    def forward(ctx, x: Tensor, log_scale: Tensor, eps: float, vectorize: bool) -> Tensor:
        batch, d, _ = x.shape
        ctx.save_for_backward(x, log_scale)
        ctx.eps, ctx.vectorize = eps, vectorize
        root = log_scale.div(2).exp().reshape(())  # scaling x by it scales the squared distances by exp(log_scale)
        step = _block_size(d, x)
        out = x.new_empty(batch, d * (d + 1) // 2 if vectorize else d * d)
        work, scaled = x.new_empty(min(step, batch), d, d), torch.empty_like(x[:step])
        for start in range(0, batch, step):
            rows = x[start : start + step]
            rows = torch.mul(rows, root, out=scaled[: len(rows)])
            distance = _distances(rows, eps, work[: len(rows)])
            mean = distance.mean(dim=2)
            distance.sub_(mean[:, :, None]).sub_((mean - mean.mean(dim=1, keepdim=True))[:, None, :])
            block = out[start : start + step]
            if vectorize:
                torch.index_select(distance.flatten(1), 1, triangle_positions(d, x.device), out=block)
            else:
                block.copy_(distance.flatten(1))
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, log_scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: this pass will be differentiated itself
            wanted = [value for value, need in zip((x, log_scale), ctx.needs_input_grad, strict=False) if need]
            with torch.autocast(x.device.type, enabled=False):
                matrix = _composed(x, log_scale, ctx.eps)
                result = upper_triangle(matrix) if ctx.vectorize else matrix.flatten(1)
                found = iter(torch.autograd.grad(result, wanted, grad, create_graph=True))
            grads = [next(found) if need else None for need in ctx.needs_input_grad[:2]]
            return grads[0], grads[1], None, None
        grad_x, grad_t = _first_derivative(x, log_scale, grad.contiguous(), ctx.eps, ctx.vectorize)
        return grad_x, grad_t, None, None


def _first_derivative(x: Tensor, log_scale: Tensor, grad: Tensor, eps: float, vectorize: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``sum(grad * bdc)`` by x (B, d, M) and log_scale; grad is (B, d(d+1)/2) or (B, d*d)."""
    batch, d, _ = x.shape
    root = log_scale.div(2).exp().reshape(())
    step = _block_size(d, x)
    result, slope = torch.empty_like(x), x.new_zeros(())
    work, scaled = x.new_empty(2, min(step, batch), d, d), torch.empty_like(x[:step])
    for start in range(0, batch, step):
        upstream = grad[start : start + step]
        rows = torch.mul(x[start : start + step], root, out=scaled[: len(upstream)])
        weight, distance = work[:, : len(rows)]
        _distances(rows, eps, distance)
        # `weight` becomes twice the symmetric part of the upstream gradient. Its diagonal meets distances that are
        # constant (zero), so it counts in the row means alone.
        if vectorize:
            torch.index_select(upstream, 1, symmetric_positions(d, x.device), out=weight.view(len(rows), -1))
            sums = weight.sum(dim=2).add_(weight.diagonal(dim1=1, dim2=2))
        else:
            square = upstream.unflatten(1, (d, d))
            torch.add(square, square.transpose(1, 2), out=weight)
            sums = weight.sum(dim=2)
        mean = sums.div_(d)
        torch.sub(mean[:, :, None], weight, out=weight)  # minus the centred gradient, from here on
        weight.add_((mean - mean.mean(dim=1, keepdim=True))[:, None, :])
        # d(distance)/d(log_scale) = (distance - eps / distance) / 2: the two halves meet `weight` before and after div
        slope -= torch.dot(weight.flatten(), distance.flatten())
        weight.div_(distance)
        sums = weight.sum(dim=2)
        slope += eps * sums.sum()
        weight.diagonal(dim1=1, dim2=2).sub_(sums)  # a graph Laplacian: the product sums weighted differences of rows
        torch.bmm(weight, rows, out=result[start : start + step]).mul_(root)
    return result, slope.div_(4).reshape(log_scale.shape)


def _bdc(x: Tensor, temperature: Tensor, eps: float, vectorize: bool) -> Tensor:
    """Check and flatten the map, leave half precision, and pick the way to compute."""
    if x.dim() not in (3, 4):
        raise ValueError(f"BDC wants (B, C, H, W) or (B, C, M) features, got shape {tuple(x.shape)}")
    x = x.flatten(2)
    # Squared distances are differences of large numbers: float32 at least, whatever autocast says around us.
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        x, temperature = x.to(dtype), temperature.to(dtype)
        if torch.compiler.is_compiling():
            matrix = _composed(x, temperature.reshape(()), eps)
            return upper_triangle(matrix) if vectorize else matrix.flatten(1)
        return _BDC.apply(x.contiguous(), temperature, eps, vectorize)


def bdc_matrix(x: Tensor, temperature: Tensor, eps: float = EPS) -> Tensor:
    """Brownian distance covariance matrix between the channels of a feature map.

    x: (B, C, H, W) or (B, C, M) features; channels are observations, positions their coordinates.
    temperature: one element, the *logarithm* of the factor on squared distances; learned in DeepBDC.
    eps: added to the scaled squared distance before the root, keeps its gradient finite at zero distance.
    Returns (B, C, C) in float32 or better: symmetric, every row and column sums to zero.
    Raises ValueError for another number of axes.

    Source: DeepBDC, equations 5-7; first and second derivatives are exact.
    """
    return _bdc(x, temperature, eps, vectorize=False).unflatten(1, (x.shape[1], x.shape[1]))


def bdc_vector(x: Tensor, temperature: Tensor, eps: float = EPS) -> Tensor:
    """Upper triangle (diagonal included, row-major, unweighted) of `bdc_matrix`; returns (B, C(C+1)/2).

    The inner product of two vectors counts each off-diagonal pair once, where tr(A^T B) counts it twice: this is what
    the published results use.
    """
    return _bdc(x, temperature, eps, vectorize=True)


class BDC(nn.Module):
    """BDC pooling: optional 1x1 reduction, then the BDC matrix with a learned temperature, then its upper triangle.

    in_channels: C of the incoming map.
    reduce_dim: channels d after conv1x1 - BN - activation; None or C means no reduction.
    map_size: (H, W) that sets the initial temperature log(1 / (2 H W)); maps of any size are accepted later.
    vectorize: upper triangle (True) or the whole flattened matrix.
    activation: of the reduction, 'relu' or 'leaky_relu' (slope 0.1).

    forward: (B, C, H, W) or (B, C, M) -> (B, out_dim), float32 or better; a batch of one stays (1, out_dim).
    """

    def __init__(
        self,
        in_channels: int,
        reduce_dim: int | None = None,
        map_size: tuple[int, int] = (10, 10),
        vectorize: bool = True,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.vectorize = vectorize
        self.dim = reduce_dim or in_channels
        self.out_dim = self.dim * (self.dim + 1) // 2 if vectorize else self.dim**2
        self.reduce = channel_reduction(in_channels, None if self.dim == in_channels else self.dim, activation)
        self.temperature = nn.Parameter(torch.full((1, 1), -math.log(2 * map_size[0] * map_size[1])))

    def forward(self, x: Tensor) -> Tensor:
        """Pool a feature map; see the class for shapes."""
        if self.reduce is not None:
            x = self.reduce(x if x.dim() == 4 else x.unsqueeze(-1))
        return _bdc(x, self.temperature, EPS, self.vectorize)

    def extra_repr(self) -> str:
        """Show the sizes in printed models."""
        return f"dim={self.dim}, out_dim={self.out_dim}, vectorize={self.vectorize}"
