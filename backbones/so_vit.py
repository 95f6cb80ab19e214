"""So-ViT and SoT: vision transformers over convolutional tokens, made for second-order heads (Xie et al., 2021)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backbones.normalisation import IMAGENET_MEAN, IMAGENET_STD
from backbones.token_embedding import TokenEmbedding

# Sizes of the published transformers; those of their heads stand in backbones/token_heads.py.
SO_VITS: dict[str, dict[str, Any]] = {
    "so_vit_7": {"dim": 256, "depth": 7, "heads": 4, "mlp_ratio": 2.0},
    "so_vit_10": {"dim": 256, "depth": 10, "heads": 4, "mlp_ratio": 2.0},
    "so_vit_14": {"dim": 384, "depth": 14, "heads": 6, "mlp_ratio": 3.0},
    "so_vit_19": {"dim": 448, "depth": 19, "heads": 7, "mlp_ratio": 3.0},
    "sot_tiny": {"dim": 240, "depth": 12, "heads": 4, "mlp_ratio": 2.5, "tokens": "densenet"},
    "sot_small": {"dim": 384, "depth": 14, "heads": 6, "mlp_ratio": 3.5, "tokens": "densenet"},
    "sot_base": {"dim": 528, "depth": 24, "heads": 8, "mlp_ratio": 3.0, "tokens": "densenet"},
}


def position_table(rows: int, dim: int) -> Tensor:
    """Return the fixed sinusoids (1, rows, dim), float32: sin in even columns, cos in odd ones.

    Column j of row p has the phase p / 10000^(2 floor(j / 2) / dim); row 0 is the class token's.
    """
    columns = torch.arange(dim, dtype=torch.float64)
    phase = torch.arange(rows, dtype=torch.float64)[:, None] / 10000 ** (2 * (columns // 2) / dim)
    return torch.where(columns % 2 == 0, phase.sin(), phase.cos())[None].float()


class SoViT(nn.Module):
    """Transformer over convolutional tokens and a class token: (B, 3, H, W) -> map of visual tokens (B, dim, h, w).

    dim, depth, heads, mlp_ratio: of the transformer; its blocks are pre-norm, without bias on queries, keys and values.
    tokens, stem_channels, large_output: see `backbones.token_embedding.TokenEmbedding`.
    input_size: side in pixels; 224 and 112 are published. Maps of another size than that of the position table take
        its 2-D part resampled, a rule of ours.
    drop_path: stochastic depth, rising linearly to this rate; dropout: in attention output and MLP.

    State dict: `embed.*`, `cls_token`, `pos_embed` (fixed), `blocks.*`, `norm.*`.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        dim: int = 256,
        depth: int = 7,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        tokens: str = "resnet",
        input_size: int = 224,
        stem_channels: int = 64,
        large_output: bool = False,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        self.embed = TokenEmbedding(dim, tokens, input_size, stem_channels, large_output)
        self.grid = -(-input_size // self.embed.stride)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", position_table(1 + self.grid**2, dim))
        self.blocks = nn.ModuleList(
            Block(
                dim,
                heads,
                mlp_ratio,
                qkv_bias=False,
                proj_drop=dropout,
                drop_path=float(rate),
                norm_layer=partial(nn.LayerNorm, eps=1e-5),
            )
            for rate in torch.linspace(0, drop_path, depth, device="cpu")
        )
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.out_channels, self.input_size = dim, input_size
        self._start()

    def _start(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for block in self.blocks:
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def positions(self, height: int, width: int) -> Tensor:
        """Return the table (1, 1 + h w, dim) for a map of that size, resampled where it is not the table's own."""
        from timm.layers import resample_abs_pos_embed

        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        return resample_abs_pos_embed(self.pos_embed, [height, width], [self.grid, self.grid], num_prefix_tokens=1)

    def encode(self, grid: Tensor) -> Tensor:
        """Return the normed tokens (B, 1 + h w, dim), class token first, of an embedded map (B, dim, h, w)."""
        x = torch.cat([self.cls_token.expand(grid.shape[0], -1, -1), grid.flatten(2).transpose(1, 2)], 1)
        x = x + self.positions(*grid.shape[2:])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def token_sequence(self, images: Tensor) -> Tensor:
        """Return all normed tokens of images, (B, 1 + h w, dim), class token first."""
        return self.encode(self.embed(images))

    def forward(self, images: Tensor) -> Tensor:
        """Return the visual tokens as a map (B, dim, h, w)."""
        grid = self.embed(images)
        return self.encode(grid)[:, 1:].transpose(1, 2).unflatten(2, grid.shape[2:])


def _build(name: str, options: dict) -> SoViT:
    return SoViT(**{**SO_VITS[name], **options})


def so_vit_7(**options) -> SoViT:
    """Build the transformer of So-ViT-7; options as in `SoViT`."""
    return _build("so_vit_7", options)


def so_vit_10(**options) -> SoViT:
    """Build the transformer of So-ViT-10; options as in `SoViT`."""
    return _build("so_vit_10", options)


def so_vit_14(**options) -> SoViT:
    """Build the transformer of So-ViT-14; options as in `SoViT`."""
    return _build("so_vit_14", options)


def so_vit_19(**options) -> SoViT:
    """Build the transformer of So-ViT-19; options as in `SoViT`."""
    return _build("so_vit_19", options)


def sot_tiny(**options) -> SoViT:
    """Build the transformer of SoT-Tiny; options as in `SoViT`."""
    return _build("sot_tiny", options)


def sot_small(**options) -> SoViT:
    """Build the transformer of SoT-Small; options as in `SoViT`."""
    return _build("sot_small", options)


def sot_base(**options) -> SoViT:
    """Build the transformer of SoT-Base; options as in `SoViT`."""
    return _build("sot_base", options)
