"""Boxes in a frame: random resized crops, boxes to erase, and the fixed crops of TSN. Only arithmetic and draws.

A box is (top, left, height, width) in pixels. Generators are Python's `random.Random`, as in the codes whose boxes are
to be repeated; any seed gives a good stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import numpy as np

Box = tuple[int, int, int, int]

SCALES = (1.0, 0.875, 0.75, 0.66)  # of the short side, multi-scale crops
# Offsets in quarters of the room, (x, y): corners and centre, then edges, then the points between.
PLACES = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3))


def random_crop_box(
    height: int,
    width: int,
    rng: Random,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (0.75, 1.3333),
    spare: np.random.RandomState | None = None,
) -> Box:
    """Draw a box of random area (fraction of the frame) and aspect (width / height, log-uniform) (TAMT 10.3, step 3).

    After ten boxes that do not fit, the centre is taken, its aspect limited to `ratio`.
    spare: a second generator of which each try consumes one number, as TAMT's code does.
    """
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        if spare is not None:
            spare.uniform()
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = rng.randint(0, height - h)
            return top, rng.randint(0, width - w), h, w
    w = min(width, round(height * ratio[1])) if width / height > ratio[1] else width
    h = min(height, round(width / ratio[0])) if width / height < ratio[0] else height
    return (height - h) // 2, (width - w) // 2, h, w


def random_erase_box(
    height: int,
    width: int,
    rng: Random,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Box | None:
    """Draw a box to erase, strictly smaller than the frame, or None (TAMT 10.3, step 5; aspect = height / width)."""
    if rng.random() > probability:
        return None
    for _ in range(100):
        size = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        h, w = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if h < height and w < width:
            top = rng.randint(0, height - h)
            return top, rng.randint(0, width - w), h, w
    return None


def centre_box(height: int, width: int, size: int) -> Box:
    """Return the central square of side `size`."""
    return (height - size) // 2, (width - size) // 2, size, size


def short_side(height: int, width: int, length: int) -> tuple[int, int]:
    """Return height and width scaled so that the shorter one is `length`, the longer cut off as torchvision does."""
    if height <= width:
        return length, max(1, int(width * length / height))
    return max(1, int(height * length / width)), length


def crop_candidates(
    height: int, width: int, size: int, scales: Sequence[float] = SCALES, max_distort: int = 1
) -> list[tuple[int, int]]:
    """Return the (width, height) pairs of multi-scale crops in order (TCP 4.2).

    Sides are fractions of the short side, at most `max_distort` places apart; within 2 px of `size` becomes `size`.
    """
    sides = [int(min(height, width) * scale) for scale in scales]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    pairs = [(i, j) for i in range(len(sides)) for j in range(len(sides)) if abs(i - j) <= max_distort]
    return [(sides[j], sides[i]) for i, j in pairs]


def crop_offsets(height: int, width: int, crop_height: int, crop_width: int, places: int = 13) -> list[tuple[int, int]]:
    """Return the fixed (x, y) offsets of a crop: 5 (corners, centre) or 13 (edges and quarter points too)."""
    step_x, step_y = (width - crop_width) // 4, (height - crop_height) // 4
    return [(x * step_x, y * step_y) for x, y in PLACES[:places]]


def multi_scale_box(
    height: int, width: int, size: int, rng: Random, scales: Sequence[float] = SCALES, max_distort: int = 1
) -> Box:
    """Draw a multi-scale corner crop (TCP 4.2, and VideoMAE's pre-training): one of the sizes, one of 13 places."""
    crop_width, crop_height = rng.choice(crop_candidates(height, width, size, scales, max_distort))
    left, top = rng.choice(crop_offsets(height, width, crop_height, crop_width))
    return top, left, crop_height, crop_width


def three_offsets(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Return the (x, y) of the test crops of a wide frame: left, right, centre (TCP 4.2)."""
    step_x, step_y = (width - size) // 4, (height - size) // 4
    return [(0, 2 * step_y), (4 * step_x, 2 * step_y), (2 * step_x, 2 * step_y)]
