"""Blurs of an image in [0, 1] (ImageNet-C's definitions). Lengths are in pixels of the image given."""

from __future__ import annotations

import functools

import numpy as np

Array = np.ndarray


def smooth(x: Array, sigma: float) -> Array:
    """Gaussian filter of every channel, edges replicated, cut at 4 sigma."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (sigma, sigma, *[0] * (x.ndim - 2)), mode="nearest", truncate=4.0)


def gaussian_blur(x: Array, random: np.random.RandomState, sigma: float) -> Array:
    """Gaussian filter."""
    return smooth(x, sigma)


def _taps(sigma: float, size: int) -> Array:
    """Return normalised Gaussian weights of a filter of `size` taps."""
    weights = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


@functools.lru_cache(maxsize=64)
def disk(radius: float, sigma: float) -> Array:
    """Return a disk, normalised and smoothed against aliasing. The table is shared: do not write to it.

    A radius that is no whole number, of an image of another size than the benchmark's, counts parts of pixels.
    """
    from scipy.ndimage import correlate1d

    half = 8 if radius <= 8 else int(np.ceil(radius))
    at = np.arange(-half, half + 1)
    parts = 1 if radius == int(radius) else 9
    fine = (at[:, None] + (np.arange(parts) - parts // 2) / parts).ravel()
    inside = (fine[:, None] ** 2 + fine[None] ** 2 <= radius**2).astype(np.float64)
    found = inside.reshape(len(at), parts, len(at), parts).mean((1, 3))
    found /= found.sum()
    taps = _taps(sigma, 3 if radius <= 8 else 5)
    for axis in (0, 1):
        found = correlate1d(found, taps, axis=axis, mode="mirror")
    return found


def correlate_mirrored(x: Array, kernel: Array) -> Array:
    """Correlate every channel with a kernel of odd sides, borders mirrored without repeating the edge."""
    from scipy.signal import fftconvolve

    vertical, horizontal = (side // 2 for side in kernel.shape)
    padded = np.pad(x, ((vertical, vertical), (horizontal, horizontal), (0, 0)), mode="reflect")
    return fftconvolve(padded, kernel[::-1, ::-1, None], mode="valid", axes=(0, 1))


def defocus_blur(x: Array, random: np.random.RandomState, radius: float, sigma: float) -> Array:
    """Average over a disk, as a lens out of focus does."""
    return correlate_mirrored(x, disk(radius, sigma))


def scatter(x: Array, random: np.random.RandomState, reach: int, passes: int) -> Array:
    """Overwrite every pixel by a random neighbour, in a pass from the last pixel to the first.

    A pixel that comes early in the pass is read, later, in its new state; with borders of `reach` pixels left alone.
    The chain of readings is resolved for all pixels at once: each is written once a pass, so what it becomes is what
    the end of its chain was before.
    """
    height, width = x.shape[:2]
    rows, columns = (np.arange(side - reach, reach, -1) for side in (height, width))
    flat = x.reshape(height * width, -1)
    target = (rows[:, None] * width + columns[None]).ravel()
    for _ in range(passes):
        dx, dy = random.randint(-reach, reach, size=(len(target), 2)).T
        source = target + dy * width + dx
        rank = np.full(height * width, len(target))  # when a pixel is written; never: last
        rank[target] = np.arange(len(target))
        # Nodes are pixels after the pass (0..n-1) and before it (n..2n-1, which end a chain).
        n = height * width
        goes = np.tile(np.arange(n, 2 * n), 2)
        goes[target] = np.where(rank[source] < np.arange(len(target)), source, source + n)
        while True:
            further = goes[goes]
            if np.array_equal(further, goes):
                break
            goes = further
        flat = flat[goes[:n] - n]
    return flat.reshape(x.shape)


def glass_blur(x: Array, random: np.random.RandomState, sigma: float, reach: int, passes: int) -> Array:
    """Blur, scatter neighbouring pixels (at 8 bits), blur."""
    coarse = (np.clip(smooth(x, sigma), 0, 1) * 255).astype(np.uint8)
    return smooth(scatter(coarse, random, reach, passes) / 255.0, sigma)


@functools.lru_cache(maxsize=256)
def _enlarging(side: int, factor: float) -> tuple[Array, Array, Array]:
    """Return, for every place of an enlarged and trimmed line, the two places it lies between, and how far along."""
    crop = int(np.ceil(side / factor))
    first = (side - crop) // 2
    whole = int(round(crop * factor))
    trim = (whole - side) // 2
    at = (np.arange(side) + trim) * ((crop - 1) / max(whole - 1, 1))
    low = np.minimum(at.astype(int), crop - 1)
    return first + low, first + np.minimum(low + 1, crop - 1), at - low


def zoomed(x: Array, factor: float) -> Array:
    """Enlarge the centre of an image (H, W) or (H, W, C) by linear interpolation; the size stays."""
    for axis in (0, 1):
        low, high, along = _enlarging(x.shape[axis], factor)
        start = x.take(low, axis)
        x = start + (x.take(high, axis) - start) * along.reshape(-1, *[1] * (x.ndim - 1 - axis))
    return x


def zoom_blur(x: Array, random: np.random.RandomState, largest: float, step: float) -> Array:
    """Average the image and its enlargements, from 1 on."""
    factors = np.arange(1, largest, step)
    return (x + sum(zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def motion_taps(radius: int, sigma: float, angle: float) -> list[tuple[float, int, int]]:
    """Return (weight, shift down, shift right) of the frames of a motion; angle in degrees.

    Weights fall on one side only. The order of operations decides ties of rounding (-30 degrees).
    """
    width = 2 * radius + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    down, right = width * np.sin(np.deg2rad(angle)), width * np.cos(np.deg2rad(angle))
    length = np.hypot(down, right)
    return [
        (weight, -int(np.ceil(i * down / length - 0.5)), -int(np.ceil(i * right / length - 0.5)))
        for i, weight in enumerate(weights)
    ]


def motion_blurred(x: Array, radius: int, sigma: float, angle: float) -> Array:
    """Average shifted copies of an image (H, W) or (H, W, C); lines that are left empty take the adjacent one."""
    reach = max(max(abs(down), abs(right)) for _, down, right in motion_taps(radius, sigma, angle))
    height, width = x.shape[:2]
    padded = np.pad(x, ((reach, reach), (reach, reach), *[(0, 0)] * (x.ndim - 2)), mode="edge")
    out = np.zeros(x.shape)
    for weight, down, right in motion_taps(radius, sigma, angle):
        out += weight * padded[reach - down : reach - down + height, reach - right : reach - right + width]
    return out


def motion_blur(x: Array, random: np.random.RandomState, radius: int, sigma: float) -> Array:
    """Move the image along a random direction, up to 45 degrees from level."""
    return motion_blurred(x, radius, sigma, random.uniform(-45, 45))
