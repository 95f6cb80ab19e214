"""Transforms: the golden evaluation image, seeding, and the batch versions against the single ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from episodes.errors import UserError
from episodes.transforms import (
    MEAN,
    STD,
    augment_batch,
    eval_batch,
    eval_transform,
    normalise_batch,
    resize_for,
    seeded,
    train_transform,
)
from tests.conftest import SHARED


def picture(height: int = 60, width: int = 80, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_eval_transform_matches_the_golden_image():
    folder = SHARED / "golden" / "deepbdc"
    if not folder.is_dir():
        pytest.skip(f"no reference vectors at {folder}")
    vectors = json.loads((folder / "deepbdc.json").read_text())["vectors"]
    vector = next(v for v in vectors if v["kind"] == "eval_transform")
    recipe, args = vector["inputs"]["image"], vector["args"]
    noise = np.random.default_rng(recipe["seed"]).standard_normal(recipe["shape"])
    wave = 40 * np.sin(np.arange(recipe["shape"][1]) / 11)[None, :, None]
    image = Image.fromarray(np.clip(np.rint(127.5 + 45 * noise + wave), 0, 255).astype(np.uint8))
    out = eval_transform(args["image_size"], args["mean"], args["std"])(image).numpy().astype(np.float64)
    stored = np.load(folder / vector["npz"])
    assert out.shape == tuple(stored["out_shape"])
    tolerance = vector["tolerance"]["atol"]
    np.testing.assert_allclose(out[:, :6, :6], stored["patch"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(out.ravel()[:64], stored["out_head"], rtol=0, atol=tolerance)
    probe = out.ravel()[np.linspace(0, out.size - 1, 64).astype(np.int64)]
    np.testing.assert_allclose(probe, stored["out_probe"], rtol=0, atol=tolerance)


def test_resize_rule():
    assert [resize_for(size) for size in (84, 224, 42, 32)] == [92, 256, 46, 35]
    with pytest.raises(UserError, match="smaller than the crop"):
        eval_transform(84, resize=80)


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 90), st.integers(5, 90), st.sampled_from(["standard", "light", "none"]), st.booleans())
def test_every_transform_gives_the_asked_shape(height, width, augment, as_tensor):
    image = picture(height, width)
    if as_tensor:
        image = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    out = seeded(train_transform(20, augment=augment), (0,))(image)
    assert out.shape == (3, 20, 20) and out.dtype == torch.float32 and out.isfinite().all()
    batch = torch.from_numpy(np.asarray(picture(height, width)).copy()).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    out = augment_batch(batch, generator(), 20, augment=augment)
    assert out.shape == (2, 3, 20, 20) and out.isfinite().all()
    lowest, highest = [(torch.tensor(v) - torch.tensor(MEAN)) / torch.tensor(STD) for v in (0.0, 1.0)]
    assert (out.amin((0, 2, 3)) >= lowest - 1e-4).all() and (out.amax((0, 2, 3)) <= highest + 1e-4).all()


def test_seeded_repeats_itself_and_leaves_the_global_generator_alone():
    transform, image = train_transform(32), picture()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (seeded(transform, seed)(image) for seed in ((1, 2, 3), (1, 2, 3), (1, 2, 4)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_unknown_augmentation():
    with pytest.raises(UserError, match="did you mean 'standard'"):
        train_transform(32, augment="standart")
    with pytest.raises(UserError, match="did you mean 'light'"):
        augment_batch(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), generator(), 8, augment="ligth")


def test_normalise_batch_is_the_formula():
    images = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 2, 2)
    expected = (images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(normalise_batch(images).double(), expected, atol=1e-6, rtol=1e-6)


def test_eval_batch_equals_eval_transform_item_by_item():
    images = torch.from_numpy(np.stack([np.asarray(picture(50, 60, s)) for s in range(3)])).permute(0, 3, 1, 2)
    single = torch.stack([eval_transform(28)(image) for image in images])
    torch.testing.assert_close(eval_batch(images, 28), single, atol=1e-5, rtol=1e-5)
    square = images[..., :28, :28]
    assert torch.equal(eval_batch(square, 28), normalise_batch(square))


@pytest.mark.parametrize("augment", ["standard", "light"])
def test_augment_batch_is_set_by_its_generator_and_differs_between_images(augment):
    images = torch.from_numpy(np.asarray(picture(32, 32)).copy()).permute(2, 0, 1).repeat(4, 1, 1, 1)
    before = torch.random.get_rng_state()
    first, again = (augment_batch(images, generator(3), 32, augment=augment) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(first, augment_batch(images, generator(4), 32, augment=augment))
    assert all(not torch.equal(first[0], first[i]) for i in range(1, 4))


def test_flip_and_crop_statistics():
    """A horizontal ramp tells the crop: half of the images are mirrored, the width seen is that of the crop."""
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(3000, 3, 64, 64)
    out = augment_batch(ramp, generator(), 16, mean=(0, 0, 0), std=(1, 1, 1))
    rises = out[:, 0, 8, -1] > out[:, 0, 8, 0]
    assert rises.float().mean() == pytest.approx(0.5, abs=0.05)


def test_crop_areas_follow_the_library():
    """Mean and quartiles of the crop's share of the image, against torchvision's own draw."""
    from torchvision.transforms import v2

    from episodes.transforms import _crop_boxes

    theta = _crop_boxes(torch.rand(4000, 16, generator=generator()), 48, 64)
    mine = (theta[:, 0, 0].abs() * theta[:, 1, 1]).numpy()
    edge = theta[:, :, 2].abs() + torch.stack([theta[:, 0, 0].abs(), theta[:, 1, 1]], 1)
    assert edge.max() <= 1 + 1e-5  # no crop reaches outside
    crop, image = v2.RandomResizedCrop(8, antialias=True), torch.zeros(3, 48, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [crop.make_params([image]) for _ in range(2000)]
    theirs = np.array([p["height"] * p["width"] / (48 * 64) for p in drawn])
    for share in (0.25, 0.5, 0.75):
        assert np.quantile(mine, share) == pytest.approx(np.quantile(theirs, share), abs=0.05)


def test_colour_jitter_matches_the_library_for_given_factors():
    from torchvision.transforms.v2 import functional

    from episodes.transforms import _jitter_colour

    image = torch.rand(1, 3, 6, 7, generator=generator())
    factors = {"brightness": 1.3, "contrast": 0.7, "saturation": 1.2}
    draws = torch.tensor([[(f - 1) / 0.8 + 0.5 for f in factors.values()] + [0.1, 0.2, 0.3]])
    expected = image
    for name, factor in factors.items():
        expected = getattr(functional, f"adjust_{name}")(expected, factor)
    torch.testing.assert_close(_jitter_colour(image, draws), expected, atol=2e-3, rtol=0)


def test_light_keeps_a_character_in_place():
    """No flip and no colour: a dark block stays dark, near where it was."""
    images = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    images[:, :, 12:20, 4:10] = 0
    out = augment_batch(images, generator(), 32, mean=(0, 0, 0), std=(1, 1, 1), augment="light")
    columns = ((1 - out[:, 0]).sum(1) * torch.arange(32)).sum(1) / (1 - out[:, 0]).sum((1, 2))
    assert columns.max() < 14 and out.amin((1, 2, 3)).max() < 0.05
