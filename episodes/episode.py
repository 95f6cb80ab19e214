"""An episode as plain index arrays: who is support, who is query, and which class each episode label stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

NONE = np.empty(0, dtype=np.int64)
NONE.setflags(write=False)
DISTRACTOR = -2  # label of an unlabelled item whose class is not one of the episode's


@dataclass(frozen=True)
class Episode:
    """One few-shot task, as positions in a data set. Nothing has been loaded yet.

    number: the episode's number within its (seed, epoch).
    classes: (n_way,) data set class ids; position c holds the class that has episode label c.
    support, query: (S,) and (Q,) item positions in the data set, grouped by class in the order of `classes`.
    support_labels, query_labels: (S,) and (Q,) episode labels 0..n_way-1.

    Episodes with extras are `ExtendedEpisode`s; in all others these three are empty:
    unknown: (U,) items of classes outside the episode, asked together with the queries (open-set recognition).
    unlabelled: (M,) further items that a semi-supervised head may learn from. unlabelled_labels: (M,) their hidden
        truth, 0..n_way-1, or -2 for a distractor, whose class is not one of the episode's.
    """

    number: int
    classes: np.ndarray
    support: np.ndarray
    support_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray
    # Not fields: nearly all episodes have no extras, and they are handed out at 2 microseconds each.
    unknown: ClassVar[np.ndarray] = NONE
    unlabelled: ClassVar[np.ndarray] = NONE
    unlabelled_labels: ClassVar[np.ndarray] = NONE

    @property
    def n_way(self) -> int:
        """Number of classes in this episode."""
        return len(self.classes)

    def __repr__(self) -> str:
        shots = np.bincount(self.support_labels, minlength=self.n_way)
        queries = np.bincount(self.query_labels, minlength=self.n_way)
        extras = f", unknown={len(self.unknown)}" if len(self.unknown) else ""
        if len(self.unlabelled):
            extras += f", unlabelled={len(self.unlabelled)}"
        return (
            f"Episode(number={self.number}, classes={self.classes.tolist()}, "
            f"shots={shots.tolist()}, queries={queries.tolist()}{extras})"
        )


@dataclass(frozen=True, repr=False)
class ExtendedEpisode(Episode):
    """An episode with unknown queries, unlabelled items or both; see `Episode` for what they are."""

    unknown: np.ndarray = field()
    unlabelled: np.ndarray = field()
    unlabelled_labels: np.ndarray = field()
