"""Noise and digital corruptions of an image in [0, 1]: values, not places, change (ImageNet-C's definitions)."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

Array = np.ndarray


def gaussian_noise(x: Array, random: np.random.RandomState, sigma: float) -> Array:
    """Add independent normal numbers."""
    return x + random.normal(size=x.shape, scale=sigma)


def shot_noise(x: Array, random: np.random.RandomState, photons: float) -> Array:
    """Count so many photons at most."""
    return random.poisson(x * photons) / float(photons)


def impulse_noise(x: Array, random: np.random.RandomState, share: float) -> Array:
    """Set a share of the values to black or white, half each."""
    hit = random.random_sample(x.shape) < share
    return np.where(hit, random.random_sample(x.shape) < 0.5, x)


def speckle_noise(x: Array, random: np.random.RandomState, sigma: float) -> Array:
    """Add normal numbers in proportion to the value."""
    return x + x * random.normal(size=x.shape, scale=sigma)


def _hsv(x: Array) -> Array:
    from matplotlib.colors import rgb_to_hsv

    return rgb_to_hsv(x)


def _rgb(hsv: Array) -> Array:
    from matplotlib.colors import hsv_to_rgb

    return hsv_to_rgb(hsv)


def brightness(x: Array, random: np.random.RandomState, more: float) -> Array:
    """Add to the value of hue, saturation, value."""
    hsv = _hsv(x)
    hsv[..., 2] = np.clip(hsv[..., 2] + more, 0, 1)
    return _rgb(hsv)


def saturate(x: Array, random: np.random.RandomState, factor: float, more: float) -> Array:
    """Scale and shift the saturation. Grey has hue 0, so the two strongest tint it red."""
    hsv = _hsv(x)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + more, 0, 1)
    return _rgb(hsv)


def contrast(x: Array, random: np.random.RandomState, factor: float) -> Array:
    """Move every value towards the mean of its channel."""
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * factor + mean


def _picture(x: Array) -> Image.Image:
    return Image.fromarray(np.rint(x * 255).astype(np.uint8))


def pixelate(x: Array, random: np.random.RandomState, factor: float) -> Array:
    """Shrink by box averages and enlarge again."""
    height, width = x.shape[:2]
    small = (max(1, int(width * factor)), max(1, int(height * factor)))
    shrunk = _picture(x).resize(small, Image.Resampling.BOX)
    return np.asarray(shrunk.resize((width, height), Image.Resampling.BOX)) / 255.0


def jpeg_compression(x: Array, random: np.random.RandomState, quality: int) -> Array:
    """Save as JPEG and read again."""
    file = io.BytesIO()
    _picture(x).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image) / 255.0
