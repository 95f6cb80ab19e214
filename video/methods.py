"""The table of methods that only videos have: what pools a clip's map, and what scores an episode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from video.otam import OTAM
from video.trx import TRX


@dataclass(frozen=True)
class VideoMethod:
    """One method of videos.

    title: as printed in tables.
    pool: 'tamt' (adapters and moment head, vectors) or 'frames' (the average of every frame, (t, C)).
    head: builds the episode head from its options; None: the rule of `fewshot.MetaDeepBDC`, of another room.
    sized: the head has weights of the size of a feature, its option `in_channels`.
    """

    title: str
    pool: str
    head: Callable[..., nn.Module] | None
    sized: bool = False


VIDEO_METHODS: dict[str, VideoMethod] = {
    "tamt": VideoMethod("TAMT", "tamt", None),
    "otam": VideoMethod("OTAM", "frames", OTAM),
    "trx": VideoMethod("TRX", "frames", TRX, sized=True),
}
