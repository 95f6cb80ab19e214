"""Every method trains on two processes (gloo, on the CPU) as on one, batch statistics and dropout left out."""

from __future__ import annotations

import warnings

import lightning_fabric
import numpy as np
import pytest
import torch
from torch import nn

from episodes.dataset import ArraySet
from episodes.engine import Plan, fit
from episodes.loaders import BatchImages, EpisodeImages, Pictures, numbered_loader
from episodes.optim import build_optimizer, build_schedule
from episodes.sampler import EpisodeSampler
from fewshot.card import design
from fewshot.encoder import EpisodeModel, PretrainModel, classification_step, episode_step
from fewshot.methods import METHODS, create_head, find_method

# Pre-training differs by the pooling alone.
STAGES = [("protonet", "pretrain"), ("meta_deepbdc", "pretrain")]
STAGES += [(name, "meta") for name in METHODS if find_method(name).episodic]


def without_what_differs(module: nn.Module) -> nn.Module:
    """Put Identity in place of batch normalisation and dropout, which each process has of its own."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.Dropout):
                setattr(parent, name, nn.Identity())
    return module


def curve(fabric, data: ArraySet, name: str, stage: str) -> list[float]:
    pictures, (rank, world) = Pictures(data, 16, (0.5,) * 3, (0.3,) * 3), (fabric.global_rank, fabric.world_size)
    torch.manual_seed(0)
    encoder = design(name, "conv4", {"width": 8, "pooled_stages": 2}, None, "relu", 16)[1]
    if stage == "pretrain":
        model, step = PretrainModel(encoder, 6, 0.0), classification_step
        batches = BatchImages(pictures, 30, 0, 0, rank, world)
    else:
        model, step = EpisodeModel(encoder, create_head(name, 1, encoder.out_dim)), episode_step
        sampler = EpisodeSampler(data.labels, 3, 1, 2, 2, rank=rank, world_size=world)
        batches = EpisodeImages(pictures, sampler, 2)
    model = without_what_differs(model)
    optimizer = build_optimizer(model, 0.01)
    state = fit(
        fabric, model, step, batches, lambda numbered, start: numbered_loader(numbered, start=start), optimizer,
        build_schedule(optimizer, "constant"), Plan(epochs=2), say=lambda text: None,
    )  # fmt: skip
    return [row["loss"] for row in state.history]


def curves(fabric, data: ArraySet) -> dict[tuple[str, str], list[float]]:
    """Losses of all methods in both stages, one after the other: processes are started once for all."""
    warnings.simplefilter("ignore")
    return {(name, stage): curve(fabric, data, name, stage) for name, stage in STAGES}


@pytest.fixture(scope="module")
def both() -> list[dict[tuple[str, str], list[float]]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (48, 3, 16, 16), generator=generator, dtype=torch.uint8)
    data = ArraySet(images, np.repeat(np.arange(6), 8), list("abcdef"))
    fabrics = [
        lightning_fabric.Fabric(accelerator="cpu", devices=1),
        lightning_fabric.Fabric(accelerator="cpu", devices=2, strategy="ddp_fork"),
    ]
    return [fabrics[0].launch(curves, data), fabrics[1].launch(curves, data)]


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_every_method_trains_on_two_as_on_one(both, name, stage):
    alone, together = both
    assert all(np.isfinite(alone[name, stage]))
    assert together[name, stage] == pytest.approx(alone[name, stage], rel=2e-4)
