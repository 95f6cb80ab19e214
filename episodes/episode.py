"""An episode as plain index arrays: who is support, who is query, and which class each episode label stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Episode:
    """One few-shot task, as positions in a data set. Nothing has been loaded yet.

    number: the episode's number within its (seed, epoch).
    classes: (n_way,) data set class ids; position c holds the class that has episode label c.
    support, query: (S,) and (Q,) item positions in the data set, grouped by class in the order of `classes`.
    support_labels, query_labels: (S,) and (Q,) episode labels 0..n_way-1.
    """

    number: int
    classes: np.ndarray
    support: np.ndarray
    support_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray

    @property
    def n_way(self) -> int:
        """Number of classes in this episode."""
        return len(self.classes)

    def __repr__(self) -> str:
        shots = np.bincount(self.support_labels, minlength=self.n_way)
        queries = np.bincount(self.query_labels, minlength=self.n_way)
        return (
            f"Episode(number={self.number}, classes={self.classes.tolist()}, "
            f"shots={shots.tolist()}, queries={queries.tolist()})"
        )
