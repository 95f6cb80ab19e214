"""How well a network classifies known classes: top-1, top-5, loss and confusion, over several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from backbones.errors import UserError, nearest
from backbones.wording import many
from classify.mixing import single
from classify.views import Shown
from episodes.loaders import Pictures, numbered_loader
from episodes.processes import collect, sum_up, team_of, together

TOP = 5


class OrderedImages(Dataset):
    """All pictures in the order of the data set, in batches that several processes share out.

    Item i is this process's i-th batch: {"images", "items"}.
    """

    def __init__(self, pictures: Pictures | Shown, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.pictures = pictures
        starts = range(0, len(pictures.dataset), batch_size)
        self._parts = [np.arange(start, min(start + batch_size, len(pictures.dataset))) for start in starts]
        self._parts = self._parts[rank::world_size]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        items = self._parts[number]
        return {"images": self.pictures.load(items, 0), "items": torch.from_numpy(items)}


@dataclass
class Scores:
    """What a network says of N pictures of K classes.

    labels (N,): true classes. best (N, up to 5): likeliest classes in their order. probability (N,): of the first one,
    of the truth in `truth`. loss: mean cross-entropy.
    """

    labels: np.ndarray
    best: np.ndarray
    probability: np.ndarray
    loss: float
    class_names: list[str]

    def top(self, most: int = 1) -> tuple[float, float]:
        """Return the share of pictures whose class is among the `most` likeliest, and its 95 % half-width."""
        share = float((self.best[:, :most] == self.labels[:, None]).any(1).mean())
        return share, 1.96 * float(np.sqrt(share * (1 - share) / len(self.labels)))

    @property
    def confusion(self) -> np.ndarray:
        """(K, K) counts, row = true class."""
        classes = len(self.class_names)
        return np.bincount(self.labels * classes + self.best[:, 0], minlength=classes**2).reshape(classes, classes)

    def summary(self, prefix: str = "") -> dict[str, float | int]:
        """Return figures for a log: accuracy (top-1) and its interval, top5 where there are more classes, and loss."""
        share, width = self.top()
        figures = {"accuracy": share, "interval": width, "loss": self.loss}
        if len(self.class_names) > TOP:
            figures["top5"], figures["top5_interval"] = self.top(TOP)
        return {prefix + name: value for name, value in figures.items()}


def match_classes(known: Sequence[str], dataset, what: str) -> np.ndarray:
    """Return the number, among the known classes, of every class of a data set (K,).

    Raises UserError for classes that the network does not know. A data set may lack some of the known ones.
    """
    number = {name: place for place, name in enumerate(known)}
    strange = [name for name in dataset.class_names if name not in number]
    if strange:
        hint = nearest(strange[0], known)
        hint = "" if hint.startswith("; known") and len(known) > 20 else hint  # a list of a thousand helps nobody
        raise UserError(
            f"{what} has {many(len(strange), 'class', 'classes')} of {len(dataset.class_names)} that the network was "
            f"not trained on: they must have the names of the training's, and the first is '{strange[0]}'{hint}"
        )
    return np.array([number[name] for name in dataset.class_names])


def refuse_nan(logits: Tensor) -> None:
    """Raise UserError where logits (B, K) are no numbers: their order would name a class all the same."""
    if logits.isnan().any():
        raise UserError(
            f"the network answers nan to {int(logits.isnan().any(1).sum())} of {len(logits)} pictures, so that no "
            "class can be named: its weights are damaged, or its training diverged (lower the rate)"
        )


class ClassScorer:
    """Scores a network on pictures of the classes of the training.

    class_names: K of the training. what: names the data set in messages. batch_size: of a process.
    `last`: the scores of the last call. Called, it returns the figures of a validation: val_accuracy and so on.
    """

    def __init__(
        self, fabric, pictures: Pictures | Shown, class_names: list[str], what: str, batch_size: int, workers: int = 0
    ) -> None:
        self.fabric, self.workers, self.class_names = fabric, workers, list(class_names)
        self.batches = OrderedImages(pictures, batch_size, fabric.global_rank, fabric.world_size)
        self.labels = match_classes(class_names, pictures.dataset, what)[pictures.dataset.labels]
        self.last: Scores | None = None

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Classify every picture; all processes call it."""
        return self.score(model).summary("val_")

    def score(self, model: nn.Module) -> Scores:
        """Classify every picture; all processes call it and get the same."""
        team, count = team_of(self.fabric), len(self.labels)
        top = min(TOP, len(self.class_names))
        best = np.zeros((count, top), dtype=np.int64)
        probability = np.zeros(count, dtype=np.float32)
        parts, loss = [], 0.0
        with together(team):
            for items, logits in self._answers(model):
                refuse_nan(logits)
                labels = torch.from_numpy(self.labels[items])
                loss += float(F.cross_entropy(logits, labels, reduction="sum"))
                likely = logits.softmax(1).topk(top)
                parts.append((items, likely.indices.numpy(), likely.values[:, 0].numpy()))
        for items, classes, shares in (part for every in collect(team, parts) for part in every):
            best[items], probability[items] = classes, shares
        total = sum_up(team, {"loss": loss})["loss"]
        self.last = Scores(self.labels, best, probability, total / count, self.class_names)
        return self.last

    @torch.no_grad()
    def _answers(self, model: nn.Module) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield (items, logits (n, K)) of this process's batches; several views of a picture are averaged."""
        for batch in numbered_loader(self.batches, self.workers):
            images = self.fabric.to_device(batch["images"])
            with self.fabric.autocast():
                logits = single(model(images.flatten(0, -4))).cpu()
            yield batch["items"].numpy(), logits.view(len(images), -1, logits.shape[1]).mean(1)
