"""Source stages: classifier, learning rates, optimiser groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from backbones.video_zoo import FrameByFrame, create_video_backbone
from tests.video.tiny import tiny_vit
from video import VideoClassifier
from video.schedules import (
    layer_number,
    scaled_rate,
    set_rates,
    source_groups,
    source_learning_rates,
    tuning_schedule,
)


def test_classifier_averages_tokens():
    model = VideoClassifier(tiny_vit(), 5).double()
    x = torch.randn(2, 3, 8, 8, 8, dtype=torch.float64)
    expected = model.head(model.fc_norm(model.backbone.tokens(x).mean(1)))
    torch.testing.assert_close(model(x), expected)
    assert model.head.weight.std() < 1e-4 and not model.head.bias.any()  # starts near the uniform guess
    frames = VideoClassifier(create_video_backbone("frames:conv4", width=8), 3)
    assert isinstance(frames.backbone, FrameByFrame) and frames(torch.rand(2, 3, 4, 32, 32)).shape == (2, 3)


def test_source_rates():
    rates = source_learning_rates(1.0, 0.1, epochs=10, iters_per_epoch=5, warmup_epochs=2, warmup_start=0.01)
    assert len(rates) == 50
    assert rates[0] == 0.01 and rates[9] == rates[10] == 1.0  # both ends of the warm-up, then the top again
    assert (np.diff(rates[:10]) > 0).all() and (np.diff(rates[10:]) < 0).all()
    assert rates[30] == pytest.approx(0.55) and rates[-1] > 0.1  # half way; the end itself is not reached
    assert source_learning_rates(1.0, 0.0, 2, 3)[0] == 1.0  # no warm-up
    with pytest.raises(ValueError, match="3 warm-up epochs are more than the 2"):
        source_learning_rates(1.0, 0.0, 2, 3, warmup_epochs=3)
    assert scaled_rate(1.5e-4, 1024) == pytest.approx(6e-4)


def test_tuning_rate_after_thirty_epochs():
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = tuning_schedule(optimizer)
    for _ in range(30):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-7 + (1e-3 - 1e-7) * (1 + math.cos(math.pi * 3 / 8)) / 2)


def test_layers_decay_and_vectors_have_no_weight_decay():
    model = VideoClassifier(tiny_vit(depth=3), 5)
    names = dict(model.named_parameters())
    groups = source_groups(model, weight_decay=0.05, layer_decay=0.5, depth=3)
    assert sorted(name for group in groups for name in group["names"]) == sorted(names)  # each exactly once
    by_name = {name: group for group in groups for name in group["names"]}
    for name, scale in {
        "backbone.patch_embed.proj.weight": 0.5**4,
        "backbone.blocks.0.attn.qkv.weight": 0.5**3,
        "backbone.blocks.2.mlp.fc1.bias": 0.5,
        "fc_norm.weight": 1.0,
        "head.weight": 1.0,
    }.items():
        assert by_name[name]["lr_scale"] == scale
        assert by_name[name]["weight_decay"] == (0.05 if names[name].dim() > 1 else 0.0)
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    set_rates(optimizer, 0.2)
    assert {group["lr"] for group in optimizer.param_groups} == {0.2 * 0.5**n for n in (0, 1, 2, 3, 4)}
    model.backbone.requires_grad_(False)
    assert {name for group in source_groups(model) for name in group["names"]} == {
        "fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias",
    }  # fmt: skip
    assert layer_number("encoder.blocks.11.norm1.bias", 12) == 12
    with pytest.raises(ValueError, match="pass depth"):
        source_groups(model, layer_decay=0.75)
