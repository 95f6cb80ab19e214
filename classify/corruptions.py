"""The 15 common corruptions and 4 validation corruptions of ImageNet-C, made on the fly for images of any size.

A corrupted image is a function of image, corruption, severity and seed alone. Values at 224 pixels are those of the
public benchmark where nothing but arrays is needed. Frost (its photographs cannot be shipped), motion blur and snow
(ImageMagick there), elastic transform and spatter (OpenCV there) follow the same definitions with other numbers:
results on them count as "generated", not as ImageNet-C's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backbones.errors import UserError, nearest
from classify import corruption_blur as blur
from classify import corruption_noise as noise
from classify import corruption_weather as weather

SIDE = 224  # the image for which lengths in pixels are given
LEAST_SIDE = 32


@dataclass(frozen=True)
class Corruption:
    """A function and its arguments at severity 1 to 5.

    pixels: places of the arguments that are lengths in pixels, at 224: they shrink and grow with the image.
    whole: of these, the ones that must be whole numbers, at least 1.
    unit: the function takes the scale itself, as `unit`, pixels of the image for one at 224: random fields cannot be
        scaled by their arguments alone, since smoothing less leaves them stronger.
    """

    apply: Callable[..., np.ndarray]
    settings: tuple[tuple[float, ...], ...]
    pixels: tuple[int, ...] = ()
    whole: tuple[int, ...] = ()
    unit: bool = False

    def arguments(self, severity: int, side: int) -> tuple[float, ...]:
        """Return the arguments for an image whose shorter side has `side` pixels."""
        given = list(self.settings[severity - 1])
        for place in self.pixels:
            given[place] = given[place] * side / SIDE
            if place in self.whole:
                given[place] = max(1, round(given[place]))
        return tuple(given)


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(noise.gaussian_noise, ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),
    "shot_noise": Corruption(noise.shot_noise, ((60,), (25,), (12,), (5,), (3,))),
    "impulse_noise": Corruption(noise.impulse_noise, ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),
    "defocus_blur": Corruption(blur.defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)), (0,)),
    "glass_blur": Corruption(
        blur.glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)), (0, 1), (1,)
    ),
    "motion_blur": Corruption(blur.motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), (0, 1), (0,)),
    "zoom_blur": Corruption(blur.zoom_blur, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    "snow": Corruption(
        weather.snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        unit=True,
    ),
    "frost": Corruption(weather.frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)), unit=True),
    "fog": Corruption(weather.fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": Corruption(noise.brightness, ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),
    "contrast": Corruption(noise.contrast, ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),
    "elastic_transform": Corruption(
        weather.elastic_transform,
        (
            (488, 170.8, 24.4),
            (488, 19.52, 48.8),
            (12.2, 2.44, 4.88),
            (17.08, 2.44, 4.88),
            (29.28, 2.44, 4.88),
        ),
        unit=True,
    ),
    "pixelate": Corruption(noise.pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    "jpeg_compression": Corruption(noise.jpeg_compression, ((25,), (18,), (15,), (10,), (7,))),
    "speckle_noise": Corruption(noise.speckle_noise, ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,))),
    "gaussian_blur": Corruption(blur.gaussian_blur, ((1,), (2,), (3,), (4,), (6,)), (0,)),
    "spatter": Corruption(
        weather.spatter,
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        unit=True,
    ),
    "saturate": Corruption(noise.saturate, ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))),
}
SEVERITIES = (1, 2, 3, 4, 5)


def find_corruption(name: str) -> Corruption:
    """Return a corruption of the table; raises UserError for an unknown name."""
    if name not in CORRUPTIONS:
        raise UserError(f"corruption '{name}' is unknown{nearest(name, CORRUPTIONS)}")
    return CORRUPTIONS[name]


def stream(seed: int, *parts: int | str) -> np.random.RandomState:
    """Return the random numbers of an image: they depend on the seed and every part, and on nothing else."""
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, *numbers])))


def corrupted(
    image: np.ndarray,
    name: str,
    severity: int,
    random: np.random.RandomState,
    frost: Sequence[np.ndarray] = (),
    scale_lengths: bool = True,
) -> np.ndarray:
    """Corrupt an image; returns (H, W, 3) floats in 0..255.

    image: (H, W, 3) uint8, from 32 pixels on. severity: 1 to 5. frost: photographs, see `corruption_weather.frost`.
    scale_lengths: blurs, shifts and flakes have the published size relative to the image, whatever its size; False:
        the published number of pixels.
    Raises UserError for an unknown name, another severity, or too small an image.
    """
    corruption = find_corruption(name)
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity} of {name}: severities are 1 to 5")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    side = min(image.shape[:2])
    if side < LEAST_SIDE:
        raise UserError(
            f"{name} needs images of at least {LEAST_SIDE} pixels; this one is {image.shape[1]}x{image.shape[0]}"
        )
    scale_of = side if scale_lengths else SIDE
    more: dict[str, object] = {"photographs": frost} if name == "frost" else {}
    if corruption.unit:
        more["unit"] = scale_of / SIDE
    arguments = corruption.arguments(severity, scale_of)
    return np.clip(corruption.apply(image / 255.0, random, *arguments, **more), 0, 1) * 255


def corrupt(
    image: np.ndarray,
    name: str,
    severity: int,
    seed: int = 0,
    key: int | str = 0,
    frost: Sequence[np.ndarray] = (),
    scale_lengths: bool = True,
) -> np.ndarray:
    """Corrupt an image; returns (H, W, 3) uint8, the same bytes on every machine, in any order.

    key: number or name of the image in its set: with seed, corruption and severity it decides all that is random.
    Arguments and errors as in `corrupted`.
    """
    find_corruption(name)
    random = stream(seed, name, severity, key)
    return corrupted(image, name, severity, random, frost, scale_lengths).astype(np.uint8)
