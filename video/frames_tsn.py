"""Which frames of a video make its snippets, as in TSN and TCPNet (TCP specification 4.1).

`length` is the number of frames of a snippet: 1 for pictures, 5 for flow, 6 for differences. Indices are those of the
first frames of the snippets, 0-based (frame files of that code count from 1).
"""

from __future__ import annotations

import numpy as np

from .frames import Random, _check, integers

WINDOW = 64  # frames that the dense forms look at


def tsn_train(count: int, segments: int, length: int = 1, *, rng: Random) -> np.ndarray:
    """Return one random frame of each of `segments` parts; short videos give sorted draws, or frame 0 alone."""
    _check(count, segments, length, 1)
    mean = (count - length + 1) // segments
    if mean > 0:
        return np.arange(segments) * mean + integers(rng, 0, mean, segments)
    if count > segments:
        return np.sort(integers(rng, 0, count - length + 1, segments))
    return np.zeros(segments, dtype=np.int64)


def tsn_middle(count: int, segments: int, length: int = 1, short: str = "repeat") -> np.ndarray:
    """Return the middle frame of each part.

    short: what a video of at most segments + length - 1 frames gives: frames repeated, or (`zeros`) frame 0 alone,
        which is what that code does in validation, also where there are just enough frames.
    """
    _check(count, segments, length, 1)
    if short == "zeros" and count <= segments + length - 1:
        return np.zeros(segments, dtype=np.int64)
    tick = (count - length + 1) / segments
    return np.array([int(tick / 2 + tick * part) for part in range(segments)], dtype=np.int64)


def tsn_ten(count: int, segments: int, length: int = 1) -> np.ndarray:
    """Return ten clips, shifted by a tenth of a part each, the unshifted one last: (10 * segments,), clip by clip."""
    _check(count, segments, length, 1)
    tick = (count - length + 1) / segments
    shifts = [tick / 10 * clip for clip in range(1, 10)] + [0.0]
    return np.array([int(shift + tick * part) for shift in shifts for part in range(segments)], dtype=np.int64)


def tsn_dense(count: int, segments: int, rng: Random | None = None) -> np.ndarray:
    """Return frames spread over a window of 64 that starts at random; the video starts again where it ends.

    rng None: ten windows spread over the video (test), (10 * segments,).
    """
    _check(count, segments, 1, 1)
    starts = max(1, count - WINDOW + 1)
    if rng is None:
        first = np.linspace(0, starts - 1, 10).astype(np.int64)
    else:
        first = np.array([0 if starts == 1 else int(integers(rng, 0, starts - 1))])
    return ((first[:, None] + np.arange(segments) * (WINDOW // segments)) % count).reshape(-1)
