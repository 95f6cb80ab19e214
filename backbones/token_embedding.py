"""Convolutional token embeddings of So-ViT and SoT: a stem, three stages, a 1x1 convolution to the width of tokens.

Batch norm inside stages has other constants than torch's: these are the published ones.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from backbones.errors import UserError


class DenseLayer(nn.Module):
    """ReLU, 1x1 convolution, ReLU, 3x3 convolution of all that came before; there is no batch norm (as published)."""

    def __init__(self, fan_in: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, bottleneck * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + growth, H, W)."""
        return torch.cat([x, self.conv2(self.conv1(x.relu()).relu())], 1)


def dense_block(fan_in: int, layers: int = 6, growth: int = 16, bottleneck: int = 2) -> nn.Sequential:
    """Build `layers` dense layers; the map gains `growth` channels with each."""
    parts = [(f"denselayer{n + 1}", DenseLayer(fan_in + n * growth, growth, bottleneck)) for n in range(layers)]
    return nn.Sequential(OrderedDict(parts))


def dense_transition(fan_in: int, fan_out: int, pool: bool) -> nn.Sequential:
    """Build batch norm, 1x1 convolution and 2x2 average pooling."""
    parts = [("norm", nn.BatchNorm2d(fan_in)), ("conv", nn.Conv2d(fan_in, fan_out, 1, bias=False))]
    return nn.Sequential(OrderedDict([*parts, ("pool", nn.AvgPool2d(2))] if pool else parts))


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm (eps 1e-3), ReLU."""

    def __init__(self, fan_in: int, fan_out: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, size, stride, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(fan_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, fan_out, H / stride, W / stride)."""
        return self.bn(self.conv(x)).relu()


class InceptionBlock(nn.Module):
    """Four branches side by side, 32 + 64 + 16 + 16 = 128 channels."""

    def __init__(self, fan_in: int, stride: int) -> None:
        super().__init__()
        self.branch0 = ConvNorm(fan_in, 32, 1, stride)
        self.branch1 = nn.Sequential(ConvNorm(fan_in, 32, 1), ConvNorm(32, 64, 3, stride))
        self.branch2 = nn.Sequential(ConvNorm(fan_in, 16, 1), ConvNorm(16, 16, 5, stride))
        self.branch3 = nn.Sequential(nn.MaxPool2d(3, stride, padding=1), ConvNorm(fan_in, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 128, H / stride, W / stride)."""
        return torch.cat([branch(x) for branch in (self.branch0, self.branch1, self.branch2, self.branch3)], 1)


class _Contiguous(torch.autograd.Function):
    """Identity whose gradient is laid out afresh."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.contiguous()


class NonLocal(nn.Module):
    """Attention between all positions, its weights not scaled, with a projected shortcut and a last batch norm.

    Torch's batch norm on the CPU returns a wrong gradient for a batch of one whose incoming gradient is a transposed
    view (2.14), as that of a product of matrices is; so these are laid out afresh. `exact` False leaves torch as it is:
    the recorded gradients of the published code have this defect.
    """

    exact = True

    def __init__(self, fan_in: int, fan_out: int, inner: int = 64) -> None:
        super().__init__()

        def project(width: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(fan_in, width, 1), nn.BatchNorm2d(width))

        self.theta, self.phi, self.g, self.shortcut = project(inner), project(inner), project(inner), project(fan_out)
        self.W = nn.Conv2d(inner, fan_out, 1)
        nn.init.zeros_(self.W.weight)
        nn.init.zeros_(self.W.bias)
        self.bn_norm = nn.BatchNorm2d(fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, fan_out, H, W)."""
        parts = (part(x) for part in (self.theta, self.phi, self.g))
        query, key, value = ((_Contiguous.apply(part) if self.exact else part).flatten(2) for part in parts)
        weights = (query.transpose(1, 2) @ key).softmax(2)  # over the keys
        mixed = (weights @ value.transpose(1, 2)).transpose(1, 2).contiguous().unflatten(2, x.shape[2:])
        return self.bn_norm(self.W(mixed) + self.shortcut(x))


def _resnet(fan_in: int, strides: tuple[int, ...]) -> nn.Sequential:
    from timm.models.resnet import Bottleneck

    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    blocks = []
    for stride in strides:
        shortcut = None
        if stride != 1 or fan_in != 256:
            conv = nn.Conv2d(fan_in, 256, 1, stride=stride, bias=False)
            shortcut = nn.Sequential(conv, nn.BatchNorm2d(256))
        blocks.append(Bottleneck(fan_in, 64, stride, shortcut, norm_layer=norm))
        fan_in = 256
    return nn.Sequential(*blocks)


def _densenet(fan_in: int, pools: tuple[bool, ...]) -> nn.Sequential:
    stages = []
    for pool in pools:
        stages += [dense_block(fan_in), dense_transition(fan_in + 96, 128, pool)]
        fan_in = 128
    return nn.Sequential(*stages)


def _inception(fan_in: int, strides: tuple[int, ...]) -> nn.Sequential:
    widths = (fan_in, 128, 128)
    return nn.Sequential(*(InceptionBlock(width, stride) for width, stride in zip(widths, strides, strict=True)))


def _non_local(fan_in: int) -> nn.Sequential:
    stages = []
    for width, fan_out in ((fan_in, 128), (128, 256)):
        stages += [nn.Conv2d(width, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64, eps=1e-3, momentum=0.01)]
        stages += [nn.ReLU(inplace=True), NonLocal(64, fan_out)]
    return nn.Sequential(*stages)


KINDS = ("resnet", "densenet", "inception", "nonlocal")


class TokenEmbedding(nn.Module):
    """Turn images (B, 3, H, W) into a map of tokens (B, dim, h, w).

    dim: width of a token.
    kind: "resnet" (So-ViT), "densenet" (SoT), "inception" or "nonlocal" (total stride 8 at any size).
    input_size: side in pixels that it is built for: below 224 the last stage does not reduce, so that 112 and 224 both
        give 14x14. Published for these two alone; the rule for others is ours.
    stem_channels: width of the stem.
    large_output: only the first stage reduces ("densenet", 56x56 at 224), or none ("inception").
    Attribute `stride`: of the whole embedding.

    State dict: `stem.0.*`, `stage.*`, `transition.*`, as released.
    """

    def __init__(
        self,
        dim: int,
        kind: str = "resnet",
        input_size: int = 224,
        stem_channels: int = 64,
        large_output: bool = False,
    ) -> None:
        super().__init__()
        self.kind = kind
        if kind not in KINDS:
            raise ValueError(f"token embedding '{kind}' is unknown: use one of {', '.join(KINDS)}")
        if large_output and kind not in ("densenet", "inception"):
            raise ValueError(f"token embedding '{kind}' has no large output: use densenet or inception")
        last = 2 if input_size >= 224 else 1
        self.stem = nn.Sequential(nn.Conv2d(3, stem_channels, 3, padding=1), nn.MaxPool2d(3, 2, padding=1))
        if kind == "nonlocal":
            self.stride, self.stage = 8, _non_local(stem_channels)
        elif kind == "densenet":
            pools = (True, not large_output, last == 2 and not large_output)
            self.stride, self.stage = 2 ** (1 + sum(pools)), _densenet(stem_channels, pools)
        else:
            strides = (1, 1, 1) if large_output else (2, 2, last)
            self.stride = 2 if large_output else 8 * last
            self.stage = {"resnet": _resnet, "inception": _inception}[kind](stem_channels, strides)
        self.transition = nn.Conv2d(256 if kind in ("resnet", "nonlocal") else 128, dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the map of tokens.

        Raises UserError for images that dense transitions would leave nothing of.
        """
        if self.kind == "densenet" and min(images.shape[2:]) < self.stride:
            raise UserError(
                f"images of {images.shape[2]}x{images.shape[3]} px are smaller than the stride {self.stride} of the "
                "token embedding: enlarge them"
            )
        return self.transition(self.stage(self.stem(images)))
