"""Weather, spatter and elastic corruptions of an image in [0, 1] (ImageNet-C's definitions)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from classify.corruption_blur import correlate_mirrored, motion_blurred, smooth, zoomed

Array = np.ndarray
GREY = np.array([0.299, 0.587, 0.114])


def diamond_square(side: int, decay: float, random: np.random.RandomState) -> Array:
    """Return a square fractal map in [0, 1]; side: a power of two. Borders wrap around."""
    field = np.zeros((side, side))
    step, wibble = side, 100.0
    while step >= 2:
        half = step // 2

        def mean(total: Array, wibble: float = wibble) -> Array:
            return total / 4 + wibble * random.uniform(-wibble, wibble, total.shape)

        corners = field[::step, ::step]
        total = corners + np.roll(corners, -1, 0)
        field[half::step, half::step] = mean(total + np.roll(total, -1, 1))
        centres = field[half::step, half::step]
        upper = centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1)
        field[::step, half::step] = mean(upper)
        left = centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0)
        field[half::step, ::step] = mean(left)
        step, wibble = half, wibble / decay
    field -= field.min()
    return field / field.max()


def fog(x: Array, random: np.random.RandomState, strength: float, decay: float) -> Array:
    """Add a fractal map and scale back to the brightest value."""
    height, width = x.shape[:2]
    side = 1 << (max(height, width) - 1).bit_length()
    field = diamond_square(side, decay, random)[:height, :width, None]
    brightest = x.max()
    return (x + strength * field) * brightest / (brightest + strength)


def at_published_scale(make: Callable[[tuple[int, int]], Array], shape: tuple[int, int], unit: float) -> Array:
    """Return a field (H, W) of a picture, made where lengths are the published ones and resized.

    make: shape -> field. unit: pixels of the picture for one at 224 pixels; at 1 nothing is resized.
    Fields of noise change their strength with the pixels that they are smoothed over, and flakes and drops are smaller
    than a pixel of a small picture: so they are made large and averaged, as the picture itself would be.
    """
    if unit == 1:
        return make(shape)
    large = tuple(max(1, round(side / unit)) for side in shape)
    way = Image.Resampling.BOX if unit < 1 else Image.Resampling.BILINEAR
    field = Image.fromarray(make(large).astype(np.float32)).resize(shape[::-1], way)
    return np.asarray(field, dtype=np.float64)


def snow_layer(
    shape: tuple[int, int], random: np.random.RandomState, mean: float, std: float, zoom: float, threshold: float
) -> Array:
    """Return flakes (H, W) at 8 bits: large normal numbers, enlarged."""
    flakes = zoomed(random.normal(size=shape, loc=mean, scale=std), zoom)
    flakes[flakes < threshold] = 0
    return np.floor(np.clip(flakes, 0, 1) * 255) / 255


def snowed(x: Array, layer: Array, keep: float) -> Array:
    """Whiten an image and add flakes, and the same turned by 180 degrees."""
    pale = np.maximum(x, (x @ GREY * 1.5 + 0.5)[..., None])
    return keep * x + (1 - keep) * pale + (layer + np.rot90(layer, 2))[..., None]


def snow(
    x: Array,
    random: np.random.RandomState,
    mean: float,
    std: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    keep: float,
    unit: float = 1.0,
) -> Array:
    """Falling flakes, moved along a random direction near the vertical; unit: see `at_published_scale`."""

    def falling(shape: tuple[int, int]) -> Array:
        layer = snow_layer(shape, random, mean, std, zoom, threshold)
        return motion_blurred(layer, radius, sigma, random.uniform(-135, -45))

    return snowed(x, at_published_scale(falling, x.shape[:2], unit), keep)


def ice(shape: tuple[int, int], random: np.random.RandomState) -> Array:
    """Make a texture (H, W, 3) that stands for a photograph of frost: needles in patches, cold white."""
    height, width = shape
    side = 1 << (max(height, width, 2) - 1).bit_length()
    patches = diamond_square(side, 1.6, random)[:height, :width]
    needles = np.zeros(shape)
    for angle in random.uniform(0, 180, 5):
        seeds = (random.random_sample(shape) < 0.01).astype(float)
        needles = np.maximum(needles, motion_blurred(seeds, max(2, min(shape) // 16), 1e3, angle))
    needles /= max(needles.max(), 1e-12)
    grey = np.clip(0.25 + 0.9 * (patches - 0.5) + 0.8 * needles * patches, 0, 1)
    return np.clip(grey[..., None] * np.array([0.88, 0.96, 1.0]), 0, 1)


def frost(
    x: Array,
    random: np.random.RandomState,
    image: float,
    weight: float,
    photographs: Sequence[Array] = (),
    unit: float = 1.0,
) -> Array:
    """Lay a random crop of a photograph of frost over the image.

    photographs: (H, W, 3) in [0, 1], enlarged by repetition of their edge where too small; none: textures are made.
    unit: pixels of the image for one at 224 pixels; the crop shows as much of a photograph as there.
    """
    size = x.shape[:2]
    if not photographs:
        return image * x + weight * ice(size, random)
    picture = photographs[random.randint(len(photographs))]
    needs = [max(1, round(side / unit)) for side in size]
    lacking = [(0, max(0, need - have)) for need, have in zip(needs, picture.shape, strict=False)]
    picture = np.pad(picture, (*lacking, (0, 0)), mode="symmetric")
    top, left = (random.randint(0, have - need + 1) for need, have in zip(needs, picture.shape, strict=False))
    return image * x + weight * _resized(picture[top : top + needs[0], left : left + needs[1]], size)


def _resized(picture: Array, size: tuple[int, int]) -> Array:
    """Resize (H, W, 3) in [0, 1], with antialias; one that has the size stays as it is."""
    if picture.shape[:2] == tuple(size):
        return picture
    from PIL import Image

    bands = [Image.fromarray(picture[..., band].astype(np.float32)) for band in range(3)]
    resized = [np.asarray(band.resize(size[::-1], Image.Resampling.BILINEAR), dtype=np.float64) for band in bands]
    return np.stack(resized, -1)


def _kept(sigma: float) -> float:
    """Return the share of its standard deviation that white noise (H, W) keeps under a Gaussian cut at 3 sigma."""
    reach = int(3 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return float(np.square(taps / taps.sum()).sum())


def elastic_transform(
    x: Array, random: np.random.RandomState, alpha: float, sigma: float, jitter: float, unit: float = 1.0
) -> Array:
    """Shear an image by three jittered points, then move every pixel along a smooth random field.

    unit: pixels of the image for one at 224 pixels; points and pixels move as far in proportion to the image.
    """
    from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

    height, width = x.shape[:2]
    centre, third = np.array([width, height]) // 2, min(height, width) // 3
    points = np.float64([centre + third, [centre[0] + third, centre[1] - third], centre - third])
    moved = points + random.uniform(-jitter * unit, jitter * unit, size=points.shape)
    back = np.linalg.solve(np.c_[moved, np.ones(3)], points).T  # (2, 3): output (x, y, 1) -> input (x, y)
    matrix, offset = back[::-1, 1::-1], back[::-1, 2]  # the same in rows and columns
    sheared = [affine_transform(x[..., c], matrix, offset, order=1, mode="mirror") for c in range(x.shape[2])]

    reach = alpha * unit * (1.0 if unit == 1 else _kept(sigma) / _kept(sigma * unit))

    def displacement() -> Array:
        noise = random.uniform(-1, 1, size=(height, width))
        return reach * gaussian_filter(noise, sigma * unit, mode="reflect", truncate=3)

    right, down = displacement(), displacement()
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    places = [rows + down, columns + right]
    return np.stack([map_coordinates(channel, places, order=1, mode="reflect") for channel in sheared], -1)


WATER, MUD = np.array([175, 238, 238]) / 255, np.array([63, 42, 20]) / 255


def _edges(x: Array, low: float, high: float) -> Array:
    """Canny's edges (H, W) of an image of 8 bits: strong ridges of the gradient, and weak ones that touch them."""
    from scipy.ndimage import label, maximum_filter1d, sobel

    down, right = sobel(x, 0, mode="nearest"), sobel(x, 1, mode="nearest")
    size = np.abs(down) + np.abs(right)
    level, upright = np.abs(down) <= 0.4142 * np.abs(right), np.abs(down) >= 2.4142 * np.abs(right)
    padded = np.pad(size, 1)

    def neighbours(dy: int, dx: int) -> Array:
        ahead = padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        behind = padded[1 - dy : padded.shape[0] - 1 - dy, 1 - dx : padded.shape[1] - 1 - dx]
        return np.maximum(ahead, behind)

    rising = np.where(down * right >= 0, neighbours(1, 1), neighbours(1, -1))
    across, along = (maximum_filter1d(size, 3, axis=axis) for axis in (1, 0))
    beside = np.where(level, across, np.where(upright, along, rising))
    ridge = size >= beside
    parts, _ = label(ridge & (size > low), np.ones((3, 3)))
    strong = np.unique(parts[ridge & (size > high)])
    return np.isin(parts, strong[strong > 0])


def _equalised(x: Array) -> Array:
    """Spread the values of an image of 8 bits evenly over 0..255."""
    counts = np.bincount(x.ravel(), minlength=256).cumsum()
    start = counts[counts > 0][0]
    table = np.rint((counts - start) * 255 / max(counts[-1] - start, 1))
    return np.clip(table, 0, 255).astype(np.uint8)[x]


def _water(layer: Array, strength: float) -> Array:
    """Return the weight (H, W) of drops: shaded by the distance from their edges."""
    from scipy.ndimage import distance_transform_edt, uniform_filter

    liquid = (np.clip(layer, 0, 1) * 255).astype(np.uint8)
    distance = np.minimum(distance_transform_edt(~_edges(liquid.astype(float), 50, 150)), 20)
    shade = _equalised(np.rint(uniform_filter(distance, 3, mode="mirror")).astype(np.uint8)).astype(float)
    relief = np.array([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])
    shade = np.clip(correlate_mirrored(shade[..., None], relief)[..., 0], 0, 255)
    weight = liquid / 255.0 * uniform_filter(shade, 3, mode="mirror")
    return weight / max(weight.max(), 1e-12) * strength


def spatter(
    x: Array,
    random: np.random.RandomState,
    mean: float,
    std: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: int,
    unit: float = 1.0,
) -> Array:
    """Drops of water, or splashes of mud, on the lens; unit: see `at_published_scale`."""

    def drops(shape: tuple[int, int]) -> Array:
        layer = smooth(random.normal(size=shape, loc=mean, scale=std), sigma)
        layer[layer < threshold] = 0
        if not mud:
            return _water(layer, strength)
        mask = smooth((layer > threshold).astype(float), 1.5)
        mask[mask < 0.8] = 0
        return mask

    cover = at_published_scale(drops, x.shape[:2], unit)[..., None]
    return x * (1 - cover) + MUD * cover if mud else x + WATER * cover
