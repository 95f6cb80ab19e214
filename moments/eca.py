"""Efficient channel attention: a short filter along the channel axis of the spatial mean (ECA-Net, CVPR 2020)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def eca_kernel_size(channels: int, gamma: float = 2.0, b: float = 1.0) -> int:
    """Return the odd filter length for a number of channels: |log2(C)/gamma + b/gamma|, truncated, then made odd.

    With the defaults 3 for 8-127 channels, 5 for 128-2047, 7 for 2048-32767. A guideline (equation 12): the released
    networks have tuned lengths, see `backbones.eca.KERNELS`.
    Raises ValueError for fewer than one channel.
    """
    if channels < 1:
        raise ValueError(f"{channels} channels: at least one is needed")
    size = int(abs((math.log2(channels) + b) / gamma))
    return size if size % 2 else size + 1


def eca_scale(means: Tensor, weight: Tensor) -> Tensor:
    """Return sigmoid(filtered channel means) (B, C), every channel seeing its (k - 1) / 2 neighbours on both sides.

    means: (B, C); beyond the ends there are zeros.
    weight: (1, 1, k), one filter for all channels, or (C, 1, k), one for each (ECA-NS); k odd.
    Raises ValueError for an even k or a wrong number of filters.
    """
    filters, _, k = weight.shape
    if k % 2 == 0:
        raise ValueError(f"an ECA filter has an odd length, got {k}: an even one shifts the channels")
    if filters == 1:
        return F.conv1d(means[:, None], weight, padding=(k - 1) // 2)[:, 0].sigmoid()
    if filters != means.shape[1]:
        raise ValueError(f"{filters} filters for {means.shape[1]} channels: give one for each, or one for all")
    windows = F.pad(means, ((k - 1) // 2,) * 2).unfold(1, k, 1)
    return (windows * weight[:, 0]).sum(2).sigmoid()


class ECA(nn.Module):
    """Scale the channels of x (B, C, ...), with any number of positional axes: tokens, images, clips.

    channels: C; needed for the adaptive length and for filters of their own.
    k_size: odd filter length; None: `eca_kernel_size(channels)`. It may exceed C.
    shared: one filter for all channels (ECA), else one for each (ECA-NS).

    State dict: `conv.weight`, as released and as in timm's `EcaModule`, which computes the same on images and stands in
    the networks; this one also takes sequences and clips.
    """

    def __init__(self, channels: int, k_size: int | None = None, *, shared: bool = True) -> None:
        super().__init__()
        k = eca_kernel_size(channels) if k_size is None else k_size
        if k < 1 or k % 2 == 0:
            raise ValueError(f"an ECA filter has an odd length, got {k}")
        self.conv = nn.Module()  # holds the filter under its released name; the start is that of a Conv1d
        self.conv.weight = nn.Parameter(torch.empty(1 if shared else channels, 1, k))
        nn.init.uniform_(self.conv.weight, -(k**-0.5), k**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with every channel scaled by a number in (0, 1)."""
        scale = eca_scale(x.flatten(2).mean(2), self.conv.weight)
        return x * scale.reshape(*scale.shape, *[1] * (x.dim() - 2))
