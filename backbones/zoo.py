"""The table of backbones: name -> builder."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable

from torch import nn

from backbones.conv4 import conv4
from backbones.eca import (
    eca_mobilenet_v2,
    eca_resnet18,
    eca_resnet34,
    eca_resnet50,
    eca_resnet101,
    eca_resnet152,
)
from backbones.errors import UserError, nearest, unknown_option
from backbones.external import timm_backbone, torchvision_backbone
from backbones.gsop import (
    gsop_net1_resnet18,
    gsop_net1_resnet50,
    gsop_net1_resnet101,
    gsop_net2_resnet18,
    gsop_net2_resnet50,
    gsop_net2_resnet101,
)
from backbones.mobilenet import mobilenet_v2
from backbones.resnet import resnet10, resnet18, resnet34, resnet50, resnet101
from backbones.resnet12 import resnet12, resnet34s
from backbones.shufflenet import (
    shufflenet_v2_x0_5,
    shufflenet_v2_x1_0,
    shufflenet_v2_x1_5,
    shufflenet_v2_x2_0,
)
from backbones.so_vit import so_vit_7, so_vit_10, so_vit_14, so_vit_19, sot_base, sot_small, sot_tiny
from backbones.strides import set_last_stride

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "conv4": conv4,
    "resnet12": resnet12,
    "resnet34s": resnet34s,
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "eca_resnet18": eca_resnet18,
    "eca_resnet34": eca_resnet34,
    "eca_resnet50": eca_resnet50,
    "eca_resnet101": eca_resnet101,
    "eca_resnet152": eca_resnet152,
    "eca_mobilenet_v2": eca_mobilenet_v2,
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v2_x0_5": shufflenet_v2_x0_5,
    "shufflenet_v2_x1_0": shufflenet_v2_x1_0,
    "shufflenet_v2_x1_5": shufflenet_v2_x1_5,
    "shufflenet_v2_x2_0": shufflenet_v2_x2_0,
    "gsop_net1_resnet18": gsop_net1_resnet18,
    "gsop_net1_resnet50": gsop_net1_resnet50,
    "gsop_net1_resnet101": gsop_net1_resnet101,
    "gsop_net2_resnet18": gsop_net2_resnet18,
    "gsop_net2_resnet50": gsop_net2_resnet50,
    "gsop_net2_resnet101": gsop_net2_resnet101,
    "so_vit_7": so_vit_7,
    "so_vit_10": so_vit_10,
    "so_vit_14": so_vit_14,
    "so_vit_19": so_vit_19,
    "sot_tiny": sot_tiny,
    "sot_small": sot_small,
    "sot_base": sot_base,
}


def network_backbone(name: str, **options) -> nn.Module:
    """Build the backbone of a published network, a name of `create_network`, with the strides that it has there."""
    from backbones.networks import create_network  # which is built on this file

    return create_network(name, 1, **options).backbone


LIBRARIES: dict[str, Callable[..., nn.Module]] = {
    "timm": timm_backbone,
    "torchvision": torchvision_backbone,
    "network": network_backbone,
}


def list_backbones(pattern: str = "*") -> list[str]:
    """Return the names of covey's own backbones that match a shell pattern."""
    return fnmatch.filter(BACKBONES, pattern)


def create_backbone(name: str, **options) -> nn.Module:
    """Build a backbone: (B, 3, H, W) -> (B, out_channels, h, w), with attributes `mean`, `std` and `input_size`.

    name: a key of `BACKBONES`, `timm:NAME` or `torchvision:NAME` for any model of those libraries, or `network:NAME`
        for the backbone of a published network (`backbones.NETWORKS`).
    options: arguments of the builder. `last_stride`, of every backbone: 1 keeps the last map twice as large, see
        `backbones.strides.set_last_stride`.
    Raises UserError for an unknown name or option.
    """
    last_stride = None if name.startswith("network:") else options.pop("last_stride", None)
    if last_stride is not None:
        return set_last_stride(create_backbone(name, **options), last_stride)
    library, _, model = name.partition(":")
    if not (model and library in LIBRARIES) and name not in BACKBONES:
        raise UserError(f"backbone '{name}' is unknown{nearest(name, [*BACKBONES, 'timm:resnet50'])}")
    try:
        return LIBRARIES[library](model, **options) if model else BACKBONES[name](**options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        reason = unknown_option(BACKBONES[name], options) if not model else ""
        raise UserError(f"backbone '{name}' does not take these options: {reason or error}") from error


def freeze(module: nn.Module) -> nn.Module:
    """Stop training of a module: no gradients, eval mode. Returns the module."""
    return module.requires_grad_(False).eval()
