"""Vision transformers on video clips as VideoMAE builds them (Tong et al., NeurIPS 2022): tubelets, sine positions.

A clip is (B, 3, T, H, W). Its tokens (B, N, C) run over tubelets: time first, then rows, then columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional

from backbones.normalisation import IMAGENET_MEAN, IMAGENET_STD

Grid = tuple[int, int, int]  # tokens along time, rows, columns

# Tokens (B, N, C) and their grid -> tokens: what may run beside the MLP of a block.
Adapter = Callable[[Tensor, Grid], Tensor]


def position_table(n_position: int, dim: int) -> Tensor:
    """Return the fixed sine table (n_position, dim), computed in float64 and rounded to float32.

    Row p, channel j: sin (j even) or cos (j odd) of p / 10000^(2 floor(j / 2) / dim). Positions count the *flattened*
    tokens, so the table of a small clip is the beginning of that of a large one, not the same places of it.
    """
    channel = np.arange(dim)
    angle = np.arange(n_position)[:, None] / np.power(10000.0, 2 * (channel // 2) / dim)
    return torch.from_numpy(np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))).float()


@lru_cache(maxsize=16)
def _table(grid: Grid, dim: int, trained_grid: Grid | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the positions (N, dim) of a grid, cached and shared: do not write to it."""
    with torch.inference_mode(False), torch.no_grad():  # an inference tensor could not be saved for a backward pass
        if trained_grid is None or trained_grid == grid:
            table = position_table(grid[0] * grid[1] * grid[2], dim)
        else:
            table = position_table(trained_grid[0] * trained_grid[1] * trained_grid[2], dim)
            volume = table.T.reshape(1, dim, *trained_grid)
            table = functional.interpolate(volume, size=grid, mode="trilinear").flatten(2)[0].T.contiguous()
        return table.to(device=device, dtype=dtype)


class TubeletEmbed(nn.Module):
    """Linear embedding of tubelets, `tubelet_size` frames of `patch_size` x `patch_size` pixels."""

    def __init__(self, dim: int, patch_size: int = 16, tubelet_size: int = 2, in_channels: int = 3) -> None:
        super().__init__()
        self.size = (tubelet_size, patch_size, patch_size)
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=self.size, stride=self.size)

    def grid(self, clips: Tensor) -> Grid:
        """Return the token grid of clips; raises ValueError when their size is no multiple of a tubelet's."""
        if clips.dim() != 5 or clips.shape[1] != self.proj.in_channels:
            raise ValueError(
                f"clips must be (B, {self.proj.in_channels}, T, H, W) with channels before frames, "
                f"got shape {tuple(clips.shape)}"
            )
        for length, unit, what in zip(clips.shape[2:], self.size, ("frames", "rows", "columns"), strict=True):
            if length % unit or length == 0:
                raise ValueError(f"a clip of {length} {what} can't be cut into tubelets of {unit}: use a multiple")
        t, h, w = (length // unit for length, unit in zip(clips.shape[2:], self.size, strict=True))
        return t, h, w

    def tubes(self, clips: Tensor) -> Tensor:
        """Cut clips into tubelets: (B, C, T, H, W) -> (B, N, C, t, p, p)."""
        grid = self.grid(clips)
        cut = clips.reshape(*clips.shape[:2], *(n for pair in zip(grid, self.size, strict=True) for n in pair))
        return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(1, 3)

    def embed_tubes(self, tubes: Tensor) -> Tensor:
        """Embed tubelets (B, n, C, t, p, p), any of them: (B, n, dim)."""
        return functional.linear(tubes.flatten(2), self.proj.weight.flatten(1), self.proj.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, C, T, H, W) -> tokens (B, N, dim)."""
        self.grid(clips)
        return self.proj(clips).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with a bias on queries and values and none on keys."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} can't be split into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        bias = None
        if self.q_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = functional.linear(x, self.qkv.weight, bias).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block, with room for an adapter beside its MLP.

    drop_path: probability, per clip, that a branch is left out in training; the adapter's draw is its own.
    layer_scale: start value of a learned factor on each branch; None: no factor.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        scaled = layer_scale is not None
        self.gamma_1 = nn.Parameter(torch.full((dim,), layer_scale)) if scaled else None
        self.gamma_2 = nn.Parameter(torch.full((dim,), layer_scale)) if scaled else None

    def forward(self, x: Tensor, grid: Grid | None = None, adapter: Adapter | None = None) -> Tensor:
        """(B, N, C) -> (B, N, C); `adapter(LN2(x), grid)` is added beside the MLP (TAMT)."""
        x = x + self.drop_path(_scale(self.attn(self.norm1(x)), self.gamma_1))
        normed = self.norm2(x)
        out = x + self.drop_path(_scale(self.mlp(normed), self.gamma_2))
        return out if adapter is None else out + self.drop_path(adapter(normed, grid))


def _scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else x * gamma


class VideoViT(nn.Module):
    """Video transformer without class token: clips (B, 3, T, H, W) -> map (B, C, t, h, w) of its last block.

    dim, depth, heads, mlp_ratio: C, number of blocks, attention heads, width of the MLP over C.
    input_size, frames: pixels of a side and frames that the network is usually fed; any multiple of a tubelet works.
    drop_path: rate of the last block; block i has drop_path * i / (depth - 1).
    trained_grid: (t, h, w) tokens of the clips the weights were trained on: positions are then resampled from that
        grid to the clip's. None: positions count the flattened tokens, as published.
    final_norm: LayerNorm after the last block, as the encoder of masked pre-training has.

    Parameters have VideoMAE's names. Blocks of which no parameter requires a gradient run without one.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        patch_size: int = 16,
        tubelet_size: int = 2,
        in_channels: int = 3,
        input_size: int = 112,
        frames: int = 16,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        layer_scale: float | None = None,
        trained_grid: Grid | None = None,
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels, self.heads, self.depth = dim, heads, depth
        self.input_size, self.frames = input_size, frames
        self.trained_grid = tuple(trained_grid) if trained_grid else None
        self.patch_embed = TubeletEmbed(dim, patch_size, tubelet_size, in_channels)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio, qkv_bias, rate, norm_eps, layer_scale) for rate in rates
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if final_norm else None
        self.apply(_init_linear)

    def grid(self, clips: Tensor) -> Grid:
        """Return the token grid (t, h, w) of clips."""
        return self.patch_embed.grid(clips)

    def positions(self, grid: Grid, like: Tensor) -> Tensor:
        """Return the position table (N, C) of a grid, in the dtype and on the device of `like`."""
        # While a program is traced tensors are stand-ins, which must not get into the cache.
        table = _table.__wrapped__ if torch.compiler.is_compiling() else _table
        return table(grid, self.out_channels, self.trained_grid, like.dtype, like.device)

    def embed(self, clips: Tensor) -> Tensor:
        """Clips -> tokens (B, N, C) with their positions, before the first block."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and _needs_gradient(self.patch_embed, clips)):
            tokens = self.patch_embed(clips)
            return tokens + self.positions(self.grid(clips), tokens)

    def run_blocks(
        self,
        tokens: Tensor,
        grid: Grid,
        start: int = 0,
        stop: int | None = None,
        adapters: Mapping[int, Adapter] | None = None,
    ) -> Tensor:
        """Run the blocks start .. stop-1 on tokens (B, N, C); `adapters`: {number of a block: what runs beside it}."""
        for number in range(*slice(start, stop).indices(self.depth)):
            block, adapter = self.blocks[number], (adapters or {}).get(number)
            wanted = adapter is not None or _needs_gradient(block, tokens)
            with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
                tokens = block(tokens, grid, adapter)
        return tokens

    def tokens(self, clips: Tensor) -> Tensor:
        """Clips -> tokens (B, N, C) after the last block (and the final norm, where there is one)."""
        tokens = self.run_blocks(self.embed(clips), self.grid(clips))
        return tokens if self.norm is None else self.norm(tokens)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) -> map (B, C, t, h, w), a view of the tokens."""
        return as_map(self.tokens(clips), self.grid(clips))


def as_map(tokens: Tensor, grid: Grid) -> Tensor:
    """View tokens (B, N, C) as a map (B, C, t, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def as_tokens(video_map: Tensor) -> Tensor:
    """View a map (B, C, t, h, w) as tokens (B, N, C)."""
    return video_map.flatten(2).transpose(1, 2)


def _needs_gradient(module: nn.Module, x: Tensor) -> bool:
    return x.requires_grad or any(parameter.requires_grad for parameter in module.parameters())


def _init_linear(module: nn.Module) -> None:
    """Truncated normal 0.02 for linear layers, zero biases; convolutions keep torch's defaults (VideoMAE)."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
