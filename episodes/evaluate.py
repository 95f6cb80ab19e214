"""Score a head on numbered episodes: from features that were computed once, or from images episode by episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from episodes.batch import EpisodeBatch, stack
from episodes.errors import UserError
from episodes.loaders import Pictures
from episodes.metrics import confusion_matrix, mean_and_interval, per_class_accuracy
from episodes.progress import Progress
from episodes.sampler import EpisodeSampler

# Features of the episodes that a head gets at a time, in bytes. A CPU is up to twice as fast on what stays near it, but
# every call has its cost, which a few episodes should share even where they are long.
NEAR_BYTES, FAR_BYTES = 14 << 20, 32 << 20
FEW_EPISODES = 8
STEP_BYTES = 256 << 20  # of other devices
MOST_EPISODES = 512


class StoredFeatures(Protocol):
    """Features (N, ...) that are not all in memory, such as `episodes.features.FeatureStore`."""

    row_bytes: int

    def gather(self, indices: np.ndarray, out: Tensor | None = None) -> Tensor:
        """Return the rows at `indices` (E, S): (E, S, ...), in `out` where it is given."""


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
            features = encode_batch(encode, pictures, part, device)
            if result is None:
                result = features.new_empty(len(indices), *features.shape[1:])
            result[start : start + len(part)] = features
            bar.advance(len(part))
    if result is None:
        raise UserError("there are no images to represent: the data set is empty")
    return result


@torch.no_grad()
def encode_batch(
    encode: Callable[[Tensor], Tensor], pictures: Pictures, indices: np.ndarray, device: torch.device | str = "cpu"
) -> Tensor:
    """Represent the items at `indices` as one batch: (B, ...) in float32 or better.

    Raises UserError when a representation is not finite.
    """
    features = encode(pictures.load(indices).to(device))
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if not torch.isfinite(features).all():
        bad = int((~torch.isfinite(features.flatten(1)).all(1)).nonzero()[0])
        raise UserError(f"the representation of item {indices[bad]} is not finite: the checkpoint holds broken weights")
    return features


def take(features: Tensor | StoredFeatures, indices: np.ndarray, out: Tensor | None = None) -> Tensor:
    """Return the rows at `indices` (E, S) of features (N, ...) in memory or in a store: (E, S, ...).

    out: an earlier result to write over, where it has the right shape: fresh memory can cost more than the copy.
    """
    out = out if out is not None and out.shape[: indices.ndim] == indices.shape else None
    if not isinstance(features, Tensor):
        return features.gather(indices, out)
    flat = torch.from_numpy(np.array(indices)).reshape(-1).to(features.device)
    if out is None:
        out = features.new_empty(*indices.shape, *features.shape[1:])
    torch.index_select(features, 0, flat, out=out.view(-1, *features.shape[1:]))
    return out


def _row_bytes(features: Tensor | StoredFeatures) -> int:
    return features[0].numel() * features.element_size() if isinstance(features, Tensor) else features.row_bytes


def _parts(batch: EpisodeBatch, row_bytes: int, on_cpu: bool) -> Iterator[EpisodeBatch]:
    """Split a batch of episodes into parts of a good size for rows of `row_bytes`, padded no more than they need."""
    episode_bytes = (batch.support.shape[1] + batch.query.shape[1]) * row_bytes
    count = max(1, STEP_BYTES // episode_bytes)
    if on_cpu:
        count = max(1, NEAR_BYTES // episode_bytes, min(FEW_EPISODES, FAR_BYTES // episode_bytes))
    for start in range(0, len(batch), count):
        part = batch.rows(slice(start, start + count))
        yield stack([part]) if batch.padded else part


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
    """Return the predicted labels (E, Q); a transductive head is told which queries are padding.

    A head whose method `ranking` orders the classes as its logits do, for less, is asked for that.
    """
    extra = {}
    if getattr(head, "transductive", False):
        extra["query_mask"] = torch.from_numpy(batch.query_labels >= 0).to(query.device)
    score = getattr(head, "ranking", head)
    return score(support, labels, query, n_way=batch.classes.shape[1], **extra).argmax(-1).cpu().numpy()


@torch.no_grad()
def evaluate_features(
    head: nn.Module,
    features: Tensor | StoredFeatures,
    sampler: EpisodeSampler,
    n_classes: int,
    label: str = "episodes",
    show: bool = True,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Score episodes whose items are already represented, many at a time.

    head: (support, support_labels, query, n_way) -> logits; used in eval mode. One with the attribute
        `transductive` also gets query_mask (E, Q), True for the queries that are not padding.
    features: (N, ...) representation of every item of the data set that `sampler` was built on, or their store.
    n_classes: K of the data set.
    device: where the head computes; default where the features are.
    """
    head.eval()
    device = torch.device(device or getattr(features, "device", "cpu"))
    tally, started = _Tally(n_classes), time.perf_counter()
    support = query = None
    with Progress(len(sampler), label, on=show) as bar:
        for batch in sampler.steps(MOST_EPISODES):
            predictions = np.zeros_like(batch.query_labels)
            first = 0
            for part in _parts(batch, _row_bytes(features), device.type == "cpu"):
                support, query = take(features, part.support, support), take(features, part.query, query)
                labels = torch.from_numpy(np.array(part.support_labels)).to(device)
                answers = _predict(head, part, support.to(device), labels, query.to(device))
                predictions[first : first + len(part), : answers.shape[1]] = answers
                first += len(part)
                bar.advance(len(part))
            tally.add(batch, predictions)
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
