"""Plain ResNets in the DeepBDC form: stage 4 keeps its size (224 px -> 14x14), no final pooling."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.normalisation import FEW_SHOT_MEAN, FEW_SHOT_STD


class BasicBlock(nn.Module):
    """conv3x3 - BN - ReLU - conv3x3 - BN, add, ReLU (He et al., CVPR 2016)."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.act = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if fan_in != fan_out or stride != 1:
            conv = nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """conv1x1 - conv3x3 - conv1x1. As released: the 3x3 has a bias and the shortcut no batch norm."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        width = fan_out // 4
        self.conv1 = nn.Conv2d(fan_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, fan_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(fan_out)
        self.act = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if fan_in != fan_out or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        out = self.act(self.bn1(self.conv1(x)))
        out = self.act(self.bn2(self.conv2(out)))
        return self.act(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem of stride 4, then four stages.

    block: `BasicBlock` or `Bottleneck`.
    depths: blocks of the four stages.
    widths: output channels of the four stages.
    stage4_stride: 1 in DeepBDC, 2 in the usual network.
    flatten: end in a 7x7 average pool of stride 7 and flatten (14x14 maps give 4 C values), as the official code does
        by default for all members but ResNet-18. Off here: the true map and channel count serve every head.
    input_size: side in pixels that the network is meant for; other sizes work.

    forward: (B, 3, H, W) -> (B, widths[-1], h, w), or (B, values) with `flatten`.
    """

    mean, std = FEW_SHOT_MEAN, FEW_SHOT_STD

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512),
        stage4_stride: int = 1,
        flatten: bool = False,
        input_size: int = 224,
    ) -> None:
        super().__init__()
        if not len(widths) == len(depths) == 4:
            raise ValueError(f"a ResNet has four stages: got {widths=}, {depths=}")
        self.input_size, self.out_channels = input_size, widths[-1]
        stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1))
        blocks, fan_in = [], 64
        for width, depth, first_stride in zip(widths, depths, (1, 2, 2, stage4_stride), strict=True):
            for index in range(depth):
                blocks.append(block(fan_in, width, first_stride if index == 0 else 1))
                fan_in = width
        self.blocks = nn.Sequential(*blocks)
        self.flatten = nn.Sequential(nn.AvgPool2d(7), nn.Flatten()) if flatten else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map (or the flattened vector)."""
        return self.flatten(self.blocks(self.stem(x)))


BOTTLENECK_WIDTHS = (256, 512, 1024, 2048)


def resnet10(**options) -> ResNet:
    """Build ResNet-10 (1-1-1-1 basic blocks); options as in `ResNet`."""
    return ResNet(BasicBlock, (1, 1, 1, 1), **options)


def resnet18(**options) -> ResNet:
    """Build ResNet-18 (2-2-2-2 basic blocks); options as in `ResNet`."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


def resnet34(**options) -> ResNet:
    """Build ResNet-34 (3-4-6-3 basic blocks); options as in `ResNet`."""
    return ResNet(BasicBlock, (3, 4, 6, 3), **options)


def resnet50(**options) -> ResNet:
    """Build ResNet-50 (3-4-6-3 bottlenecks); options as in `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **{"widths": BOTTLENECK_WIDTHS, **options})


def resnet101(**options) -> ResNet:
    """Build ResNet-101 (3-4-23-3 bottlenecks); options as in `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **{"widths": BOTTLENECK_WIDTHS, **options})
