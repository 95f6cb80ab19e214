"""ResNets of torchvision's layout from timm's blocks: the ground of networks with attention in their blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

STAGES = ("layer1", "layer2", "layer3", "layer4")
# Blocks of every stage, and whether they are bottlenecks.
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


def timm_resnet(
    depth: int | Sequence[int],
    planes: Sequence[int] = (64, 128, 256, 512),
    *,
    bottleneck: bool = False,
    stage4_stride: int = 2,
    stem_stride: int = 4,
    drop_path: float = 0.0,
) -> nn.Module:
    """Build timm's ResNet without classifier: 7x7 stem, max pool, stride on the 3x3 convolution.

    depth: 18, 34, 50, 101 or 152, or the blocks of the four stages, whose kind is then `bottleneck`.
    planes: width of the four stages; bottlenecks give four times as many channels.
    stage4_stride: 1 keeps the map of stage 3 (covariance networks); plain convolutions, nothing is dilated.
    stem_stride: 2 leaves the max pool out, for small pictures.
    drop_path: stochastic depth, rising linearly to this rate.
    Raises ValueError for an unknown depth, a wrong number of stages and another stride of the stem.
    """
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    if isinstance(depth, int):
        if depth not in DEPTHS:
            raise ValueError(f"there is no ResNet-{depth}: use one of {', '.join(map(str, DEPTHS))}")
        depth, bottleneck = DEPTHS[depth]
    if not len(depth) == len(planes) == 4:
        raise ValueError(f"a ResNet has four stages: got {tuple(depth)} blocks of widths {tuple(planes)}")
    network = ResNet(
        Bottleneck if bottleneck else BasicBlock,
        tuple(depth),
        channels=tuple(planes),
        num_classes=0,
        global_pool="",
        zero_init_last=False,
        drop_path_rate=drop_path,
    )
    if stem_stride not in (2, 4):
        raise ValueError(f"the stem has a stride of 4, or of 2 without its max pool: got stem_stride = {stem_stride}")
    if stem_stride == 2:
        network.maxpool = nn.Identity()
    set_stride(network.layer4[0], stage4_stride)
    return network


def set_stride(block: nn.Module, stride: int) -> None:
    """Give the block that opens a stage another stride, in its branch and in its shortcut."""
    convolution = block.conv2 if hasattr(block, "conv3") else block.conv1
    convolution.stride = (stride, stride)
    if block.downsample is not None:
        block.downsample[0].stride = (stride, stride)


def stages(network: nn.Module) -> Iterator[tuple[int, int, nn.Sequential]]:
    """Yield (number from 0, output channels, blocks) of the four stages."""
    for number, name in enumerate(STAGES):
        blocks = getattr(network, name)
        norm = blocks[-1].bn3 if hasattr(blocks[-1], "bn3") else blocks[-1].bn2
        yield number, norm.num_features, blocks
