"""Several episodes stacked into rectangular arrays; uneven ones are padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import repeat

import numpy as np

from episodes.episode import Episode

PADDING = {"classes": -1, "support": 0, "support_labels": -1, "query": 0, "query_labels": -1}


@dataclass(frozen=True)
class EpisodeBatch:
    """E episodes as int64 arrays. Padding comes last in a row: label -1 with item 0, and class -1.

    numbers: (E,) episode numbers.
    classes: (E, N) class ids; support, support_labels: (E, S); query, query_labels: (E, Q).
    """

    numbers: np.ndarray
    classes: np.ndarray
    support: np.ndarray
    support_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def padded(self) -> bool:
        """Whether any row holds padding, that is, whether the episodes differ in size."""
        return bool((self.support_labels[:, -1] < 0).any() or (self.query_labels[:, -1] < 0).any())

    def episode(self, row: int) -> Episode:
        """Return the episode in `row`, without its padding."""
        n_support = np.count_nonzero(self.support_labels[row] >= 0)
        n_query = np.count_nonzero(self.query_labels[row] >= 0)
        n_way = int(self.support_labels[row].max()) + 1
        return Episode(
            number=int(self.numbers[row]),
            classes=self.classes[row, :n_way],
            support=self.support[row, :n_support],
            support_labels=self.support_labels[row, :n_support],
            query=self.query[row, :n_query],
            query_labels=self.query_labels[row, :n_query],
        )

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes one by one."""
        if self.padded:
            yield from map(self.episode, range(len(self)))
            return
        # Rows of a rectangle are views that need no counting; a row that all share is one view for all.
        numbers, *arrays = (getattr(self, field.name) for field in fields(self))
        yield from map(Episode, numbers.tolist(), *(repeat(a[0]) if a.strides[0] == 0 else a for a in arrays))

    def rows(self, chosen: np.ndarray | slice) -> EpisodeBatch:
        """Return the chosen rows (copies for an index array, views for a slice), padded as they are."""
        return EpisodeBatch(*(getattr(self, field.name)[chosen] for field in fields(self)))


def stack(parts: Sequence[EpisodeBatch]) -> EpisodeBatch:
    """Put batches on top of each other, padded to the widest and no wider than its episodes need."""
    arrays = {"numbers": np.concatenate([part.numbers for part in parts])}
    for name, label_name in zip(PADDING, ("classes", *["support_labels"] * 2, *["query_labels"] * 2), strict=True):
        used = [int((getattr(part, label_name) >= 0).sum(axis=1).max()) for part in parts]
        joined = np.full((len(arrays["numbers"]), max(used)), PADDING[name], dtype=np.int64)
        start = 0
        for part, width in zip(parts, used, strict=True):
            joined[start : start + len(part), :width] = getattr(part, name)[:, :width]
            start += len(part)
        arrays[name] = joined
    return EpisodeBatch(**arrays)
