"""Whole published classification networks, backbone, pooling or token head, and classifier: name -> builder."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from backbones.classifier import ImageClassifier
from backbones.errors import UserError, nearest
from backbones.gcp import NAMES as GCP_NAMES
from backbones.gcp import study_network
from backbones.gsop import GSoPResNet
from backbones.pooled import POOLED_NETWORKS
from backbones.so_vit import SO_VITS
from backbones.token_heads import create_so_vit
from backbones.zoo import create_backbone, list_backbones
from moments import isqrt_pool


def _eca(name: str, num_classes: int, **options) -> ImageClassifier:
    mobile = name == "eca_mobilenet_v2"
    model = ImageClassifier(create_backbone(name, **options), None, num_classes, dropout=0.25 if mobile else 0.0)
    if mobile:
        nn.init.normal_(model.classifier.weight, std=0.01)
        nn.init.zeros_(model.classifier.bias)
    return model


def _gsop(name: str, num_classes: int, **options) -> ImageClassifier:
    """Net1: average pooling. Net2: 256 channels, iSQRT of three steps, triangles column by column."""
    backbone: GSoPResNet = create_backbone(name, **options)
    second = name.startswith("gsop_net2")
    pool = isqrt_pool(backbone.out_channels, 3, reduction=256, order="column") if second else None
    return ImageClassifier(backbone, pool, num_classes)


def _pooled(name: str, num_classes: int, **options) -> ImageClassifier:
    """MPN-COV: last stride 1, 256 channels, iSQRT of five steps; options of `with_pooling`."""
    return POOLED_NETWORKS[name](num_classes, **options)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **dict.fromkeys(list_backbones("eca_*"), _eca),
    **dict.fromkeys(list_backbones("gsop_*"), _gsop),
    **dict.fromkeys(POOLED_NETWORKS, _pooled),
    **dict.fromkeys(GCP_NAMES, study_network),
    **dict.fromkeys(SO_VITS, create_so_vit),
}


def create_network(name: str, num_classes: int = 1000, **options) -> nn.Module:
    """Build a published network: images (B, 3, H, W) -> logits (B, num_classes).

    name: a key of `NETWORKS`.
    options: of its backbone; So-ViT and SoT take `head`, options of their head, too; MPN-COV those of `with_pooling`;
        the networks of the study those of `study_network`.
    Raises UserError for an unknown name or option.
    """
    if name not in NETWORKS:
        raise UserError(f"network '{name}' is unknown{nearest(name, NETWORKS)}")
    try:
        return NETWORKS[name](name, num_classes, **options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"network '{name}' does not take these options: {error}") from error
