"""Results of scored episodes: accuracies, confusion and, for open-set episodes, how unknown queries were told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from episodes.batch import EpisodeBatch
from episodes.metrics import confusion_matrix, mean_and_interval, per_class_accuracy
from episodes.open_set import OpenSet, placements


@dataclass
class Evaluation:
    """Results of E episodes over K classes.

    numbers: (E,) episode numbers. accuracies: (E,) fractions, over the queries of the episode's classes.
    confusion: (K, K) counts, row = true class. per_class: (K,) fractions, NaN where a class was never a query.
    seconds: wall time of the head, sampling included. feature_seconds: wall time of the encoder.
    auroc: (E,) area under the ROC curve of known against unknown queries; None without unknown queries.
    open_set: their scores and the mean curve, for pictures.
    sizes: (E, 3) classes, supports and queries of each episode, unknown queries left out; None where not counted.
    """

    numbers: np.ndarray
    accuracies: np.ndarray
    confusion: np.ndarray
    seconds: float
    feature_seconds: float = 0.0
    auroc: np.ndarray | None = None
    open_set: OpenSet | None = None
    sizes: np.ndarray | None = None

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
            **summary_of(self.accuracies, self.auroc),
            "seconds": round(self.seconds, 3),
            "feature_seconds": round(self.feature_seconds, 3),
        }


def summary_of(accuracies: np.ndarray, auroc: np.ndarray | None) -> dict[str, float | int]:
    """Return means and 95 % half-widths of accuracies and, where given, of AUROCs, and the number of episodes."""
    mean, interval = mean_and_interval(accuracies)
    result = {"accuracy": mean, "interval": interval}
    if auroc is not None:
        result["auroc"], result["auroc_interval"] = mean_and_interval(auroc)
    return {**result, "episodes": len(accuracies)}


class Tally:
    """Collect results batch by batch.

    n_classes: of the data set. open_score: what the scores of `add` are, see `episodes.open_set.known_scores`.
    """

    def __init__(self, n_classes: int, open_score: str = "probability") -> None:
        self.confusion, self.open_score = np.zeros((n_classes, n_classes), dtype=np.int64), open_score
        self.numbers: list[np.ndarray] = []
        self.accuracies: list[np.ndarray] = []
        self.sizes: list[np.ndarray] = []
        self.auroc: list[np.ndarray] = []
        self.open_sets: list[OpenSet] = []

    def add(self, batch: EpisodeBatch, predictions: np.ndarray, scores: np.ndarray | None = None) -> None:
        """Count E episodes: predictions (E, Q), and scores (E, Q + U) where there are unknown queries."""
        counted = batch.query_labels >= 0
        right = (predictions == batch.query_labels) & counted
        self.numbers.append(batch.numbers)
        self.accuracies.append(right.sum(1) / counted.sum(1))
        sides = (batch.classes, batch.support_labels, batch.query_labels)
        self.sizes.append(np.stack([(side >= 0).sum(axis=1) for side in sides], axis=1))
        row = np.broadcast_to(np.arange(len(batch))[:, None], batch.query_labels.shape)
        true = batch.classes[row, np.maximum(batch.query_labels, 0)][counted]
        chosen = batch.classes[row, predictions][counted]
        self.confusion += confusion_matrix(true, chosen, len(self.confusion))
        if scores is not None:
            n_query = batch.query.shape[1]
            known, unknown = np.where(counted, scores[:, :n_query], np.nan), scores[:, n_query:]
            curves = placements(known, unknown)
            self.auroc.append(curves.mean(axis=1))
            self.open_sets.append(OpenSet.of(known, unknown, curves, self.open_score))

    def result(self, seconds: float) -> Evaluation:
        """Return the results of all batches."""
        part = Evaluation(np.concatenate(self.numbers), np.concatenate(self.accuracies), self.confusion, seconds)
        part.sizes = np.concatenate(self.sizes)
        if self.auroc:
            part.auroc, part.open_set = np.concatenate(self.auroc), OpenSet.merge(self.open_sets)
        return part
