"""MobileNetV2 (Sandler et al., CVPR 2018) from torchvision's blocks, with widths cut to whole numbers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from backbones.normalisation import IMAGENET_MEAN, IMAGENET_STD

# Stages: expansion, output channels, blocks, stride of the first block.
MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_layers(
    width_mult: float,
    last_channels: int,
    block: Callable[[int, int, int, int, int], nn.Module],
) -> tuple[nn.Sequential, int]:
    """Build the layers up to the last map; returns them and the channels of that map.

    width_mult: factor of all widths, truncated to whole numbers (nothing is rounded to 8).
    last_channels: width of the last 1x1 convolution; only factors above 1 change it.
    block: (channels in, channels out, stride, expansion, stage from 0) -> module.
    Raises ValueError for a factor that leaves no channels. Convolutions start from He's normal numbers, fan out.
    """
    from torchvision.ops import Conv2dNormActivation

    if width_mult <= 0:
        raise ValueError(f"width_mult = {width_mult} leaves no channels")
    fan_in = int(32 * width_mult)
    layers: list[nn.Module] = [Conv2dNormActivation(3, fan_in, stride=2, activation_layer=nn.ReLU6)]
    for stage, (expansion, channels, blocks, stride) in enumerate(MOBILENET_STAGES):
        fan_out = int(channels * width_mult)
        for number in range(blocks):
            layers.append(block(fan_in, fan_out, stride if number == 0 else 1, expansion, stage))
            fan_in = fan_out
    last = int(last_channels * max(1.0, width_mult))
    layers.append(Conv2dNormActivation(fan_in, last, 1, activation_layer=nn.ReLU6))
    features = nn.Sequential(*layers)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return features, last


def _inverted_residual(fan_in: int, fan_out: int, stride: int, expansion: int, stage: int) -> nn.Module:
    from torchvision.models.mobilenetv2 import InvertedResidual

    return InvertedResidual(fan_in, fan_out, stride, expansion)


class MobileNetV2(nn.Module):
    """MobileNetV2 without classifier: (B, 3, H, W) -> (B, 1280, h, w).

    width_mult, last_channels: as in `mobilenet_layers`. input_size: side in pixels; other sizes work.
    State dict: `features.*` with the released names.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, width_mult: float = 1.0, input_size: int = 224, last_channels: int = 1280) -> None:
        super().__init__()
        self.input_size = input_size
        self.features, self.out_channels = mobilenet_layers(width_mult, last_channels, _inverted_residual)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last map."""
        return self.features(x)


def mobilenet_v2(**options) -> MobileNetV2:
    """Build MobileNetV2; options as in `MobileNetV2`."""
    return MobileNetV2(**options)
