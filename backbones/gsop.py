"""GSoP-Net: ResNets with second-order attention at the end of their stages (Gao et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from backbones.normalisation import IMAGENET_MEAN, IMAGENET_STD
from backbones.resnet_timm import stages, timm_resnet
from moments.gsop import GSoP


class GSoPResNet(nn.Module):
    """ResNet whose last block of some stages has a `GSoP` attention before its sum: (B, 3, H, W) -> (B, C, h, w).

    depth: 18, 34, 50, 101 or 152 (50 and 101 are published).
    net: 1, attention in all four stages, made for average pooling; 2, in the first three, for covariance pooling.
    attention, att_dim, centre: see `moments.gsop.GSoP`; "none" leaves it out.
    widths: planes of the four stages (bottlenecks give four times as many channels).
    stage4_stride: 1 as published, so that 224 px give 14x14.
    stem_stride: 2 leaves out the max pool of the stem, for small pictures.
    drop_path: stochastic depth.

    State dict: `network.*` with timm's names, the attention as `network.layerL.<last>.se.*`.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        depth: int | Sequence[int],
        net: int = 1,
        attention: str = "channel",
        att_dim: int = 128,
        centre: str = "reference",
        widths: Sequence[int] = (64, 128, 256, 512),
        stage4_stride: int = 1,
        stem_stride: int = 4,
        drop_path: float = 0.0,
        input_size: int = 224,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        if net not in (1, 2):
            raise ValueError(f"GSoP-Net{net} is unknown: net is 1 or 2")
        self.network = timm_resnet(
            depth,
            widths,
            bottleneck=bottleneck,
            stage4_stride=stage4_stride,
            stem_stride=stem_stride,
            drop_path=drop_path,
        )
        for number, channels, blocks in stages(self.network):
            if attention != "none" and not (net == 2 and number == 3):
                stride = 2 if widths[number] <= 64 else 1
                blocks[-1].se = GSoP(channels, attention, att_dim, stride, centre)
        self.out_channels, self.input_size = channels, input_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of stage 4."""
        return self.network.forward_features(x)


def gsop_net1_resnet18(**options) -> GSoPResNet:
    """Build the backbone of GSoP-Net1 on ResNet-18 (not published); options as in `GSoPResNet`."""
    return GSoPResNet(**{"depth": 18, "net": 1, **options})


def gsop_net1_resnet50(**options) -> GSoPResNet:
    """Build the backbone of GSoP-Net1 on ResNet-50; options as in `GSoPResNet`."""
    return GSoPResNet(**{"depth": 50, "net": 1, **options})


def gsop_net1_resnet101(**options) -> GSoPResNet:
    """Build the backbone of GSoP-Net1 on ResNet-101; options as in `GSoPResNet`."""
    return GSoPResNet(**{"depth": 101, "net": 1, **options})


def gsop_net2_resnet18(**options) -> GSoPResNet:
    """Build the backbone of GSoP-Net2 on ResNet-18 (not published); options as in `GSoPResNet`."""
    return GSoPResNet(**{"depth": 18, "net": 2, **options})


def gsop_net2_resnet50(**options) -> GSoPResNet:
    """Build the backbone of GSoP-Net2 on ResNet-50; options as in `GSoPResNet`."""
    return GSoPResNet(**{"depth": 50, "net": 2, **options})


def gsop_net2_resnet101(**options) -> GSoPResNet:
    """Build the backbone of GSoP-Net2 on ResNet-101; options as in `GSoPResNet`."""
    return GSoPResNet(**{"depth": 101, "net": 2, **options})
