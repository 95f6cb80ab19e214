"""Pooling layers that represent a map by second-order statistics: covariance, Gaussian, bilinear, compact bilinear."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moments.bilinear import ROOT_EPS, bilinear_matrix, compact_bilinear_vector, signed_root, sketch_bins
from moments.covariance import covariance, gaussian_matrix
from moments.newton_schulz import NewtonSchulzRoot
from moments.power import EigenPower
from moments.reduction import channel_reduction
from moments.triangle import ORDERS, upper_triangle
from moments.unit_length import unit_length


class CovariancePool(nn.Module):
    """Covariance pooling: reduction, matrix, power of the matrix, upper triangle.

    in_channels: C of the incoming map.
    power: (B, D, D) -> (B, D, D), such as `NewtonSchulzRoot(5)` (iSQRT-COV) or `EigenPower()` (MPN-COV); None: none.
    reduction: width d of a 1x1 convolution with batch norm and ReLU before, or several widths for progressive ones;
        None: no reduction.
    activation: after the reduction, see `channel_reduction`.
    groups: split the channels into this many equal parts, each with a matrix of its own; results are concatenated.
    gaussian: embed mean and covariance together, D = d / groups + 1, instead of the covariance alone, D = d / groups.
    beta: with `gaussian`, the factor on the mean; "learned": a parameter that starts at 1.
    vectorize: upper triangles (True) or the whole matrices flattened.
    order: of the triangles, "row" or "column"; part of a model's identity as the linear layer above depends on it.
    in_float64: take matrices and powers in float64, for powers that tell rank from rounding.

    forward: (B, C, H, W), (B, C, T, H, W) or (B, C, M) -> (B, out_dim), float32 or better.
    State dict: `reduce.0.*` (convolution), `reduce.1.*` (norm), the next stage `reduce.3.*`, ...
    """

    def __init__(
        self,
        in_channels: int,
        power: nn.Module | None = None,
        *,
        reduction: int | Sequence[int] | None = None,
        activation: str = "relu",
        groups: int = 1,
        gaussian: bool = False,
        beta: float | str = 1.0,
        vectorize: bool = True,
        order: str = "row",
        in_float64: bool = False,
    ) -> None:
        super().__init__()
        self.reduce = channel_reduction(in_channels, reduction, activation)
        channels = in_channels if self.reduce is None else self.reduce[-3].out_channels
        if groups < 1 or channels % groups:
            raise ValueError(f"{channels} channels do not split into {groups} equal groups: use a divisor")
        if order not in ORDERS:
            raise ValueError(f"order '{order}' is unknown: use one of {', '.join(ORDERS)}")
        if isinstance(beta, str) and beta != "learned":
            raise ValueError(f"beta is '{beta}': give a number or 'learned'")
        self.power = nn.Identity() if power is None else power
        self.channels, self.groups, self.gaussian, self.in_float64 = channels, groups, gaussian, in_float64
        self.vectorize, self.order = vectorize, order
        self.dim = channels // groups + gaussian
        self.beta = nn.Parameter(torch.ones(())) if beta == "learned" else beta
        self.out_dim = groups * (self.dim * (self.dim + 1) // 2 if vectorize else self.dim**2)

    def matrices(self, x: Tensor) -> Tensor:
        """Return the powers of the matrices (B * groups, D, D) of a map."""
        if self.reduce is not None:
            x = self.reduce(x if x.dim() == 4 else x.flatten(2).unsqueeze(-1))
        elif x.shape[1] != self.channels:
            raise ValueError(f"this pooling is made for {self.channels} channels, got a map of {x.shape[1]}")
        x = x.flatten(2)
        x = x.reshape(x.shape[0] * self.groups, x.shape[1] // self.groups, x.shape[2])
        dtype = torch.promote_types(x.dtype, torch.float32)
        x = x.double() if self.in_float64 else x
        return self.power(gaussian_matrix(x, self.beta) if self.gaussian else covariance(x)).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Pool a feature map; see the class for shapes."""
        found = self.matrices(x)
        return (upper_triangle(found, self.order) if self.vectorize else found).reshape(x.shape[0], self.out_dim)

    def extra_repr(self) -> str:
        """Show the sizes in printed models."""
        kind = f"gaussian, beta={self.beta if isinstance(self.beta, float) else 'learned'}" if self.gaussian else ""
        shape = f"order='{self.order}'" if self.vectorize else "whole matrices"
        return ", ".join(filter(None, [f"dim={self.dim}", f"groups={self.groups}", kind, shape]))


class BilinearPool(nn.Module):
    """Bilinear pooling (BCNN): signed root of X X^T / M, then unit length.

    in_channels: C of the incoming map.
    reduction: as in `CovariancePool`.
    vectorize: (B, D*D), of unit length; False: (B, D, D) whose every column has unit length, as the reference has it.
    eps: inside the signed root.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        reduction: int | Sequence[int] | None = None,
        vectorize: bool = True,
        eps: float = ROOT_EPS,
    ) -> None:
        super().__init__()
        self.reduce = channel_reduction(in_channels, reduction)
        self.dim = in_channels if self.reduce is None else self.reduce[-3].out_channels
        self.vectorize, self.eps, self.out_dim = vectorize, eps, self.dim**2

    def forward(self, x: Tensor) -> Tensor:
        """Pool a feature map (B, C, H, W) or (B, C, M)."""
        if self.reduce is not None:
            x = self.reduce(x if x.dim() == 4 else x.flatten(2).unsqueeze(-1))
        found = bilinear_matrix(x, self.eps)
        return unit_length(found.flatten(1) if self.vectorize else found)

    def extra_repr(self) -> str:
        """Show the sizes in printed models."""
        return f"dim={self.dim}, out_dim={self.out_dim}"


class CompactBilinearPool(nn.Module):
    """Compact bilinear pooling (CBP): tensor sketch of X X^T, signed root, unit length: (B, C, H, W) -> (B, out_dim).

    in_channels: C. out_dim: length of the sketch.
    eps: inside the signed root.
    seed: of the hashes and signs, drawn once. They are buffers: a checkpoint is useless without them.
    """

    def __init__(
        self,
        in_channels: int,
        out_dim: int = 8192,
        *,
        reduction: int | Sequence[int] | None = None,
        eps: float = ROOT_EPS,
        seed: int = 1,
    ) -> None:
        super().__init__()
        if out_dim < 1:
            raise ValueError(f"a sketch of {out_dim} values is none: use at least 1")
        self.reduce = channel_reduction(in_channels, reduction)
        dim = in_channels if self.reduce is None else self.reduce[-3].out_channels
        self.eps, self.out_dim = eps, out_dim
        generator = torch.Generator().manual_seed(seed)
        for name in ("hash1", "hash2"):
            self.register_buffer(name, torch.randint(out_dim, (dim,), generator=generator))
        for name in ("sign1", "sign2"):
            self.register_buffer(name, 2 * torch.randint(2, (dim,), generator=generator) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool a feature map (B, C, H, W) or (B, C, M)."""
        if self.reduce is not None:
            x = self.reduce(x if x.dim() == 4 else x.flatten(2).unsqueeze(-1))
        bins = sketch_bins(self.hash1, self.hash2, self.out_dim)
        found = compact_bilinear_vector(x, bins, self.sign1, self.sign2, self.out_dim)
        return unit_length(signed_root(found, self.eps))

    def extra_repr(self) -> str:
        """Show the sizes in printed models."""
        return f"out_dim={self.out_dim}"


def isqrt_pool(
    in_channels: int, iterations: int = 5, *, eps: float = 0.0, norm: str = "trace", **options
) -> CovariancePool:
    """Build iSQRT-COV pooling: `NewtonSchulzRoot` of the covariance; options as in `CovariancePool`."""
    return CovariancePool(in_channels, NewtonSchulzRoot(iterations, eps, norm), **options)


def mpn_pool(
    in_channels: int,
    alpha: float = 0.5,
    *,
    eps: float = 0.0,
    threshold: float | None = None,
    scale: str = "none",
    order: str = "column",
    **options,
) -> CovariancePool:
    """Build MPN-COV pooling: `EigenPower` of the covariance, columns first as released; options of `CovariancePool`."""
    return CovariancePool(in_channels, EigenPower(alpha, eps, threshold, scale), order=order, **options)


def gaussian_pool(
    in_channels: int,
    alpha: float = 0.5,
    *,
    iterations: int | None = None,
    eps: float = 1e-3,
    threshold: float | None = 1e-10,
    beta: float | str = 1.0,
    **options,
) -> CovariancePool:
    """Build Gaussian pooling: a power of the Gaussian's matrix; options as in `CovariancePool`.

    iterations: take the root by so many Newton-Schulz steps; None: the power `alpha` by eigen-decomposition, with
        `eps` and `threshold` as in G2DeNet, in float64 as there: eigenvalues that are zero must stay below the
        threshold, for their power would be sqrt(eps).
    """
    power = EigenPower(alpha, eps, threshold) if iterations is None else NewtonSchulzRoot(iterations)
    return CovariancePool(in_channels, power, gaussian=True, beta=beta, in_float64=iterations is None, **options)
