"""Score a head on numbered episodes: from features that were computed once, or from images episode by episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from episodes.batch import EpisodeBatch
from episodes.errors import UserError
from episodes.loaders import Pictures
from episodes.metrics import confusion_matrix, mean_and_interval, per_class_accuracy
from episodes.progress import Progress
from episodes.sampler import EpisodeSampler

# Features of the episodes in one step, in bytes. A CPU is up to twice as fast on what stays in its cache.
CPU_STEP_BYTES = 16 << 20
STEP_BYTES = 256 << 20
MOST_EPISODES = 512


@dataclass
class Evaluation:
    """Results of E episodes over K classes.

    numbers: (E,) episode numbers. accuracies: (E,) fractions.
    confusion: (K, K) counts, row = true class. per_class: (K,) fractions, NaN where a class was never a query.
    seconds: wall time of the head, sampling included. feature_seconds: wall time of the encoder.
    """

    numbers: np.ndarray
    accuracies: np.ndarray
    confusion: np.ndarray
    seconds: float
    feature_seconds: float = 0.0

    @property
    def mean(self) -> float:
        """Mean accuracy, a fraction."""
        return mean_and_interval(self.accuracies)[0]

    @property
    def interval(self) -> float:
        """Half-width of the 95 % interval, a fraction."""
        return mean_and_interval(self.accuracies)[1]

    @property
    def per_class(self) -> np.ndarray:
        """Accuracy of each class as a query, (K,)."""
        return per_class_accuracy(self.confusion)

    def summary(self) -> dict[str, float | int]:
        """Return the figures for `metrics.json`."""
        return {
            "accuracy": self.mean,
            "interval": self.interval,
            "episodes": len(self.accuracies),
            "seconds": round(self.seconds, 3),
            "feature_seconds": round(self.feature_seconds, 3),
        }


@torch.no_grad()
def extract_features(
    encode: Callable[[Tensor], Tensor],
    pictures: Pictures,
    indices: np.ndarray | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    label: str = "features",
    show: bool = True,
) -> Tensor:
    """Run a frozen encoder over a data set once.

    encode: images (B, 3, S, S) -> (B, ...); the caller puts it in eval mode.
    indices: items to represent, default all.
    Returns (N, ...) in float32 or better, on `device`.
    Raises UserError when a representation is not finite.
    """
    indices = np.arange(len(pictures.dataset)) if indices is None else np.asarray(indices)
    result: Tensor | None = None
    with Progress(len(indices), label, on=show) as bar:
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            features = encode(pictures.load(part).to(device))
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            if result is None:
                result = features.new_empty(len(indices), *features.shape[1:])
            result[start : start + len(part)] = features
            bar.advance(len(part))
    if result is None:
        raise UserError("there are no images to represent: the data set is empty")
    if not torch.isfinite(result).all():
        bad = int((~torch.isfinite(result.flatten(1)).all(1)).nonzero()[0])
        raise UserError(f"the representation of item {indices[bad]} is not finite: the checkpoint holds broken weights")
    return result


def _steps(sampler: EpisodeSampler, features: Tensor, most: int = MOST_EPISODES) -> Iterator[EpisodeBatch]:
    """Yield the sampler's episodes in batches whose features, rows of (N, ...), fit the step budget."""
    budget = CPU_STEP_BYTES if features.device.type == "cpu" else STEP_BYTES
    row_bytes = features[0].numel() * features.element_size()
    first = sampler[sampler.numbers[0]]
    rows = len(first.support) + len(first.query)
    yield from sampler.steps(int(np.clip(budget // (rows * row_bytes), 1, most)))


class _Tally:
    """Collect accuracies and confusion batch by batch."""

    def __init__(self, n_classes: int) -> None:
        self.confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
        self.numbers: list[np.ndarray] = []
        self.accuracies: list[np.ndarray] = []

    def add(self, batch: EpisodeBatch, predictions: np.ndarray) -> None:
        counted = batch.query_labels >= 0
        right = (predictions == batch.query_labels) & counted
        self.numbers.append(batch.numbers)
        self.accuracies.append(right.sum(1) / counted.sum(1))
        row = np.broadcast_to(np.arange(len(batch))[:, None], batch.query_labels.shape)
        true = batch.classes[row, np.maximum(batch.query_labels, 0)][counted]
        chosen = batch.classes[row, predictions][counted]
        self.confusion += confusion_matrix(true, chosen, len(self.confusion))

    def result(self, seconds: float) -> Evaluation:
        return Evaluation(np.concatenate(self.numbers), np.concatenate(self.accuracies), self.confusion, seconds)


def _predict(head: nn.Module, batch: EpisodeBatch, support: Tensor, labels: Tensor, query: Tensor) -> np.ndarray:
    """Return the predicted labels (E, Q); a transductive head is told which queries are padding."""
    extra = {}
    if getattr(head, "transductive", False):
        extra["query_mask"] = torch.from_numpy(batch.query_labels >= 0).to(query.device)
    return head(support, labels, query, n_way=batch.classes.shape[1], **extra).argmax(-1).cpu().numpy()


@torch.no_grad()
def evaluate_features(
    head: nn.Module,
    features: Tensor,
    sampler: EpisodeSampler,
    n_classes: int,
    label: str = "episodes",
    show: bool = True,
) -> Evaluation:
    """Score episodes whose items are already represented, hundreds at a time.

    head: (support, support_labels, query, n_way) -> logits; used in eval mode. One with the attribute
        `transductive` also gets query_mask (E, Q), True for the queries that are not padding.
    features: (N, ...) representation of every item of the data set that `sampler` was built on.
    n_classes: K of the data set.
    """
    head.eval()
    tally, started = _Tally(n_classes), time.perf_counter()
    with Progress(len(sampler), label, on=show) as bar:
        for batch in _steps(sampler, features):
            # chosen on the host, where the index arrays are
            support, query = (features[torch.from_numpy(np.array(x))] for x in (batch.support, batch.query))
            labels = torch.from_numpy(np.array(batch.support_labels)).to(features.device)
            tally.add(batch, _predict(head, batch, support, labels, query))
            bar.advance(len(batch))
    return tally.result(time.perf_counter() - started)


@torch.no_grad()
def evaluate_images(
    encode: Callable[[Tensor], Tensor],
    head: nn.Module,
    pictures: Pictures,
    sampler: EpisodeSampler,
    device: torch.device | str = "cpu",
    label: str = "episodes",
    show: bool = True,
) -> Evaluation:
    """Score episodes one at a time, encoding every image again: the plain way, for features too large to keep.

    Gives the accuracies of `evaluate_features`.
    """
    head.eval()
    tally, started = _Tally(len(pictures.dataset.class_names)), time.perf_counter()
    with Progress(len(sampler), label, on=show) as bar:
        for batch in sampler.steps(1):
            images = pictures.load(np.concatenate([batch.support[0], batch.query[0]])).to(device)
            features = encode(images)[None]
            shots = batch.support.shape[1]
            labels = torch.from_numpy(np.array(batch.support_labels)).to(device)
            tally.add(batch, _predict(head, batch, features[:, :shots], labels, features[:, shots:]))
            bar.advance()
    return tally.result(time.perf_counter() - started)


def evaluate(
    encode: Callable[[Tensor], Tensor],
    head: nn.Module,
    pictures: Pictures,
    sampler: EpisodeSampler,
    device: torch.device | str = "cpu",
    memory_bytes: int = 4 << 30,
    show: bool = True,
) -> Evaluation:
    """Score episodes from features of the whole set where they fit into `memory_bytes`, else from images.

    The two ways differ in time alone.
    """
    probe = encode(pictures.load([0]).to(device))
    if probe.numel() * 4 * len(pictures.dataset) > memory_bytes:
        return evaluate_images(encode, head, pictures, sampler, device, show=show)
    started = time.perf_counter()
    features = extract_features(encode, pictures, device=device, show=show)
    seconds = time.perf_counter() - started
    result = evaluate_features(head, features, sampler, len(pictures.dataset.class_names), show=show)
    result.feature_seconds = seconds
    return result
