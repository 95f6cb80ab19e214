"""ShuffleNetV2 (Ma et al., ECCV 2018): torchvision's network without its classifier."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.normalisation import IMAGENET_MEAN, IMAGENET_STD

# Factor -> channels after the stem, of the three stages and of the last map.
SHUFFLENET_CHANNELS = {
    "x0_5": (24, 48, 96, 192, 1024),
    "x1_0": (24, 116, 232, 464, 1024),
    "x1_5": (24, 176, 352, 704, 1024),
    "x2_0": (24, 244, 488, 976, 2048),
}


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 without classifier: (B, 3, H, W) -> (B, channels[-1], h, w).

    channels: after the stem, of the three stages, and of the last map. repeats: blocks of the stages.
    input_size: side in pixels that the network is meant for; other sizes work.
    State dict: `network.*` with torchvision's names; weights start as the framework draws them.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        channels: tuple[int, ...] = SHUFFLENET_CHANNELS["x1_0"],
        repeats: tuple[int, ...] = (4, 8, 4),
        input_size: int = 224,
    ) -> None:
        from torchvision.models import ShuffleNetV2 as Torchvision

        super().__init__()
        self.network = Torchvision(list(repeats), list(channels))
        self.network.fc = nn.Identity()
        self.out_channels, self.input_size = channels[-1], input_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the last map."""
        net = self.network
        return net.conv5(net.stage4(net.stage3(net.stage2(net.maxpool(net.conv1(x))))))


def shufflenet_v2_x0_5(**options) -> ShuffleNetV2:
    """Build ShuffleNetV2 of half the width; options as in `ShuffleNetV2`."""
    return ShuffleNetV2(**{"channels": SHUFFLENET_CHANNELS["x0_5"], **options})


def shufflenet_v2_x1_0(**options) -> ShuffleNetV2:
    """Build ShuffleNetV2; options as in `ShuffleNetV2`."""
    return ShuffleNetV2(**{"channels": SHUFFLENET_CHANNELS["x1_0"], **options})


def shufflenet_v2_x1_5(**options) -> ShuffleNetV2:
    """Build ShuffleNetV2 of 1.5 times the width; options as in `ShuffleNetV2`."""
    return ShuffleNetV2(**{"channels": SHUFFLENET_CHANNELS["x1_5"], **options})


def shufflenet_v2_x2_0(**options) -> ShuffleNetV2:
    """Build ShuffleNetV2 of twice the width; options as in `ShuffleNetV2`."""
    return ShuffleNetV2(**{"channels": SHUFFLENET_CHANNELS["x2_0"], **options})
