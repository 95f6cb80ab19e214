"""Which frames of a video make a clip: arithmetic on the number of frames, apart from any decoder.

Whatever is random comes from the generator that is given: `numpy.random.Generator`, or the legacy `RandomState` with
which the vectors were drawn. Every function returns int64 indices, 0-based; -1 is the last frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from episodes.errors import UserError

Random = np.random.Generator | np.random.RandomState


def integers(rng: Random, low: int, high: int, size: int | None = None) -> np.ndarray | int:
    """Draw whole numbers in low..high-1 from either kind of generator."""
    draw = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    return draw(low, high, size)


def segment_indices(
    count: int, segments: int = 16, clip_len: int = 1, step: int = 1, rng: Random | None = None
) -> np.ndarray:
    """Return `clip_len` frames from each of `segments` equal parts of a video (segments * clip_len,).

    Parts are fractions of the whole length, so every frame can be chosen, and a video that is shorter than `segments`
    is spread over them evenly with repeats. Inside a part the frames are `step` apart; a run that does not fit in its
    part is centred on it, and one that does not fit in the video repeats the last frame.
    rng: draws where a run starts in its part (training); None takes the middle.
    """
    _check(count, segments, clip_len, step)
    edges = np.arange(segments + 1) * count / segments
    window = (clip_len - 1) * step + 1
    room = edges[1:] - edges[:-1] - window + 1
    where = 0.5 if rng is None else rng.random(segments)
    start = np.where(room > 0, edges[:-1] + where * room, (edges[1:] + edges[:-1] - window) / 2)
    start = np.floor(start).clip(0, max(0, count - window)).astype(np.int64)
    return np.minimum(start[:, None] + step * np.arange(clip_len), count - 1).reshape(-1)


def segment_indices_reference(
    count: int, segments: int = 16, clip_len: int = 1, step: int = 2, rng: Random | None = None
) -> np.ndarray:
    """`segment_indices` as TAMT's code computes them (specification 10.2), for its published figures.

    The parts have `count // segments` frames, so the end of a video is never seen, nor are the last two frames of a
    part; a video of fewer than `segments` frames gives -1 everywhere: copies of its last frame.
    rng: one draw per part (training); None takes the middle (validation).
    """
    _check(count, segments, clip_len, step)
    need, length = clip_len * step, count // segments
    indices = []
    for part in range(segments):
        if length <= need:
            spread = np.linspace(0, length, length // step)
            spread = np.concatenate([spread, np.full(clip_len - length // step, length)])
            low, high = 0, length - 1
        else:
            end = (need + length) // 2 if rng is None else int(integers(rng, need, length))
            spread = np.linspace(end - need, end, clip_len)
            low, high = end - need, end - 1
        indices.append(np.minimum(np.maximum(spread, low), high).astype(np.int64) + part * length)
    return np.concatenate(indices)


def dense_indices(count: int, clip_len: int, step: int = 1) -> np.ndarray:
    """Return frames 0, step, 2 step, ... (at least `clip_len`), the last one repeated (TAMT's dense test mode)."""
    _check(count, 1, clip_len, step)
    indices = np.arange(0, count, step)
    return np.concatenate([indices, np.full(max(0, clip_len - len(indices)), indices[-1])])


def sparse_indices(count: int, segments: int = 16, repeats: int = 1) -> np.ndarray:
    """Return `repeats` evenly shifted combs of `segments` frames, sorted (TAMT's sparse test mode)."""
    _check(count, segments, repeats, 1)
    tick = count / segments
    combs = [int(shift * tick / repeats + tick * x) for shift in range(repeats) for x in range(segments)]
    return np.sort(np.array(combs, dtype=np.int64))


def window_indices(count: int, clip_len: int = 16, step: int = 4, rng: Random | None = None) -> np.ndarray:
    """Return one run of `clip_len` frames, `step` apart, that lies inside the video.

    A video that is too short for it is spread evenly over the run instead. rng: draws the start; None centres it.
    """
    _check(count, 1, clip_len, step)
    room = count - ((clip_len - 1) * step + 1)
    if room < 0:
        return np.floor(np.linspace(0, count - 1, clip_len) + 0.5).astype(np.int64)
    start = room // 2 if rng is None else int(integers(rng, 0, room + 1))
    return start + step * np.arange(clip_len)


def ssl_indices(count: int, clip_len: int = 16, step: int = 4, clips: int = 1, *, rng: Random) -> np.ndarray:
    """Return the frames of `clips` dense clips as VideoMAE's pre-training draws them (specification 11).

    Quirks: the frame before the last is never passed, so short videos end in repeats, not of the last frame.
    """
    _check(count, clips, clip_len, step)
    window = clip_len * step
    each = (count - window + 1) // clips
    if each > 0:
        starts = np.arange(clips) * each + integers(rng, 0, each, clips)
    elif count > max(clips, window):
        starts = np.sort(integers(rng, 0, count - window + 1, clips))
    else:
        starts = np.zeros(clips, dtype=np.int64)
    indices = []
    for index in starts:
        for _ in range(clip_len):
            indices.append(int(index))
            index += step if index + step < count - 1 else 0
    return np.array(indices, dtype=np.int64)


@dataclass(frozen=True)
class FrameSampling:
    """How frames are chosen, as plain values.

    how: segments (frames spread over the whole video, `segment_indices`), window (one dense run), or reference
        (TAMT's code, `segment_indices_reference`).
    frames: of a clip. step: between frames of a window; in `reference` the width of the draw.
    """

    how: Literal["segments", "window", "reference"] = "segments"
    frames: int = 16
    step: int = 2

    def __post_init__(self) -> None:
        if self.how not in ("segments", "window", "reference"):
            raise UserError(f"there is no frame sampling '{self.how}': choose segments, window or reference")
        _check(1, 1, self.frames, self.step)

    def indices(self, count: int, rng: Random | None = None) -> np.ndarray:
        """Return frame indices (frames,) of a video of `count` frames; rng: draws them, None takes the middle."""
        if self.how == "window":
            return window_indices(count, self.frames, self.step, rng)
        if self.how == "reference":
            return segment_indices_reference(count, self.frames, 1, self.step, rng)
        return segment_indices(count, self.frames, rng=rng)


def _check(count: int, segments: int, clip_len: int, step: int) -> None:
    for name, value in (("frames in the video", count), ("parts", segments), ("frames of a clip", clip_len)):
        if value < 1:
            raise UserError(f"the number of {name} must be at least 1, not {value}")
    if step < 1:
        raise UserError(f"the step between frames must be at least 1, not {step}")
