"""Masked reconstruction: masks, targets against a loop, refusals, and a network that learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.video_mae import MaskedAutoencoder, reconstruction_target, tube_mask, tube_masks
from backbones.video_vit import VideoViT

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)


def tiny(**options) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = VideoViT(dim=24, depth=2, heads=3, patch_size=4, input_size=16, frames=4, final_norm=True)
    return MaskedAutoencoder(encoder, 16, 1, 2, mean=MEAN, std=STD, **options)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(2, 5), st.floats(0.3, 0.95), st.integers(0, 99))
def test_tubes_hide_the_same_places_in_every_frame(t, h, w, ratio, seed):
    masked = int(ratio * h * w)
    one = tube_mask((t, h, w), ratio, np.random.default_rng(seed)).reshape(1, t, h * w)
    many = tube_masks(5, (t, h, w), ratio, torch.Generator().manual_seed(seed)).reshape(5, t, h * w)
    for mask in (one, many):
        assert (mask == mask[:, :1]).all() and (mask.sum(-1) == masked).all()


def test_masks_differ_and_follow_their_generator():
    masks = tube_masks(8, (2, 7, 7), 0.5, torch.Generator().manual_seed(0))
    assert len({tuple(mask.tolist()) for mask in masks}) == 8
    torch.testing.assert_close(masks, tube_masks(8, (2, 7, 7), 0.5, torch.Generator().manual_seed(0)))
    share = tube_masks(4000, (1, 3, 3), 0.5, torch.Generator().manual_seed(1)).float().mean(0)
    torch.testing.assert_close(share, torch.full((9,), 4 / 9), atol=0.03, rtol=0)  # every place as often as another
    for draw in (lambda r: tube_mask((2, 2, 2), r), lambda r: tube_masks(1, (2, 2, 2), r, torch.Generator())):
        for ratio in (0.1, 1.0):
            with pytest.raises(ValueError, match="some must be hidden, not all"):
                draw(ratio)


def test_target_by_loops():
    model, x = tiny(), torch.randn(1, 3, 4, 8, 8, dtype=torch.float64)
    found = reconstruction_target(model.encoder.patch_embed.tubes(x), MEAN, STD)[0]
    number = 0
    for t in range(0, 4, 2):
        for i in range(0, 8, 4):
            for j in range(0, 8, 4):
                expected = torch.empty(2, 4, 4, 3, dtype=torch.float64)  # colour fastest
                for c in range(3):
                    tube = x[0, c, t : t + 2, i : i + 4, j : j + 4] * STD[c] + MEAN[c]
                    expected[..., c] = (tube - tube.mean()) / (tube.std() + 1e-6)
                torch.testing.assert_close(found[number], expected.flatten())
                number += 1
    plain = reconstruction_target(torch.zeros(1, 1, 3, 2, 4, 4), MEAN, STD)
    assert plain.isfinite().all() and plain.abs().max() < 1


def test_hidden_pixels_do_not_reach_the_prediction():
    model, grid = tiny().double(), (2, 4, 4)
    x = torch.randn(2, 3, 4, 16, 16, dtype=torch.float64)
    mask = tube_masks(2, grid, 0.75, torch.Generator().manual_seed(0))
    predicted, target = model.predict(x, mask)
    assert predicted.shape == target.shape == (2, 24, 96)
    hidden = mask.reshape(2, 1, *grid).repeat_interleave(2, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    other, changed = model.predict(torch.where(hidden, x + torch.randn_like(x), x), mask)
    torch.testing.assert_close(other, predicted, rtol=0, atol=0)
    assert not torch.allclose(changed, target)


def test_masks_that_do_not_fit():
    model, x = tiny(), torch.zeros(2, 3, 4, 16, 16)
    uneven = torch.zeros(2, 32, dtype=torch.bool)
    uneven[0, :3], uneven[1, :4] = True, True
    for mask, message in (
        (uneven, "got 3 to 4"),
        (torch.ones(2, 32), "between 1 and 31"),
        (torch.zeros(2, 32), "between 1 and 31"),
        (torch.ones(2, 31), r"must be \(clips, tokens\) = \(2, 32\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(x, mask)
    with pytest.raises(ValueError, match="final_norm=True"):
        MaskedAutoencoder(VideoViT(dim=24, depth=1, heads=3))


def test_published_decoder_of_the_small_network():
    with torch.device("meta"):
        model = MaskedAutoencoder(VideoViT(final_norm=True))
    assert model.decoder.head.weight.shape == (1536, 192) and len(model.decoder.blocks) == 4
    assert model.decoder.blocks[0].attn.heads == 3


def test_it_learns_to_fill_in():
    """Stripes, upright in one half of the clips and level in the other: what is hidden follows from what is seen."""
    model = tiny()
    generator = torch.Generator().manual_seed(0)
    upright = torch.sin(torch.arange(16) * torch.pi / 2 + 0.3).expand(3, 4, 16, 16)
    x = torch.stack([upright, upright.mT] * 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model(x, tube_masks(8, (2, 4, 4), 0.75, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.9 and np.mean(losses[-5:]) < 0.1  # 0.5 without looking at the clip
