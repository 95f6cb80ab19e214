"""Global second-order pooling inside a network: attention from covariances (GSoP, Gao et al., CVPR 2019)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moments.covariance import covariance

ATTENTIONS = ("channel", "position", "fusion_avg", "fusion_max", "fusion_concat")
CENTRES = ("reference", "exact")


def position_covariance(z: Tensor, centre: str = "reference") -> Tensor:
    """Covariances of the positions of maps, over their channels.

    z: (B, D, h, w); the M = h w positions are variables and the D channels their observations.
    centre: "exact" removes every position's mean over the channels and divides by D. "reference" is what the
        published code computes, z_p.z_q / M - (sum z_p)(sum z_q) / M^2: the same where D = M, too much off for D > M.
    Returns (B, M, M) in float32 or better, whatever autocast says around.
    Raises ValueError for an unknown `centre`.
    """
    if centre not in CENTRES:
        raise ValueError(f"centre '{centre}' is unknown: use one of {', '.join(CENTRES)}")
    x = z.flatten(2).transpose(1, 2)
    if centre == "exact":
        return covariance(x)
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        count, total = x.shape[1], x.sum(2, keepdim=True)
        return torch.baddbmm(total @ total.transpose(1, 2), x, x.transpose(1, 2), beta=-(count**-2), alpha=1 / count)


def filter_rows(matrix: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Give every row of matrices a few inner products with vectors of its own.

    matrix: (B, d, d). weight: (m d, 1, d, 1), those of row i at m i ... m i + m - 1, as a grouped convolution has them.
    bias: (m d,). Returns (B, m d, 1, 1).

    One batched product over the rows; as a convolution with d groups it is many times slower.
    """
    d = matrix.shape[1]
    products = torch.bmm(matrix.transpose(0, 1), weight.reshape(d, -1, d).transpose(1, 2))  # (d, B, m)
    out = products.transpose(0, 1).flatten(1)
    return (out if bias is None else out + bias)[:, :, None, None]


def _kaiming(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class ChannelScale(nn.Module):
    """One number in (0, 1) a channel, from the covariances of reduced channels: (B, C, H, W) -> (B, C, 1, 1).

    channels: C. att_dim: d, channels after the reduction. stride: of the reducing 1x1 convolution.
    The input is what comes out of a ReLU. Clips (B, C, T, H, W) are one set of positions: (B, C, 1, 1, 1).
    """

    def __init__(self, channels: int, att_dim: int = 128, stride: int = 1) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, att_dim, 1, stride=stride)
        self.reduce_norm = nn.BatchNorm2d(att_dim)
        self.row_norm = nn.BatchNorm2d(att_dim)
        self.row_conv = nn.Conv2d(att_dim, 4 * att_dim, (att_dim, 1), groups=att_dim)
        self.expand = nn.Conv2d(4 * att_dim, channels, 1)
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scales. Covariances are float32 or better under autocast; a constant map gives finite ones."""
        frames = x.transpose(1, 2).flatten(0, 1) if x.dim() == 5 else x
        z = self.reduce_norm(self.reduce(frames)).relu()
        if x.dim() == 5:
            z = z.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        rows = _normalised_rows(covariance(z), self.row_norm)
        scale = self.expand(filter_rows(rows, self.row_conv.weight, self.row_conv.bias)).sigmoid()
        return scale[..., None] if x.dim() == 5 else scale


def _normalised_rows(matrix: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch norm with one mean and variance a row, over samples and columns; (B, d, d) stays in the norm's dtype."""
    return norm(matrix.to(norm.weight.dtype).unsqueeze(3)).squeeze(3)


class PositionMap(nn.Module):
    """One number in (0, 1) a position, from the covariances of an 8x8 map's positions: (B, C, H, W) -> (B, 1, H, W).

    channels: C. att_dim: channels after the reduction. grid: side of the pooled map whose positions are compared.
    centre: see `position_covariance`; weights belong to one of them.
    The input is what comes out of a ReLU, of any size.
    """

    def __init__(self, channels: int, att_dim: int = 128, grid: int = 8, centre: str = "reference") -> None:
        super().__init__()
        if centre not in CENTRES:
            raise ValueError(f"centre '{centre}' is unknown: use one of {', '.join(CENTRES)}")
        self.grid, self.centre, places = grid, centre, grid * grid
        self.reduce = nn.Conv2d(channels, att_dim, 1)
        self.reduce_norm = nn.BatchNorm2d(att_dim)
        self.row_norm = nn.BatchNorm2d(places)
        self.row_conv = nn.Conv2d(places, 4 * places, (places, 1), groups=places)
        self.expand = nn.Conv2d(4 * places, places, 1)
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, brought to the size of x by averaging overlapping cells, as released."""
        if x.dim() != 4:
            raise ValueError(f"position attention wants (B, C, H, W), got shape {tuple(x.shape)}")
        z = F.adaptive_avg_pool2d(self.reduce_norm(self.reduce(x)), self.grid)
        rows = _normalised_rows(position_covariance(z, self.centre), self.row_norm)
        hidden = filter_rows(rows, self.row_conv.weight, self.row_conv.bias).relu()
        cells = self.expand(hidden).sigmoid().reshape(-1, 1, self.grid, self.grid)
        return F.adaptive_avg_pool2d(cells, x.shape[2:])


class GSoP(nn.Module):
    """Attention of a residual branch, before its sum: u (B, C, H, W) -> channels, positions or both weighted.

    channels: C.
    attention: "channel" scales channels, "position" scales positions after a ReLU; "fusion_avg" adds both,
        "fusion_max" takes the larger, "fusion_concat" joins them by one tall convolution each and a batch norm.
    att_dim: channels that the covariances are taken of.
    stride: of the channel part's reduction; None: 2 up to 256 channels (first stage of a ResNet-50), else 1.
    centre: see `position_covariance`.
    device, dtype: of the weights, as timm hands them to its attention layers.

    Takes maps of any size; "channel" takes clips (B, C, T, H, W) too, whose frames are one set of positions. As timm's
    `attn_layer` it can stand in any block that timm builds.
    Raises ValueError for an unknown attention, and for "fusion_concat" below 64 channels.
    """

    def __init__(
        self,
        channels: int,
        attention: str = "channel",
        att_dim: int = 128,
        stride: int | None = None,
        centre: str = "reference",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if attention not in ATTENTIONS:
            raise ValueError(f"attention '{attention}' is unknown: use one of {', '.join(ATTENTIONS)}")
        self.attention = attention
        stride = stride or (2 if channels <= 256 else 1)
        if attention != "position":
            self.channel = ChannelScale(channels, att_dim, stride)
        if attention != "channel":
            self.position = PositionMap(channels, att_dim, centre=centre)
        if attention == "fusion_concat":
            if channels < 64:
                raise ValueError(f"fusion_concat groups channels by 64: {channels} are too few")
            groups = channels // 64
            size = 2 * int(math.log2(32 / groups)) + 5  # the fewer groups, the taller
            tall = {"kernel_size": (size, 1), "padding": ((size - 1) // 2, 0), "groups": groups}
            self.join_channel = nn.Conv2d(channels, channels, **tall)
            self.join_position = nn.Conv2d(channels, channels, **tall)
            self.join_norm = nn.BatchNorm2d(channels)
            _kaiming(self)
        self.to(device=device, dtype=dtype)

    def forward(self, u: Tensor) -> Tensor:
        """Weight u."""
        active = u.relu()
        if self.attention == "channel":
            return u * self.channel(active)
        # relu(u p) = relu(u) p, as p > 0; a product's result may be overwritten by the sum that follows, a ReLU's not
        weighted = active * self.position(active)
        if self.attention == "position":
            return weighted
        scaled = u * self.channel(active)
        if self.attention == "fusion_avg":
            return scaled + weighted
        if self.attention == "fusion_max":
            return torch.maximum(scaled, weighted)
        return self.join_norm(self.join_channel(scaled) + self.join_position(weighted))
