"""How pictures are shown: random by their place alone, whole whatever their kind, several views in tests."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import UserError
from classify.views import Shown, View
from episodes.sources.folder import folder_set

FLAT = ((0.0,) * 3, (1.0,) * 3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of every kind: mixed sizes, greyscale, CMYK, alpha, palette, 16 bit, one pixel."""
    root, generator = tmp_path_factory.mktemp("kinds"), np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    kinds = {
        "a/rgb.png": noise,
        "a/grey.png": noise.convert("L"),
        "a/alpha.png": noise.convert("RGBA"),
        "a/palette.png": noise.convert("P"),
        "b/cmyk.jpg": noise.convert("CMYK"),
        "b/pixel.png": Image.new("RGB", (1, 1), (200, 10, 10)),
        "b/line.png": noise.resize((90, 1)),
        "b/deep.png": Image.fromarray(generator.integers(0, 2**16, (33, 21)).astype(np.uint16)),
    }
    for name, image in kinds.items():
        (root / name).parent.mkdir(exist_ok=True)
        image.save(root / name)
    return folder_set(root)


@pytest.mark.parametrize("augment", ["imagenet", "centre", "pad", "none"])
@pytest.mark.parametrize("more", [{}, {"randaug": "rand-m9-mstd0.5-inc1", "interpolation": "random"}])
def test_every_kind_of_picture_passes(pictures, augment, more):
    shown = Shown(pictures, View(24, augment=augment, **more), *FLAT)
    batch = shown.load(range(len(pictures)), 1, 2)
    assert batch.shape == (8, 3, 24, 24) and batch.dtype == torch.float32
    assert batch.min() >= 0 and batch.max() <= 1


def test_a_picture_is_drawn_by_its_place_and_nobody_else_notices(pictures):
    view = View(16, augment="imagenet", randaug="rand-m9-mstd0.5-inc1", erasing=0.5)
    shown = Shown(pictures, view, *FLAT)
    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    whole = shown.load(range(8), 5, 0)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002
    random.seed(4)
    part = shown.load([3, 7], 5, 0, places=[3, 7])
    assert torch.equal(part, whole[[3, 7]])
    assert not torch.equal(shown.load(range(8), 5, 1), whole)


def test_erasing_fills_a_rectangle_after_normalisation(pictures):
    plain, erased = (Shown(pictures, View(16, augment="centre", flip=0.0, erasing=p), *FLAT) for p in (0.0, 1.0))
    changed = (plain.load([0], 1) != erased.load([0], 1)).any(1)[0]
    rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
    inside = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert 0 < changed.sum() < 256 and inside.all()


def test_pictures_of_the_right_size_stay_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a/1.png")
    found = Shown(folder_set(tmp_path), View(16), *FLAT).load([0], 0)[0]
    assert torch.equal((255 * found).round().byte(), torch.from_numpy(pixels).permute(2, 0, 1))
    assert not torch.equal(Shown(folder_set(tmp_path), View(16, resize=20), *FLAT).load([0], 0)[0], found)


def test_mirror_and_ten_views(pictures):
    one = Shown(pictures, View(16), *FLAT).load([0, 4], 0)
    two = Shown(pictures, View(16), *FLAT, "mirror").load([0, 4], 0)
    ten = Shown(pictures, View(16), *FLAT, "ten").load([0, 4], 0)
    assert torch.equal(two[:, 0], one) and torch.equal(two[:, 1], one.flip(-1))
    assert ten.shape == (2, 10, 3, 16, 16) and torch.equal(ten[:, 4], one)
    assert torch.equal(ten[:, [6, 5, 8, 7]], ten[:, :4].flip(-1))  # left and right corners change places


def test_squash_shows_the_whole_picture(pictures):
    """The left half of a wide picture: cut off by a centre crop of its height, and there where it is squashed."""
    wide = pictures.take(np.array([0]), np.array([0]), ["a"])
    wide.read = lambda name: Image.fromarray(np.repeat([[[255, 0, 0]], [[0, 0, 255]]], 40, axis=1).astype(np.uint8))
    kept = Shown(wide, View(8, resize=8), *FLAT).load([0], 0)[0]
    squashed = Shown(wide, View(8, resize=8, squash=True), *FLAT).load([0], 0)[0]
    assert kept.shape == squashed.shape
    assert squashed[0, 0].mean() > 0.9 and squashed[2, -1].mean() > 0.9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"augment": "imagnet"}, "did you mean 'imagenet'"),
        ({"resize": 8}, "smaller than the crop"),
        ({"scale": (0.5, 0.1), "augment": "imagenet"}, "data.scale"),
        ({"randaug": "rand-x9", "augment": "imagenet"}, "data.randaug 'rand-x9'"),
    ],
)
def test_views_that_there_are_not(pictures, options, words):
    with pytest.raises(UserError, match=words):
        Shown(pictures, View(16, **options), *FLAT)
