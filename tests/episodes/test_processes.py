"""Training on several processes (gloo, on the CPU) is the training of one."""

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
from episodes.run import RunFolder
from episodes.sampler import EpisodeSampler

CLASSES, ITEMS = 3, 5


def pictures() -> Pictures:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (CLASSES * ITEMS, 3, 4, 4), generator=generator, dtype=torch.uint8)
    data = ArraySet(images, np.repeat(np.arange(CLASSES), ITEMS), ["a", "b", "c"])
    return Pictures(data, 4, (0.5,) * 3, (0.3,) * 3)


def classify(model, batch):
    return {"loss": nn.functional.cross_entropy(model(batch["images"]), batch["labels"])}


def answer(model, batch):
    """A mean over the episodes of a step, each of the same size."""
    return {"loss": (model(batch["images"].flatten(0, 1)) - 1).square().mean()}


def train(fabric, kind: str, folder) -> tuple[list[np.ndarray], list[float]]:
    """Run on each process; returns the final weights and the losses of the epochs."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    rank, world, data = fabric.global_rank, fabric.world_size, pictures()
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    if kind == "batches":  # 15 images in batches of 7: the last batch leaves one process without an image
        numbered, step = BatchImages(data, 7, 0, 0, rank, world), classify
    else:  # 7 episodes over two processes: the last step leaves one without an episode
        sampler = EpisodeSampler(data.dataset.labels, 2, 1, 2, 7, rank=rank, world_size=world)
        numbered, step = EpisodeImages(data, sampler, 2), answer
    optimizer = build_optimizer(model, 0.01)
    run = RunFolder(folder, {}, main=fabric.is_global_zero)
    state = fit(
        fabric, model, step, numbered, lambda batches, start: numbered_loader(batches, start=start), optimizer,
        build_schedule(optimizer, "constant"), Plan(epochs=2, accumulate=2), run, say=lambda text: None,
    )  # fmt: skip
    return [parameter.detach().numpy().copy() for parameter in model.parameters()], [
        row["loss"] for row in state.history
    ]


@pytest.mark.parametrize("kind", ["batches", "episodes"])
def test_two_processes_equal_one(tmp_path, kind):
    alone = train(lightning_fabric.Fabric(accelerator="cpu", devices=1), kind, tmp_path / "one")
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")
    together = fabric.launch(train, kind, tmp_path / "two")
    for a, b in zip(alone[0], together[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert together[1] == pytest.approx(alone[1], rel=1e-5)
    assert (tmp_path / "two" / "best.safetensors").is_file()
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 2
