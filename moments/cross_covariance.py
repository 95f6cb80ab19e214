"""Covariances between two reduced copies of features: pooling of the visual tokens of So-ViT and SoT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moments.bilinear import signed_root
from moments.reduction import channel_reduction
from moments.svpn import SVPN
from moments.unit_length import unit_length

CENTRES = ("reference", "exact")


def cross_covariance(x: Tensor, y: Tensor, *, centred: bool = True) -> Tensor:
    """Covariances between the channels of two sets of features over the same positions.

    x: (B, C, ...), y: (B, D, ...). centred: remove every channel's mean over the M positions first.
    Returns (B, C, D) = X Y^T / M in float32 or better, whatever autocast says around.
    Raises ValueError when the positions differ.
    """
    x, y = x.flatten(2), y.flatten(2)
    if x.shape[2] != y.shape[2]:
        raise ValueError(f"cross_covariance wants the same positions, got {x.shape[2]} and {y.shape[2]}")
    with torch.autocast(x.device.type, enabled=False):
        x, y = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (x, y))
        if centred:  # one side would do, but for the rounding of what then cancels
            x, y = x - x.mean(2, keepdim=True), y - y.mean(2, keepdim=True)
        return x @ y.transpose(1, 2) / x.shape[2]


def token_covariance(q: Tensor, k: Tensor | None = None, *, centre: str = "reference") -> Tensor:
    """Covariances of token dimensions as SoT computes them.

    q: (B, N, D), k: (B, N, E); None: q with itself.
    centre: "reference" is the published code, which removes ONE number a sample, the mean over tokens and dimensions
        together, and divides q with itself by D; "exact" removes every dimension's mean and divides by N always.
    Returns (B, D, E) in float32 or better, whatever autocast says around.
    Raises ValueError for an unknown `centre`.
    """
    if centre not in CENTRES:
        raise ValueError(f"centre '{centre}' is unknown: use one of {', '.join(CENTRES)}")
    if centre == "exact":
        q = q.transpose(1, 2)
        return cross_covariance(q, q if k is None else k.transpose(1, 2))
    with torch.autocast(q.device.type, enabled=False):
        q = q.to(torch.promote_types(q.dtype, torch.float32))
        q = q - q.mean((1, 2), keepdim=True)
        if k is None:
            return q.transpose(1, 2) @ q / q.shape[2]
        k = k.to(q.dtype)
        return q.transpose(1, 2) @ (k - k.mean((1, 2), keepdim=True)) / q.shape[1]


class CrossCovariance(nn.Module):
    """Reduce a map twice and take the covariances between both: (B, C, ...) -> (B, d0, d1) (So-ViT).

    channels: C.
    dims: (d0, d1), each the width of a branch of 1x1 convolution, batch norm and ReLU; one number (d,): one branch with
        itself; None: the features themselves.
    centred: remove the means first.

    State dict: `reduce.I.{0,1}.*` for two branches, `reduce.{0,1}.*` for one.
    """

    def __init__(self, channels: int, dims: tuple[int, ...] | None = (48, 24), *, centred: bool = True) -> None:
        super().__init__()
        if dims is not None and len(dims) not in (1, 2):
            raise ValueError(f"cross covariance has one or two branches, got dims = {tuple(dims)}")
        self.centred, self.dims = centred, tuple(dims or (channels,))
        self.two = len(self.dims) == 2
        branches = [channel_reduction(channels, d) for d in dims or ()]
        self.reduce = nn.ModuleList(branches) if self.two else (branches or [nn.Identity()])[0]
        self.out_shape = (self.dims[0], self.dims[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the covariances. Positions may have any number of axes."""
        x = x if x.dim() == 4 else x.flatten(2).unsqueeze(3)
        first, second = (branch(x) for branch in self.reduce) if self.two else [self.reduce(x)] * 2
        return cross_covariance(first, second, centred=self.centred)


class ElementwisePower(nn.Module):
    """sign(x) sqrt(|x| + 1e-8), then unit length along axis 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, m, n)."""
        return unit_length(signed_root(x))


class Division(nn.Module):
    """Divide by a number that starts as sqrt(size), learnt or not."""

    def __init__(self, size: int, learnt: bool) -> None:
        super().__init__()
        value = torch.full((1,), size**0.5)
        self.weight = nn.Parameter(value) if learnt else None
        self.value = float(value)

    def forward(self, x: Tensor) -> Tensor:
        """Divide."""
        return x / (self.value if self.weight is None else self.weight)


class MatrixNorm(nn.LayerNorm):
    """Layer norm of float32 matrices whatever the precision of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise along the last axis."""
        return nn.functional.layer_norm(
            x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps
        )


NORMS = {
    "svpn": lambda width, options: SVPN(width, start_axis="column", **options),
    "sqrt_d": lambda width, options: Division(width, learnt=False),
    "sqrt_t": lambda width, options: Division(width, learnt=True),
    "power": lambda width, options: ElementwisePower(),
    "layer": lambda width, options: MatrixNorm(width),
    "none": lambda width, options: nn.Identity(),
}


class MultiHeadCovariance(nn.Module):
    """Covariances of several projected heads of tokens, normalised: (B, N, C) -> (B, H w^2) (SoT).

    dim: C. heads: H. width: w, dimensions of a head, of which there are two: one for each side of its covariance.
    norm: of every head's w x w, "svpn" (with its options `alpha`, `iterations`, `singular_values`), "sqrt_d" (divided
        by sqrt(w)), "sqrt_t" (by a learnt number), "power" (element-wise root, then unit columns), "layer", "none".
    dropout: on the vectors. centre: see `token_covariance`.

    State dict: `project.weight`, `norm.*`.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 6,
        width: int = 14,
        norm: str = "svpn",
        dropout: float = 0.0,
        centre: str = "reference",
        **options,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm '{norm}' is unknown: use one of {', '.join(NORMS)}")
        if options and norm != "svpn":
            raise ValueError(f"norm '{norm}' takes no options, got {', '.join(options)}")
        if centre not in CENTRES:
            raise ValueError(f"centre '{centre}' is unknown: use one of {', '.join(CENTRES)}")
        self.heads, self.width, self.centre = heads, width, centre
        self.out_dim = heads * width**2
        self.project = nn.Linear(dim, 2 * heads * width, bias=False)
        self.norm, self.dropout = NORMS[norm](width, options), nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool (B, N, C), or the positions of a map (B, C, H, W)."""
        if tokens.dim() > 3:
            tokens = tokens.flatten(2).transpose(1, 2)
        parts = self.project(tokens).unflatten(2, (2, self.heads, self.width)).permute(2, 0, 3, 1, 4)
        q, k = parts.flatten(1, 2)  # each (B H, N, w)
        matrices = token_covariance(q, k, centre=self.centre)
        return self.dropout(self.norm(matrices).reshape(tokens.shape[0], self.out_dim))
