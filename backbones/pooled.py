"""Any feature-map network with any pooling layer, the published networks of MPN-COV, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from backbones.classifier import ImageClassifier
from backbones.errors import UserError, nearest, unknown_option
from backbones.external import feature_map
from backbones.strides import _evaluating, set_last_stride
from backbones.zoo import create_backbone
from moments import (
    BDC,
    BilinearPool,
    CompactBilinearPool,
    CovariancePool,
    GlobalAveragePool,
    channel_reduction,
    gaussian_pool,
    isqrt_pool,
    mpn_pool,
)


def _average(in_channels: int, reduction: int | Sequence[int] | None = None) -> nn.Module:
    if reduction is None:
        return GlobalAveragePool(in_channels)
    reduce = channel_reduction(in_channels, reduction)
    pool = nn.Sequential(reduce, GlobalAveragePool(reduce[-3].out_channels))
    pool.out_dim = pool[1].out_dim
    return pool


def _bdc(in_channels: int, reduction: int | None = None, **options) -> BDC:
    return BDC(in_channels, reduce_dim=reduction, **options)


# Name -> builder(channels of the map, reduction=..., options).
POOLS: dict[str, Callable[..., nn.Module]] = {
    "gap": _average,
    "covariance": CovariancePool,
    "isqrt": isqrt_pool,
    "mpn": mpn_pool,
    "gaussian": gaussian_pool,
    "bilinear": BilinearPool,
    "compact_bilinear": CompactBilinearPool,
    "bdc": _bdc,
}


def create_pool(name: str, in_channels: int, **options) -> nn.Module:
    """Build a pooling layer of `POOLS`: map (B, C, h, w) -> (B, out_dim).

    Raises UserError for an unknown name, or options that the layer does not take.
    """
    if name not in POOLS:
        raise UserError(f"pooling '{name}' is unknown{nearest(name, POOLS)}")
    try:
        return POOLS[name](in_channels, **options)
    except (TypeError, ValueError) as error:
        reason = unknown_option(POOLS[name], options) or error
        raise UserError(f"pooling '{name}' does not take these options: {reason}") from error


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds for one image: convolutions and all matrix products, no eigen-decompositions."""

    parameters: int
    multiply_adds: int

    def __str__(self) -> str:
        return f"{_short(self.parameters)} parameters, {_short(self.multiply_adds)} multiply-adds"


def _short(count: int) -> str:
    """Return a count in three figures or more: 2,156, 56.93 M, 6.234 G."""
    if count < 1e5:
        return f"{count:,}"
    return f"{count / 1e6:.2f} M" if count < 1e9 else f"{count / 1e9:.3f} G"


@contextmanager
def _unfused() -> Iterator[None]:
    """Let attention run as the matrix products that it is: torch counts none of those inside its fused kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def cost(network: nn.Module, size: int | None = None) -> Cost:
    """Count what a network has and does for one image of `size` pixels (default: its `input_size`)."""
    size = size or network.input_size
    weight = next(network.parameters())
    with _evaluating(network), _unfused(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size, size, dtype=weight.dtype, device=weight.device))
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)


def with_pooling(
    backbone: nn.Module | str,
    pool: str = "isqrt",
    num_classes: int = 1000,
    *,
    last_stride: int | None = None,
    reduction: int | Sequence[int] | None = None,
    dropout: float = 0.0,
    size: int | None = None,
    say: Callable[[str], None] | None = None,
    **options,
) -> ImageClassifier:
    """Put a pooling layer and a linear classifier on a network.

    backbone: a network of `create_backbone`, or its name ("resnet12", "timm:resnet50", "torchvision:vgg16"); a network
        of your own that returns a map is taken through `backbones.external.feature_map`, for pictures of `size`.
    pool: a key of `POOLS`; options are those of that layer (`iterations`, `order`, `groups`, `alpha`, ...).
    last_stride: 1 keeps the last map twice as large, see `set_last_stride`; the network given is changed.
    reduction: width, or widths one after the other, of 1x1 convolutions before the pooling.
    say: receives a few lines: parameters and multiply-adds, beside those of the same network with average pooling.
    size: pixels, for the search of strides and the costs; default: the network's `input_size`.
    Returns an `ImageClassifier`: `features(images)` are the pooled vectors.
    Raises UserError for unknown names, options, or a stride that the network does not allow.
    """
    backbone = create_backbone(backbone) if isinstance(backbone, str) else backbone
    if not hasattr(backbone, "out_channels"):
        if size is None:
            raise UserError(f"{type(backbone).__name__} is none of covey's backbones: give the size of its pictures")
        backbone = feature_map(backbone, size)
    layer = create_pool(pool, backbone.out_channels, reduction=reduction, **options)
    plain = cost(ImageClassifier(backbone, None, num_classes), size) if say else None
    if last_stride is not None:
        set_last_stride(backbone, last_stride, size)
    network = ImageClassifier(backbone, layer, num_classes, dropout)
    if say:
        say(f"{pool}: {cost(network, size)}")
        if last_stride == 1:
            say(f"average pooling, last stride 1: {cost(ImageClassifier(backbone, None, num_classes), size)}")
        say(f"average pooling: {plain}")
    return network


def mpncov_resnet(name: str, num_classes: int = 1000, iterations: int = 5, **options) -> ImageClassifier:
    """Build a ResNet with last stride 1, reduction to 256 channels and iSQRT pooling, as published by MPN-COV.

    name: of a ResNet of timm; options: of `with_pooling`.
    """
    backbone = create_backbone(f"timm:{name}", zero_init_last=False)
    return with_pooling(
        backbone, "isqrt", num_classes, **{"last_stride": 1, "reduction": 256, "iterations": iterations, **options}
    )


def mpncov_resnet50(num_classes: int = 1000, **options) -> ImageClassifier:
    """Build "mpncovresnet50"; options as in `mpncov_resnet`."""
    return mpncov_resnet("resnet50", num_classes, **options)


def mpncov_resnet101(num_classes: int = 1000, **options) -> ImageClassifier:
    """Build "mpncovresnet101"; options as in `mpncov_resnet`."""
    return mpncov_resnet("resnet101", num_classes, **options)


def mpncov_vgg16_bn(num_classes: int = 1000, **options) -> ImageClassifier:
    """Build "mpncovvgg16_bn": no last max pool, 512 -> 256 channels, iSQRT pooling, VGG's three linear layers."""
    pooling = {"last_stride": 1, "reduction": 256, "iterations": 5, **options}
    network = with_pooling("torchvision:vgg16_bn", "isqrt", num_classes, **pooling)
    return with_classifier(network, vgg_classifier(network.pool.out_dim, num_classes))


def vgg_classifier(in_features: int, num_classes: int, width: int = 4096, dropout: float = 0.5) -> nn.Sequential:
    """Build the three linear layers of VGG, with torchvision's names."""
    return nn.Sequential(
        nn.Linear(in_features, width),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(width, num_classes),
    )


def with_classifier(network: ImageClassifier, classifier: nn.Module) -> ImageClassifier:
    """Replace the linear layer of a network; returns the network."""
    network.classifier = classifier
    return network


# Published networks with a pooling layer of their own: name -> builder(num_classes, ...).
POOLED_NETWORKS: dict[str, Callable[..., ImageClassifier]] = {
    "mpncov_resnet50": mpncov_resnet50,
    "mpncov_resnet101": mpncov_resnet101,
    "mpncov_vgg16_bn": mpncov_vgg16_bn,
}
