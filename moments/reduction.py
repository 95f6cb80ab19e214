"""1x1 convolutions that compact the channels of a map before their covariance is taken."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": lambda inplace: nn.LeakyReLU(0.1, inplace=inplace)}


def channel_reduction(
    in_channels: int, widths: int | Sequence[int] | None, activation: str = "relu"
) -> nn.Sequential | None:
    """Build conv1x1 (no bias) - batch norm - activation for each of `widths`, one after the other.

    widths: one number, or several (progressive compaction, say 1024, 512, 256, 128); None or nothing: no reduction.
    activation: "relu", "relu6" or "leaky_relu" (slope 0.1).
    Returns a `Sequential` (stage i is modules 3i to 3i + 2), or None. Raises ValueError for an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation '{activation}' is unknown: use one of {sorted(ACTIVATIONS)}")
    layers: list[nn.Module] = []
    for width in () if widths is None else (widths,) if isinstance(widths, int) else widths:
        if width < 1:
            raise ValueError(f"a reduction to {width} channels leaves nothing: use at least 1")
        conv = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers += [conv, nn.BatchNorm2d(width), ACTIVATIONS[activation](inplace=True)]
        in_channels = width
    return nn.Sequential(*layers) if layers else None
