"""TAMT the plain way, which the bench compares with: written from its description, as networks are commonly written.

Softmax attention over a matrix of all pairs of tokens; every group of parameters that the released files have, whether
it takes part or not; adapters and head in separate steps; covariances by a centring matrix; the square root by the
published iteration, differentiated by autograd. Frozen parameters have no gradient, and blocks in front of the first
adapter keep nothing, since nothing in them needs one. Its tensors have the released names, so that
`video.tamt_layout.to_reference` fills it with the weights of our model.
"""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from backbones.video_vit import position_table


class PlainAttention(nn.Module):
    """Self-attention over all tokens (B, N, C), its matrix (B, heads, N, N) in memory."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        batch, tokens, dim = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = nn.functional.linear(x, self.qkv.weight, bias).reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))


class PlainMlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.fc2(self.act(self.fc1(x)))


class PlainAdapter(nn.Module):
    """The temporal adapter, and the branch `G` that nothing uses."""

    def __init__(self, dim: int, frames: int) -> None:
        super().__init__()
        self.G = nn.Sequential(
            nn.Linear(frames, 2 * frames, bias=False), nn.BatchNorm1d(2 * frames), nn.ReLU(),
            nn.Linear(2 * frames, 3, bias=False),
        )  # fmt: skip
        self.L = nn.Sequential(nn.Conv1d(dim, dim // 4, 3, padding=1, bias=False), nn.BatchNorm1d(dim // 4), nn.ReLU())
        self.L2 = nn.Sequential(nn.Conv1d(dim // 4, dim, 1, bias=False), nn.Sigmoid())
        self.L3 = nn.Sequential(nn.Conv1d(dim // 4, dim, 1, bias=False))

    def forward(self, x: Tensor, frames: int, side: int) -> Tensor:
        """Tokens (B, N, C) -> (B, N, C)."""
        batch, tokens, dim = x.shape
        video = x.transpose(1, 2).reshape(batch, dim, frames, side, side)
        hidden = self.L(video.mean(dim=(3, 4)))
        gamma, beta = self.L2(hidden)[..., None, None], self.L3(hidden)[..., None, None]
        return (video * gamma + 0.1 * beta).reshape(batch, dim, tokens).transpose(1, 2)


class PlainBlock(nn.Module):
    """Transformer block, with what the released blocks hold beside it."""

    def __init__(self, dim: int, heads: int, drop_path: float, frames: int, adapted: bool) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.attn, self.mlp, self.drop_path = PlainAttention(dim, heads), PlainMlp(dim), DropPath(drop_path)
        self.temporal_conv = nn.Conv1d(dim, dim, 3, padding=1, groups=dim)
        self.tam = PlainAdapter(dim, frames) if adapted else None

    def forward(self, x: Tensor, frames: int, side: int) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        out = x + self.drop_path(self.mlp(self.norm2(x)))
        return out if self.tam is None else out + self.drop_path(self.tam(self.norm2(x), frames, side))


class PlainFeature(nn.Module):
    """Embedding, blocks, average and mixed tokens."""

    def __init__(self, dim: int, depth: int, heads: int, patch: int, frames: int, drop_path: float) -> None:
        super().__init__()
        self.frames = frames
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, dim, (2, patch, patch), (2, patch, patch))})
        self.blocks = nn.ModuleList(
            PlainBlock(dim, heads, drop_path * i / (depth - 1), frames, i >= depth - 2) for i in range(depth)
        )
        self.fc_norm, self.fc_norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.temporal_conv = nn.Conv1d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) -> average (B, C), tokens (B, N, C)."""
        x = self.patch_embed["proj"](clips)
        (batch, dim, frames, side), positions = x.shape[:4], side_positions(x)
        x = x.flatten(2).transpose(1, 2)
        x = x + positions.to(x).expand(batch, -1, -1).clone()
        for block in self.blocks:
            x = block(x, frames, side)
        series = x.reshape(batch, frames, side * side, dim).permute(0, 2, 3, 1).reshape(-1, dim, frames)
        mixed = self.temporal_conv(series).reshape(batch, frames * side * side, dim)  # as the released code lays it out
        return self.fc_norm(x.mean(1)), self.fc_norm2(x + mixed)


def side_positions(video_map: Tensor) -> Tensor:
    """Return the sine table of a map (B, C, t, h, w)."""
    return position_table(video_map[0, 0].numel(), video_map.shape[1])[None]


class PlainTamt(nn.Module):
    """Clips (B, 3, T, H, W) -> representations (B, C), of tubelets of two frames and square clips."""

    def __init__(
        self, dim: int = 384, depth: int = 12, heads: int = 6, patch: int = 16, frames: int = 8, groups: int = 4,
        drop_path: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.groups, inner, width, half = groups, dim // 3, dim // 6, max(groups // 2, 1)
        out = max(groups // 4, 1)
        side = width * frames // groups
        self.feature = PlainFeature(dim, depth, heads, patch, frames, drop_path)
        self.head2 = nn.Linear(out * ((side + 1) // 2) ** 2, dim)
        self.layer_reduce1 = nn.Conv2d(dim, inner, 1, bias=False)
        self.layer_reduce2 = nn.Conv2d(inner, width, 1, bias=False)
        self.layer_reduce3 = nn.Conv2d(groups, half, 3, padding=1, bias=False)
        self.layer_reduce4 = nn.Conv2d(half, out, 3, stride=2, padding=1, bias=False)
        self.layer_reduce_bn1, self.layer_reduce_bn2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(width)
        self.layer_reduce_bn3, self.layer_reduce_bn4 = nn.BatchNorm2d(half), nn.BatchNorm2d(out)
        self.relu = nn.ReLU()

    def forward(self, clips: Tensor) -> Tensor:
        """Represent clips."""
        pooled, tokens = self.feature(clips)
        batch, n, dim = tokens.shape
        frames, groups = self.feature.frames, self.groups
        side = int((n // frames) ** 0.5)
        x = tokens.transpose(1, 2).reshape(batch, dim, frames * side, side)
        x = self.relu(self.layer_reduce_bn1(self.layer_reduce1(x)))
        x = self.relu(self.layer_reduce_bn2(self.layer_reduce2(x)))
        x = x.reshape(batch, -1, frames // groups, groups, side, side).permute(0, 3, 1, 2, 4, 5)
        x = plain_root(plain_covariance(x.reshape(batch * groups, -1, side * side)))
        x = x.reshape(batch, groups, *x.shape[1:])
        x = self.relu(self.layer_reduce_bn3(self.layer_reduce3(x)))
        x = self.relu(self.layer_reduce_bn4(self.layer_reduce4(x)))
        return pooled + self.head2(x.reshape(batch, -1))

    def tuned(self) -> PlainTamt:
        """Freeze what the released code freezes: the blocks without their adapters, and the embedding."""
        for name, value in self.named_parameters():
            network = name.startswith(("feature.patch_embed", "feature.blocks"))
            value.requires_grad_(not network or ".tam." in name)
        return self


def plain_covariance(x: Tensor) -> Tensor:
    """(B, d, M) -> (B, d, d), by an M x M centring matrix."""
    batch, _, m = x.shape
    centring = (torch.eye(m, device=x.device) - 1.0 / m).div(m).to(x).expand(batch, -1, -1)
    return x.bmm(centring).bmm(x.transpose(1, 2))


def plain_root(matrix: Tensor, eps: float = 1e-5) -> Tensor:
    """Three coupled Newton-Schulz steps."""
    trace = matrix.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    eye = 3.0 * torch.eye(matrix.shape[1], device=matrix.device, dtype=matrix.dtype).expand_as(matrix)
    a = matrix / (trace + eps)
    z = 0.5 * (eye - a)
    y = a.bmm(z)
    step = 0.5 * (eye - z.bmm(y))
    y, z = y.bmm(step), step.bmm(z)
    return 0.5 * y.bmm(eye - z.bmm(y)) * trace.sqrt()
