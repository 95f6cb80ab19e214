"""Classification heads over tokens: those of So-ViT and SoT, for them and for any other network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from backbones.errors import UserError, nearest
from backbones.external import FeatureMap
from backbones.so_vit import SO_VITS
from backbones.zoo import create_backbone
from moments.cross_covariance import CrossCovariance, MultiHeadCovariance
from moments.svpn import SVPN

FUSIONS = ("sum_fc", "concat", "aggre_all", "sum_loss")
REPRESENTATIONS = ("second-order", "first-order")
# Heads of the published networks.
HEADS: dict[str, dict[str, Any]] = {
    "so_vit_7": {"dims": (48, 24)},
    "so_vit_10": {"dims": (48, 24)},
    "so_vit_14": {"dims": (64, 48), "dropout": 0.5},
    "so_vit_19": {"dims": (96, 48), "dropout": 0.5},
    "sot_tiny": {"heads": 6, "width": 14},
    "sot_small": {"heads": 6, "width": 24, "dropout": 0.5},
    "sot_base": {"heads": 6, "width": 38, "dropout": 0.7},
}


def _linear(fan_in: int, fan_out: int) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


class SoViTHead(nn.Module):
    """Logits of the class token plus logits of the visual tokens' normalised cross-covariance (So-ViT).

    dim: C. dims, centred: see `CrossCovariance`. alpha, iterations, singular_values: see `svpn`.
    dropout: on the vector.
    representation: "first-order" takes the mean of the visual tokens instead.

    forward: tokens (B, 1 + N, C), class token first -> (B, num_classes).
    """

    class_token = True

    def __init__(
        self,
        dim: int,
        num_classes: int,
        representation: str = "second-order",
        dims: tuple[int, ...] | None = (48, 24),
        centred: bool = True,
        alpha: float = 0.5,
        iterations: int = 1,
        singular_values: int | None = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if representation not in REPRESENTATIONS:
            raise ValueError(f"representation '{representation}' is unknown: use {' or '.join(REPRESENTATIONS)}")
        self.second_order, width = representation == "second-order", dim
        if self.second_order:
            self.representation = CrossCovariance(dim, dims, centred=centred)
            rows, columns = self.representation.out_shape
            self.normalization = SVPN(rows, alpha=alpha, iterations=iterations, singular_values=singular_values)
            width = rows * columns
        self.dropout = nn.Dropout(dropout)
        self.visual_fc, self.cls_fc = _linear(width, num_classes), _linear(dim, num_classes)

    def pool(self, visual: Tensor) -> Tensor:
        """Return the vector of visual tokens (B, N, C), before dropout."""
        if not self.second_order:
            return visual.mean(1)
        return self.normalization(self.representation(visual.transpose(1, 2).unsqueeze(3)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        return self.visual_fc(self.dropout(self.pool(tokens[:, 1:]))) + self.cls_fc(tokens[:, 0])


class SoTHead(nn.Module):
    """Logits from multi-head covariances of the visual tokens and from the class token (SoT).

    dim: C. heads, width, norm, dropout, centre, options: see `MultiHeadCovariance`.
    class_token: False for tokens without one: logits of the pooled vector alone.
    fusion: "sum_fc" adds the logits of both; "concat" joins class token and vector in front of one layer; "aggre_all"
        pools all tokens, the class token too; "sum_loss" returns both logits, (vector's, class token's).

    forward: tokens (B, 1 + N, C), class token first, or (B, N, C) without -> (B, num_classes).
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        class_token: bool = True,
        fusion: str = "sum_fc",
        heads: int = 6,
        width: int = 14,
        norm: str = "svpn",
        dropout: float = 0.0,
        centre: str = "reference",
        **options,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion '{fusion}' is unknown: use one of {', '.join(FUSIONS)}")
        self.class_token, self.fusion = class_token, fusion
        self.representation = MultiHeadCovariance(dim, heads, width, norm, dropout, centre, **options)
        joined = self.representation.out_dim + (dim if class_token and fusion == "concat" else 0)
        self.visual_fc = _linear(joined, num_classes)
        nn.init.trunc_normal_(self.representation.project.weight, std=0.02)
        if class_token:  # as published also where the fusion does not use it, so that files fit
            self.cls_fc = _linear(dim, num_classes)
            self.cls_fc.requires_grad_(fusion in ("sum_fc", "sum_loss"))

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits (two of them with "sum_loss")."""
        if not self.class_token or self.fusion == "aggre_all":
            return self.visual_fc(self.representation(tokens))
        first, vector = tokens[:, 0], self.representation(tokens[:, 1:])
        if self.fusion == "concat":
            return self.visual_fc(torch.cat([first, vector], 1))
        visual, own = self.visual_fc(vector), self.cls_fc(first)
        return (visual, own) if self.fusion == "sum_loss" else visual + own


class TokenClassifier(nn.Module):
    """A backbone and a head over its tokens: images (B, 3, H, W) -> logits.

    backbone: a `SoViT`, any transformer from `create_backbone("timm:...")`, or any backbone with a map, whose positions
        are then the tokens (no class token).
    head: `SoViTHead`, `SoTHead` or a module with their `class_token` attribute and signature.
    Raises UserError for a head that wants a class token where the backbone has none.

    State dict: `backbone.*`, `head.*`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.mean, self.std, self.input_size = backbone.mean, backbone.std, backbone.input_size
        wrapped = isinstance(backbone, FeatureMap) and backbone.prefix_tokens > 0
        self.prefix = backbone.prefix_tokens if wrapped and backbone.features == "forward_features" else 0
        if head.class_token and not self.prefix and not hasattr(backbone, "token_sequence"):
            raise UserError(
                "the head wants a class token and the backbone has none: build the head with class_token=False"
            )

    def tokens(self, images: Tensor) -> Tensor:
        """Return what the head takes: (B, 1 + N, C) with the class token first, or (B, N, C)."""
        if hasattr(self.backbone, "token_sequence"):
            sequence, prefix = self.backbone.token_sequence(images), 1
        elif self.prefix:
            sequence, prefix = self.backbone.network.forward_features(images), self.prefix
        else:
            return self.backbone(images).flatten(2).transpose(1, 2)
        visual = sequence[:, prefix:]  # register tokens are neither
        return torch.cat([sequence[:, :1], visual], 1) if self.head.class_token else visual

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.tokens(images))


def create_so_vit(name: str, num_classes: int = 1000, head: dict | None = None, **options) -> TokenClassifier:
    """Build a published So-ViT or SoT, backbone and head.

    name: a key of `SO_VITS`. head: options of `SoViTHead` or `SoTHead` beside the published ones.
    options: of `SoViT`.
    Raises UserError for an unknown name or option.
    """
    if name not in SO_VITS:
        raise UserError(f"network '{name}' is unknown{nearest(name, SO_VITS)}")
    backbone = create_backbone(name, **options)
    kind = SoViTHead if name.startswith("so_vit") else SoTHead
    try:
        return TokenClassifier(backbone, kind(backbone.out_channels, num_classes, **{**HEADS[name], **(head or {})}))
    except (TypeError, ValueError) as error:
        raise UserError(f"the head of '{name}' does not take these options: {error}") from error
