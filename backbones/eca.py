"""ECA-Net: ResNets and MobileNetV2 with efficient channel attention in every block (Wang et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from backbones.mobilenet import MOBILENET_STAGES, mobilenet_layers
from backbones.normalisation import IMAGENET_MEAN, IMAGENET_STD
from backbones.resnet_timm import stages, timm_resnet
from moments.eca import eca_kernel_size

# Filter length of every stage in the released checkpoints: tuned by hand, not the formula.
KERNELS: dict[int, tuple[int, int, int, int]] = {
    18: (3, 5, 7, 7),
    34: (3, 3, 5, 7),
    50: (3, 5, 5, 7),
    101: (3, 3, 5, 7),
    152: (3, 3, 5, 7),
}
FORMULA = "formula"


def stage_kernels(k_size: int | str | Sequence[int], channels: Sequence[int]) -> list[int]:
    """Return one filter length a stage from one number, one a stage, or "formula" (of the output channels).

    Raises ValueError for even lengths or another number of stages.
    """
    if isinstance(k_size, str):
        if k_size != FORMULA:
            raise ValueError(f"k_size '{k_size}' is unknown: give odd numbers, or '{FORMULA}'")
        return [eca_kernel_size(c) for c in channels]
    kernels = [k_size] * len(channels) if isinstance(k_size, int) else list(k_size)
    if len(kernels) != len(channels):
        raise ValueError(f"{len(kernels)} filter lengths {tuple(kernels)} for {len(channels)} stages")
    if any(k < 1 or k % 2 == 0 for k in kernels):
        raise ValueError(f"ECA filters have odd lengths, got k_size = {tuple(kernels)}")
    return kernels


class ECAResNet(nn.Module):
    """ResNet with an ECA module after the last batch norm of every block, before the sum: (B, 3, H, W) -> (B, C, h, w).

    depth: 18, 34, 50, 101 or 152, or the blocks of the four stages, whose kind is then `bottleneck`.
    k_size: filter lengths, one or one a stage; None: those of the released network of this depth, else the formula;
        "formula": the paper's, of the block's output channels.
    widths: planes of the four stages (bottlenecks give four times as many channels).
    stage4_stride: 1 keeps the map of stage 3, for second-order pooling.
    stem_stride: 2 leaves out the max pool of the stem, for small pictures.
    drop_path: stochastic depth.

    State dict: `network.*` with timm's names, the modules as `network.layerL.I.se.conv.weight`.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        depth: int | Sequence[int],
        k_size: int | str | Sequence[int] | None = None,
        widths: Sequence[int] = (64, 128, 256, 512),
        stage4_stride: int = 2,
        stem_stride: int = 4,
        drop_path: float = 0.0,
        input_size: int = 224,
        bottleneck: bool = False,
    ) -> None:
        from timm.layers import EcaModule

        super().__init__()
        self.network = timm_resnet(
            depth,
            widths,
            bottleneck=bottleneck,
            stage4_stride=stage4_stride,
            stem_stride=stem_stride,
            drop_path=drop_path,
        )
        if k_size is None:
            k_size = KERNELS.get(depth, FORMULA) if isinstance(depth, int) else FORMULA
        parts = list(stages(self.network))
        self.k_size = tuple(stage_kernels(k_size, [channels for _, channels, _ in parts]))
        for number, _, blocks in parts:
            for block in blocks:
                block.se = EcaModule(kernel_size=self.k_size[number])
        self.out_channels, self.input_size = parts[-1][1], input_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of stage 4."""
        return self.network.forward_features(x)


class ECAMobileNetV2(nn.Module):
    """MobileNetV2 with ECA on the projected output of every block, before the sum: (B, 3, H, W) -> (B, C, h, w).

    width_mult: factor of all widths, truncated to whole numbers (nothing is rounded to 8).
    k_size: filter lengths, one or one for each of the seven stages; None: as released, 1 where a stage has fewer than
        96 channels before scaling, else 3.
    last_channels: width of the last 1x1 convolution; only factors above 1 change it.

    Torchvision's blocks; squeeze-and-excitation in timm's MobileNetV2 stands on the expanded channels, a different net.
    State dict: `features.*` with the released names, the modules as `features.N.conv.J.conv.weight`.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        width_mult: float = 1.0,
        k_size: int | str | Sequence[int] | None = None,
        input_size: int = 224,
        last_channels: int = 1280,
    ) -> None:
        super().__init__()
        if k_size is None:
            k_size = [1 if channels < 96 else 3 for _, channels, _, _ in MOBILENET_STAGES]
        kernels = stage_kernels(k_size, [int(channels * width_mult) for _, channels, _, _ in MOBILENET_STAGES])
        self.input_size = input_size
        self.features, self.out_channels = mobilenet_layers(
            width_mult, last_channels, lambda *sizes: eca_inverted_residual(*sizes[:4], kernels[sizes[4]])
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the last map."""
        return self.features(x)


def eca_inverted_residual(fan_in: int, fan_out: int, stride: int, expansion: int, k_size: int) -> nn.Module:
    """Build torchvision's inverted residual with an ECA module at the end of its branch."""
    from timm.layers import EcaModule
    from torchvision.models.mobilenetv2 import InvertedResidual

    block = InvertedResidual(fan_in, fan_out, stride, expansion)
    block.conv.append(EcaModule(kernel_size=k_size))
    return block


def eca_resnet18(**options) -> ECAResNet:
    """Build ECA-ResNet-18 with filters 3-5-7-7; options as in `ECAResNet`."""
    return ECAResNet(**{"depth": 18, **options})


def eca_resnet34(**options) -> ECAResNet:
    """Build ECA-ResNet-34 with filters 3-3-5-7; options as in `ECAResNet`."""
    return ECAResNet(**{"depth": 34, **options})


def eca_resnet50(**options) -> ECAResNet:
    """Build ECA-ResNet-50 with filters 3-5-5-7; options as in `ECAResNet`."""
    return ECAResNet(**{"depth": 50, **options})


def eca_resnet101(**options) -> ECAResNet:
    """Build ECA-ResNet-101 with filters 3-3-5-7; options as in `ECAResNet`."""
    return ECAResNet(**{"depth": 101, **options})


def eca_resnet152(**options) -> ECAResNet:
    """Build ECA-ResNet-152 with filters 3-3-5-7; options as in `ECAResNet`."""
    return ECAResNet(**{"depth": 152, **options})


def eca_mobilenet_v2(**options) -> ECAMobileNetV2:
    """Build ECA-MobileNetV2; options as in `ECAMobileNetV2`."""
    return ECAMobileNetV2(**options)
