"""Perturbation sequences: deterministic, of any size, and what each does to a picture."""

from __future__ import annotations

import numpy as np
import pytest

from backbones import UserError
from classify.perturbations import larger_side, perturbed
from classify.robustness import PERTURBATIONS
from tests.classify.test_corruptions import picture

SIZE = 56


@pytest.fixture(scope="module")
def image():
    return picture(larger_side(SIZE), larger_side(SIZE))


@pytest.fixture(scope="module")
def clean(image):
    return image[4:-4, 4:-4]


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_sequences_are_what_seed_and_picture_say(image, name):
    frames = perturbed(image, name, SIZE, seed=2, key=7)
    assert frames.shape == (41 if name == "translate" else 31, SIZE, SIZE, 3) and frames.dtype == np.uint8
    assert (perturbed(image.copy(), name, SIZE, seed=2, key=7) == frames).all()
    steps = np.abs(np.diff(frames.astype(float), axis=0)).mean((1, 2, 3))
    assert (steps > 0).sum() > 10 and steps.max() < 40  # short blurs of small pictures repeat frames


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise"])
def test_noise_starts_clean_and_grows_with_difficulty(image, clean, name):
    levels = [perturbed(image, name, SIZE, difficulty=d) for d in (1, 2, 3)]
    assert all(np.abs(frames[0].astype(int) - clean).max() <= 1 for frames in levels)
    spread = [np.abs(frames[1:].astype(float) - clean).mean() for frames in levels]
    assert spread == sorted(spread) and (levels[0][1] != levels[0][2]).any()


@pytest.mark.parametrize("name, middle", [("translate", 20), ("rotate", 15), ("tilt", 15), ("brightness", 15)])
def test_the_middle_frame_is_the_picture(image, clean, name, middle):
    assert np.abs(perturbed(image, name, SIZE)[middle].astype(int) - clean).max() <= 2


def test_translation_moves_to_the_right(image):
    frames = perturbed(picture(256, 256), "translate", 224).astype(int)
    np.testing.assert_array_equal(frames[25][:, 5:], frames[20][:, :-5])


def test_scale_shrinks_about_the_centre():
    image = np.full((64, 64, 3), 200, np.uint8)
    frames = perturbed(image, "scale", SIZE)
    assert frames[0, :14].max() == 0 and frames[0, 28, 28].min() == 200 and (frames[-1] == 200).all()


def test_tilt_brings_one_corner_nearer_and_another_further():
    image = np.full((64, 64, 3), 200, np.uint8)
    first, last = (perturbed(image, "tilt", SIZE)[i, :, :, 0] for i in (0, -1))
    assert (first == 0).any() and (last == 0).any() and (first != last).any()
    lost = [(frame == 0).sum() for frame in (first, last)]
    assert max(lost) < 0.2 * first.size


def test_what_cannot_be_perturbed(image):
    with pytest.raises(UserError, match="did you mean 'tilt'"):
        perturbed(image, "tild", SIZE)
    with pytest.raises(UserError, match="difficulties are 1 to 3"):
        perturbed(image, "tilt", SIZE, difficulty=4)
