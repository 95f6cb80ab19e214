"""Conv-4, the four-block network of Matching Networks and ProtoNet."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.normalisation import FEW_SHOT_MEAN, FEW_SHOT_STD


class Conv4(nn.Module):
    """Four times conv3x3 - BN - ReLU, most of them followed by a 2x2 max-pool.

    width: channels of every block, or four numbers.
    pooled_stages: how many of the blocks, counted from the first, halve the map. The usual network has 4
        (84 px -> 5x5); 3 keeps a 4x4 map for 32 px inputs, which second-order pooling needs.
    input_size: side in pixels that the network is meant for; other sizes work.

    forward: (B, 3, H, W) -> (B, out_channels, h, w).
    """

    mean, std = FEW_SHOT_MEAN, FEW_SHOT_STD

    def __init__(self, width: int | tuple[int, ...] = 64, pooled_stages: int = 4, input_size: int = 84) -> None:
        super().__init__()
        widths = (width,) * 4 if isinstance(width, int) else tuple(width)
        if len(widths) != 4 or not 0 <= pooled_stages <= 4:
            raise ValueError(f"Conv-4 has four blocks: got widths {widths} and pooled_stages {pooled_stages}")
        self.input_size, self.out_channels = input_size, widths[-1]
        layers: list[nn.Module] = []
        for stage, (fan_in, fan_out) in enumerate(zip((3, *widths), widths, strict=False)):
            conv = nn.Conv2d(fan_in, fan_out, kernel_size=3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            block = [conv, nn.BatchNorm2d(fan_out), nn.ReLU(inplace=True)]
            layers.append(nn.Sequential(*block, *([nn.MaxPool2d(2)] if stage < pooled_stages else [])))
        self.blocks = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map."""
        return self.blocks(x)


def conv4(**options) -> Conv4:
    """Build a Conv-4; options as in `Conv4`."""
    return Conv4(**options)
