"""A network in two parts: the layers up to a map inside it, and the rest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from backbones.classifier import ImageClassifier
from backbones.errors import UserError
from backbones.strides import _evaluating

RESNET_STEM = (("conv1", "bn1", "act1", "maxpool"), ("conv1", "bn1", "relu", "maxpool"))

Part = Callable[[Tensor], Tensor]
ADVICE = "use a ResNet (of timm or covey), MobileNetV2, ShuffleNetV2, ResNet-12 or Conv-4"


def ordered_parts(backbone: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the parts of a backbone in the order in which images pass them: name -> modules, one after the other.

    ResNets (timm's, torchvision's, ECA, GSoP): "stem" (convolution, norm, activation, max pool), "layer1" to "layer4".
    MobileNetV2: "stem", "block1", ... ShuffleNetV2: "stem" (with the max pool), "stage2" to "stage4", "conv5".
    covey's own ResNets: "stem", "block1", ... ResNet-12 and Conv-4: their stages, the first of which is the stem.
    Raises UserError for networks that are no such chain.
    """
    body = getattr(backbone, "network", backbone)
    stages = [name for name in ("layer1", "layer2", "layer3", "layer4") if hasattr(body, name)]
    if len(stages) == 4:
        for names in RESNET_STEM:
            if all(hasattr(body, name) for name in names):
                stem = {"stem": [getattr(body, name) for name in names]}
                return {**stem, **{name: [getattr(body, name)] for name in stages}}
        if not hasattr(body, "conv1"):  # ResNet-12
            return {"stem" if n == 0 else name: [getattr(body, name)] for n, name in enumerate(stages)}
    if all(hasattr(body, name) for name in ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5")):
        rest = {name: [getattr(body, name)] for name in ("stage2", "stage3", "stage4", "conv5")}
        return {"stem": [body.conv1, body.maxpool], **rest}
    chain = getattr(body, "features", None) or getattr(body, "blocks", None)
    if isinstance(chain, nn.Sequential) and hasattr(body, "stem"):
        return {"stem": [body.stem], **{f"block{n}": [part] for n, part in enumerate(chain, 1)}}
    if isinstance(chain, nn.Sequential) and body is backbone:
        return {"stem" if n == 0 else f"block{n}": [part] for n, part in enumerate(chain)}
    raise UserError(f"{type(body).__name__} is no chain of stages that could be cut in two: {ADVICE}")


def split(network: ImageClassifier, after: str = "stem") -> tuple[Part, Part]:
    """Cut a classifier in two; returns (stem: images -> map, tail: map -> logits), with the network's own weights.

    after: the last part of the stem, a key of `ordered_parts`.
    Raises UserError for a network that cannot be cut or does more than its parts, and for an unknown part.
    """
    parts = ordered_parts(network.backbone)
    if after not in parts:
        raise UserError(f"this network has no part '{after}': it has {', '.join(parts)}")
    place = list(parts).index(after) + 1
    chain = list(parts.values())
    first, second = ([module for part in some for module in part] for some in (chain[:place], chain[place:]))

    def stem(images: Tensor) -> Tensor:
        for module in first:
            images = module(images)
        return images

    def tail(features: Tensor) -> Tensor:
        for module in second:
            features = module(features)
        return network.classifier(network.dropout(network.pool(features)))

    _check(network, stem, tail)
    return stem, tail


def _check(network: ImageClassifier, stem: Part, tail: Part) -> None:
    """Refuse a network whose parts one after the other are not the whole."""
    weight = next(network.parameters())
    size = network.input_size
    picture = torch.linspace(-1, 1, 3 * size * size, dtype=weight.dtype, device=weight.device).view(1, 3, size, size)
    with _evaluating(network):
        try:
            same = torch.allclose(tail(stem(picture)), network(picture), rtol=1e-3, atol=1e-5)
        except (RuntimeError, NotImplementedError):  # modules of a traced graph have no forward of their own
            same = False
    if not same:
        raise UserError(f"{type(network.backbone).__name__} does more than its stages one after the other: {ADVICE}")
