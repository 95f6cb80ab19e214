"""Covariance of the channels of a feature map: the matrix that every global covariance pooling starts from."""

from __future__ import annotations

import torch
from torch import Tensor


def _composed(x: Tensor, centred: bool, divisor: int) -> Tensor:
    """Return the matrices of x (B, C, M) in ordinary differentiable operations."""
    if centred:
        x = x - x.mean(dim=2, keepdim=True)
    return torch.bmm(x, x.transpose(1, 2)) / divisor


class _Covariance(torch.autograd.Function):
    """Covariance that keeps nothing but its input: the centred copy is made again in the backward pass.

    The derivative is one product, (G + G^T) X / divisor; its rows sum to zero where X is centred, so the mean adds
    nothing. It is written in differentiable operations, so the second derivative is exact too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, centred: bool, divisor: int) -> Tensor:
        return _composed(x, centred, divisor)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, bool, int], output: Tensor) -> None:
        x, ctx.centred, ctx.divisor = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            if ctx.centred:
                x = x - x.mean(dim=2, keepdim=True)
            return torch.bmm((grad + grad.transpose(1, 2)) / ctx.divisor, x), None, None


def covariance(x: Tensor, *, centred: bool = True, correction: int = 0) -> Tensor:
    """Covariance matrices of the channels of feature maps.

    x: (B, C, H, W), (B, C, T, H, W) or (B, C, M); channels are variables, the M positions their observations.
    centred: remove the mean of every channel first; False gives the second moment X X^T / M of bilinear pooling.
    correction: subtracted from M in the divisor: 0 as published (MPN-COV, TCP, TAMT), 1 for the unbiased estimate.
    Returns (B, C, C) in float32 or better, whatever autocast says around: differences of nearly equal numbers.
    Raises ValueError when x has fewer than three axes or M - correction is not positive.

    The M x M centring matrix of the published code is never built: memory grows with M, not with its square. First and
    second derivatives are exact. Source: MPN-COV (Li et al., ICCV 2017), equation 1.
    """
    if x.dim() < 3:
        raise ValueError(f"covariance wants (B, C, H, W) or (B, C, M) features, got shape {tuple(x.shape)}")
    x = x.flatten(2)
    divisor = x.shape[2] - correction
    if divisor < 1:
        raise ValueError(f"{x.shape[2]} positions are too few for a covariance with divisor M - {correction}")
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if torch.compiler.is_compiling() or not x.requires_grad:
            return _composed(x, centred, divisor)
        return _Covariance.apply(x, centred, divisor)


def gaussian_matrix(x: Tensor, beta: float | Tensor = 1.0) -> Tensor:
    """Embed the Gaussian of the positions of a map, mean mu and covariance S, as a symmetric matrix.

    x: (B, C, H, W), (B, C, T, H, W) or (B, C, M).
    beta: factor on the mean, a number or a learned scalar.
    Returns (B, C + 1, C + 1): [[S + beta^2 mu mu^T, beta mu], [beta mu^T, 1]], positive semi-definite, in float32 or
    better. Source: G2DeNet (Wang et al., CVPR 2017).
    """
    second = covariance(x)
    with torch.autocast(x.device.type, enabled=False):
        mean = beta * x.flatten(2).to(second.dtype).mean(dim=2, keepdim=True)
        one = mean.new_ones(mean.shape[0], 1, 1)
        return torch.cat([torch.cat([second + mean * mean.mT, mean], 2), torch.cat([mean.mT, one], 2)], 1)
