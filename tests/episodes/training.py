"""A tiny training for the tests of the engine: numbered batches of random rows and a small network."""

from __future__ import annotations

from collections.abc import Callable

import lightning_fabric
import torch
from torch import Tensor, nn

from episodes.engine import Plan, fit
from episodes.loaders import numbered_loader
from episodes.optim import build_optimizer, build_schedule


class Rows:
    """Numbered batches of `count` random rows of 6 numbers in 3 classes; another order every epoch."""

    def __init__(self, count: int = 20, batch_size: int = 4, shuffle: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(count, 6, generator=generator)
        self.labels = torch.randint(3, (count,), generator=generator)
        self.batch_size, self.shuffle = batch_size, shuffle
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(epoch))
        self.order = order if self.shuffle else torch.arange(len(self.images))

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        rows = self.order[number * self.batch_size : (number + 1) * self.batch_size]
        return {"images": self.images[rows], "labels": self.labels[rows], "number": torch.tensor(number)}


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def cross_entropy(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    logits = model(batch["images"])
    right = (logits.argmax(1) == batch["labels"]).float().mean()
    return {"loss": nn.functional.cross_entropy(logits, batch["labels"]), "accuracy": right}


def train(
    model: nn.Module,
    rows: Rows,
    step: Callable = cross_entropy,
    run=None,
    validate=None,
    optimizer: dict | None = None,
    schedule: dict | None = None,
    **plan,
):
    """Run `fit` on the CPU; returns where it ended."""
    plan = Plan(**{"epochs": 3, **plan})
    optimizer = build_optimizer(model, **{"lr": 0.1, **(optimizer or {})})
    schedule = build_schedule(optimizer, **{"milestones": [2], "epochs": plan.epochs, **(schedule or {})})
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    return fit(
        fabric,
        model,
        step,
        rows,
        lambda batches, start: numbered_loader(batches, start=start),
        optimizer,
        schedule,
        plan,
        run,
        validate,
        say=lambda text: None,
    )


def numbers(history: list[dict]) -> list[dict]:
    """The history without what the clock says."""
    return [{key: value for key, value in row.items() if key not in ("seconds", "wait_share")} for row in history]
