"""The ten perturbation sequences of ImageNet-P, made on the fly for images of any size.

A sequence is made from a picture somewhat larger than what the network sees (256 pixels for 224), and its frames are
the centre. They follow the published definitions, but are not compressed as videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from backbones.errors import UserError, nearest
from classify import corruption_weather as weather
from classify.corruption_blur import motion_blurred, zoomed
from classify.corruption_noise import brightness
from classify.corruptions import SIDE, stream
from classify.robustness import NOISE_PERTURBATIONS, PERTURBATIONS

Array = np.ndarray
FRAMES, SHIFTS = 31, 41
CROP_SHARE = 0.875
GAUSSIAN, PHOTONS = (0.03, 0.05, 0.08), (300, 120, 60)  # of difficulty 1, 2, 3


def larger_side(size: int) -> int:
    """Return the side of the picture that frames of `size` pixels are cut from."""
    return round(size / CROP_SHARE)


def _noise(x: Array, random: np.random.RandomState, name: str, difficulty: int) -> Iterator[Array]:
    """Yield the clean picture, then independent noise."""
    yield x
    for _ in range(FRAMES - 1):
        if name == "gaussian_noise":
            yield x + random.normal(size=x.shape, scale=GAUSSIAN[difficulty - 1])
        else:
            yield random.poisson(x * PHOTONS[difficulty - 1]) / float(PHOTONS[difficulty - 1])


def _motion(x: Array, random: np.random.RandomState, unit: float) -> Iterator[Array]:
    for i in range(FRAMES):
        yield motion_blurred(x, max(1, round(10 * unit)), 3 * unit, 4 * (i - 30))


def _zoom(x: Array, random: np.random.RandomState, unit: float) -> Iterator[Array]:
    total = np.zeros_like(x)
    for i in range(FRAMES):
        total = total + zoomed(x, 1 + 0.004 * i)
        yield total / (i + 1)


def _snow(x: Array, random: np.random.RandomState, unit: float) -> Iterator[Array]:
    def flakes(shape: tuple[int, int]) -> Array:
        return weather.snow_layer(shape, random, 0.05, 0.3, 3, 0.5)

    layer = weather.at_published_scale(flakes, x.shape[:2], unit)
    for i in range(FRAMES):
        yield weather.snowed(x, motion_blurred(layer, max(1, round(14 * unit)), 4 * unit, 4 * i - 150), 0.85)


def _brightness(x: Array, random: np.random.RandomState, unit: float) -> Iterator[Array]:
    for i in range(FRAMES):
        yield brightness(x, random, 0.02 * (i - 15))


def _warped(x: Array, back: Array) -> Array:
    """Move a picture: `back` (3, 3) leads from places of the result to places of the picture; outside it is black."""
    picture = Image.fromarray(np.rint(x * 255).astype(np.uint8))
    back = back / back[2, 2]
    moved = picture.transform(
        picture.size, Image.Transform.PERSPECTIVE, back.ravel()[:8].tolist(), Image.Resampling.BILINEAR
    )
    return np.asarray(moved) / 255.0


def _about_centre(matrix: Array, side: tuple[int, int]) -> Array:
    """Return a map of the plane (3, 3) with its origin moved to the centre of a picture (height, width)."""
    shift = np.array([[1, 0, side[1] / 2], [0, 1, side[0] / 2], [0, 0, 1.0]])
    return shift @ matrix @ np.linalg.inv(shift)


def _translate(x: Array, random: np.random.RandomState, unit: float) -> Iterator[Array]:
    for i in range(SHIFTS):
        yield _warped(x, np.array([[1, 0, -(i - 20) * unit], [0, 1, 0], [0, 0, 1.0]]))


def _rotate(x: Array, random: np.random.RandomState, unit: float) -> Iterator[Array]:
    for i in range(FRAMES):
        angle = np.deg2rad(i - 15)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        yield _warped(x, _about_centre(turn, x.shape[:2]))


def _tilt(x: Array, random: np.random.RandomState, unit: float) -> Iterator[Array]:
    """Turn the picture in space about both of its axes, seen from a distance of its diagonal."""
    focal = float(np.hypot(*x.shape[:2]))
    for i in range(FRAMES):
        c, s = np.cos(np.deg2rad(i - 15)), np.sin(np.deg2rad(i - 15))
        turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        plane = np.column_stack([turn[:, 0], turn[:, 1], [0, 0, focal]])  # (x, y, 1) -> a point in space
        ahead = np.diag([focal, focal, 1.0]) @ plane
        yield _warped(x, _about_centre(np.linalg.inv(ahead), x.shape[:2]))


def _scale(x: Array, random: np.random.RandomState, unit: float) -> Iterator[Array]:
    for i in range(FRAMES):
        factor = 100 / (40 + 2.5 * i)
        yield _warped(x, _about_centre(np.diag([factor, factor, 1.0]), x.shape[:2]))


SEQUENCES: dict[str, Callable[..., Iterator[Array]]] = {
    "motion_blur": _motion,
    "zoom_blur": _zoom,
    "snow": _snow,
    "brightness": _brightness,
    "translate": _translate,
    "rotate": _rotate,
    "tilt": _tilt,
    "scale": _scale,
}


def perturbed(image: Array, name: str, size: int, seed: int = 0, key: int | str = 0, difficulty: int = 1) -> Array:
    """Return the frames (F, size, size, 3) uint8 of a perturbation; 31, and 41 for "translate".

    image: (side, side, 3) uint8, larger than `size` (see `larger_side`). key: number or name of the image in its set.
    difficulty: 1 to 3, of the noise; of the others it is the distance of the frames that are compared.
    Lengths are those of 224 pixels, scaled to `size`. Raises UserError for an unknown name.
    """
    if name not in PERTURBATIONS:
        raise UserError(f"perturbation '{name}' is unknown{nearest(name, PERTURBATIONS)}")
    if difficulty not in (1, 2, 3):
        raise UserError(f"difficulty {difficulty} of {name}: difficulties are 1 to 3")
    top, left = ((side - size) // 2 for side in image.shape[:2])
    if min(top, left) < 0:
        raise ValueError(f"frames of {size} pixels cannot be cut from a picture of {image.shape[:2]}")
    random, x = stream(seed, name, difficulty, key), image / 255.0
    if name in NOISE_PERTURBATIONS:
        frames = _noise(x[top : top + size, left : left + size], random, name, difficulty)
    else:
        frames = (frame[top : top + size, left : left + size] for frame in SEQUENCES[name](x, random, size / SIDE))
    return np.stack([(np.clip(frame, 0, 1) * 255).astype(np.uint8) for frame in frames])
