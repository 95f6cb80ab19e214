"""ResNet-12 of few-shot learning, in the DeepBDC form (stage 4 keeps its size), and its deeper sibling ResNet-34s."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.dropblock import DropBlock
from backbones.normalisation import FEW_SHOT_MEAN, FEW_SHOT_STD

SLOPE = 0.1  # of every LeakyReLU


class SqueezeExcitation(nn.Module):
    """Channel gate: spatial mean, bottleneck of a quarter, sigmoid (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = channels // reduction
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel of x (B, C, H, W)."""
        return x * self.fc(x.mean(dim=(2, 3)))[:, :, None, None]


def _conv3x3(fan_in: int, fan_out: int) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, kernel_size=3, padding=1, bias=False)


class Block(nn.Module):
    """Three 3x3 convolutions and a shortcut; the map shrinks in the max-pool after the addition."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, se: bool, drop: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(fan_in, fan_out), nn.BatchNorm2d(fan_out)
        self.conv2, self.bn2 = _conv3x3(fan_out, fan_out), nn.BatchNorm2d(fan_out)
        self.conv3, self.bn3 = _conv3x3(fan_out, fan_out), nn.BatchNorm2d(fan_out)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)
        self.se = SqueezeExcitation(fan_out) if se else nn.Identity()
        self.downsample = nn.Identity()
        if fan_in != fan_out:
            self.downsample = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, bias=False), nn.BatchNorm2d(fan_out))
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H // stride, W // stride)."""
        out = self.act(self.bn1(self.conv1(x)))
        out = self.act(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        return self.drop(self.pool(self.act(out + self.downsample(x))))


class ResNet12(nn.Module):
    """Four stages of `Block`s: 84 px -> 640 x 10 x 10.

    widths: channels of the four stages.
    strides: max-pool of the four stages. DeepBDC keeps the map in stage 4 (2, 2, 2, 1); most other few-shot work
        halves it there too (2, 2, 2, 2), which gives 5x5 for 84 px.
    depths: blocks of the four stages; the first block of a stage changes width and size.
    se: squeeze-excitation in every block.
    drop_rate: dropout after stages 1-2 and DropBlock after stages 3-4; 0 in all published runs.
    block_size: DropBlock's square, in cells.
    drop_ramp, drop_count_eval: DropBlock's `ramp_steps` and `count_eval`. The official code counts calls in eval mode
        too, which lets validation speed up the ramp; here only training does.
    input_size: side in pixels that the network is meant for; other sizes work.

    forward: (B, 3, H, W) -> (B, widths[-1], h, w).
    """

    mean, std = FEW_SHOT_MEAN, FEW_SHOT_STD

    def __init__(
        self,
        widths: tuple[int, ...] = (64, 160, 320, 640),
        strides: tuple[int, ...] = (2, 2, 2, 1),
        depths: tuple[int, ...] = (1, 1, 1, 1),
        se: bool = False,
        drop_rate: float = 0.0,
        block_size: int = 5,
        drop_ramp: int = 40_000,
        drop_count_eval: bool = False,
        input_size: int = 84,
    ) -> None:
        super().__init__()
        if not len(widths) == len(strides) == len(depths) == 4:
            raise ValueError(f"ResNet-12 has four stages: got {widths=}, {strides=}, {depths=}")
        self.input_size, self.out_channels = input_size, widths[-1]
        fan_in = 3
        for stage, (width, stride, depth) in enumerate(zip(widths, strides, depths, strict=True)):
            blocks = []
            for index in range(depth):
                drop: nn.Module = nn.Identity()
                if drop_rate > 0 and stage < 2:
                    drop = nn.Dropout(drop_rate)
                elif drop_rate > 0:
                    drop = DropBlock(drop_rate, block_size, drop_ramp, drop_count_eval)
                blocks.append(Block(fan_in, width, stride if index == 0 else 1, se, drop))
                fan_in = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map."""
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def resnet12(**options) -> ResNet12:
    """Build ResNet-12; options as in `ResNet12`."""
    return ResNet12(**options)


def resnet34s(**options) -> ResNet12:
    """Build ResNet-34s: the blocks of ResNet-12, 2-3-4-2 per stage."""
    return ResNet12(**{"depths": (2, 3, 4, 2), **options})
