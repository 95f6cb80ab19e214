"""Corruptions: the same bytes whatever the order, any size, and slow second versions of what was made fast."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from backbones import UserError
from classify.corruption_blur import correlate_mirrored, defocus_blur, disk, motion_blurred, scatter, zoomed
from classify.corruption_weather import diamond_square
from classify.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted, stream
from classify.robustness import CORRUPTIONS as COUNTED
from classify.robustness import VALIDATION_CORRUPTIONS


def picture(height: int, width: int) -> np.ndarray:
    """Smooth colours with some texture."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / a) + np.cos(columns / b) for a, b in ((5, 9), (11, 4), (7, 7))]
    return (128 + 50 * np.stack(waves, -1)).clip(0, 255).astype(np.uint8)


def test_the_table_is_the_benchmarks():
    assert set(CORRUPTIONS) == {*COUNTED, *VALIDATION_CORRUPTIONS} and len(CORRUPTIONS) == 19
    assert all(len(c.settings) == 5 for c in CORRUPTIONS.values())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_same_image_same_bytes_in_any_order(name):
    image = picture(40, 53)
    found = {s: corrupt(image, name, s, seed=3, key="a") for s in SEVERITIES}
    for severity in reversed(SEVERITIES):
        again = corrupt(image.copy(), name, severity, seed=3, key="a")
        assert again.shape == image.shape and again.dtype == np.uint8
        assert (again == found[severity]).all()
    assert all((value != image).any() for value in found.values())


@pytest.mark.parametrize(
    "name", ["gaussian_noise", "glass_blur", "fog", "snow", "frost", "elastic_transform", "spatter"]
)
def test_seed_and_image_decide_what_is_random(name):
    image = picture(48, 48)
    first = corrupt(image, name, 3, seed=0, key=0)
    assert (corrupt(image, name, 3, seed=0, key=1) != first).any()
    assert (corrupt(image, name, 3, seed=1, key=0) != first).any()


@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "defocus_blur", "contrast", "jpeg_compression"])
def test_severity_takes_the_image_further_away(name):
    image = picture(96, 96)
    far = [np.abs(corrupt(image, name, s).astype(float) - image).mean() for s in SEVERITIES]
    assert far == sorted(far)


@pytest.mark.parametrize("reach, passes", [(1, 2), (3, 2), (4, 1)])
def test_scattering_is_the_pass_over_pixels(reach, passes):
    image = picture(33, 38)
    slow, random = image.copy(), np.random.RandomState(5)
    for _ in range(passes):
        for h in range(33 - reach, reach, -1):
            for w in range(38 - reach, reach, -1):
                dx, dy = random.randint(-reach, reach, size=2)
                slow[h, w] = slow[h + dy, w + dx]
    assert (scatter(image, np.random.RandomState(5), reach, passes) == slow).all()


@pytest.mark.parametrize("factor", [1.0, 1.07, 1.3, 4.5])
def test_zoom_is_scipys(factor):
    image = picture(61, 45) / 255
    crop = [int(np.ceil(side / factor)) for side in (61, 45)]
    first = [(side - c) // 2 for side, c in zip((61, 45), crop, strict=True)]
    cut = image[first[0] : first[0] + crop[0], first[1] : first[1] + crop[1]]
    large = ndimage.zoom(cut, (factor, factor, 1), order=1, mode="nearest")
    trim = [(have - side) // 2 for have, side in zip(large.shape, (61, 45), strict=False)]
    expected = large[trim[0] : trim[0] + 61, trim[1] : trim[1] + 45]
    np.testing.assert_allclose(zoomed(image, factor), expected, atol=1e-12)


def test_correlation_mirrors_the_borders():
    image, kernel = picture(34, 40) / 255, np.random.RandomState(0).random_sample((5, 7))
    slow = np.stack([ndimage.correlate(image[..., c], kernel, mode="mirror") for c in range(3)], -1)
    np.testing.assert_allclose(correlate_mirrored(image, kernel), slow, atol=1e-12)


@pytest.mark.parametrize("radius", [0.4, 3, 4.5, 10])
def test_disks(radius):
    found, flat = disk(radius, 0.5), np.full((40, 40, 3), 0.3)
    # smoothing at the border of the table adds a little where the disk touches it, as in the benchmark
    assert found.sum() == pytest.approx(1, abs=0.02) and np.allclose(found, found.T)
    assert found[found.shape[0] // 2, found.shape[1] // 2] == pytest.approx(found.max())
    np.testing.assert_allclose(defocus_blur(flat, None, radius, 0.5), flat * found.sum())


def test_motion_goes_where_the_angle_points():
    dot = np.zeros((41, 41))
    dot[20, 20] = 1
    level, up = motion_blurred(dot, 5, 3, 0), motion_blurred(dot, 5, 3, 90)
    assert level[20].sum() == pytest.approx(1) and level[20, :10].sum() == 0 and level[20, 10:21].min() > 0
    assert up[:, 20].sum() == pytest.approx(1) and up[10:21, 20].min() > 0


def test_fractal_map_spans_zero_to_one_and_wraps():
    field = diamond_square(64, 2.0, np.random.RandomState(0))
    assert field.min() == 0 and field.max() == 1
    steps = np.abs(np.diff(field, axis=0)).mean(), np.abs(field[0] - field[-1]).mean()
    assert steps[1] < 3 * steps[0]


def test_frost_takes_photographs():
    image = picture(50, 50)
    photograph = np.full((20, 70, 3), 0.5)
    found = corrupt(image, "frost", 5, frost=[photograph])
    np.testing.assert_allclose(found, np.clip(0.6 * image + 0.75 * 127.5, 0, 255), atol=1)


def test_published_lengths_hold_at_224_pixels_and_on_request():
    assert CORRUPTIONS["glass_blur"].arguments(4, 224) == (1.1, 3, 2)
    assert CORRUPTIONS["glass_blur"].arguments(4, 64) == (pytest.approx(1.1 * 64 / 224), 1, 2)
    image = picture(64, 64)
    as_published = corrupted(image, "gaussian_blur", 2, stream(0), scale_lengths=False)
    expected = ndimage.gaussian_filter(image / 255, (2, 2, 0), mode="nearest") * 255
    np.testing.assert_allclose(as_published, expected)


@pytest.mark.parametrize("name", ["snow", "elastic_transform", "spatter"])
@pytest.mark.parametrize("side", [32, 320])
def test_random_fields_are_as_strong_at_any_size(name, side):
    """Corrupting and resizing, in either order, take a picture about as far from itself."""

    def resized(image: np.ndarray) -> np.ndarray:
        way = Image.Resampling.BOX if side < 224 else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(image).resize((side, side), way))

    rows, columns = np.mgrid[:224, :224]
    waves = [np.sin(rows / a) + np.cos(columns / b) for a, b in ((25, 49), (21, 17), (37, 17))]
    image = (110 + 50 * np.stack(waves, -1)).clip(0, 255).astype(np.uint8)
    small = resized(image)
    for severity in (1, 3, 5):
        far = [
            np.abs(found.astype(float) - small).mean()
            for found in (resized(corrupt(image, name, severity)), corrupt(small, name, severity))
        ]
        assert 0.5 < far[1] / far[0] < 2, (severity, far)


def test_what_cannot_be_corrupted():
    with pytest.raises(UserError, match="did you mean 'pixelate'"):
        corrupt(picture(64, 64), "pixelated", 1)
    with pytest.raises(UserError, match="severities are 1 to 5"):
        corrupt(picture(64, 64), "fog", 6)
    with pytest.raises(UserError, match="at least 32 pixels.*100x31"):
        corrupt(picture(31, 100), "snow", 1)
    with pytest.raises(ValueError, match="uint8"):
        corrupt(picture(64, 64) / 255, "fog", 1)


def test_frost_shows_as_much_of_a_photograph_at_every_size():
    stripes = np.zeros((448, 448, 3))
    stripes[:, (np.arange(448) // 28) % 2 == 0] = 1.0  # eight dark and bright ones in a crop of 224 pixels

    def changes(side: int) -> int:
        found = corrupt(np.full((side, side, 3), 40, np.uint8), "frost", 3, frost=[stripes])
        row = found[side // 2, :, 0] > found.mean()
        return int((row[1:] != row[:-1]).sum())

    assert abs(changes(224) - 8) <= 1 and abs(changes(32) - changes(224)) <= 2 and abs(changes(448) - 8) <= 2
    assert changes(64) == pytest.approx(changes(224), abs=2)
