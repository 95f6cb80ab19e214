"""Several episodes stacked into rectangular arrays; uneven ones are padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import repeat

import numpy as np

from episodes.episode import Episode, ExtendedEpisode

# Array -> what pads it, and the array whose values other than -1 say which places are used.
PADDING = {
    "classes": (-1, "classes"),
    "support": (0, "support_labels"),
    "support_labels": (-1, "support_labels"),
    "query": (0, "query_labels"),
    "query_labels": (-1, "query_labels"),
    "unlabelled": (0, "unlabelled_labels"),
    "unlabelled_labels": (-1, "unlabelled_labels"),
}
EXTRAS = ("unknown", "unlabelled", "unlabelled_labels")


@dataclass(frozen=True)
class EpisodeBatch:
    """E episodes as int64 arrays. Padding comes last in a row: label -1 with item 0, and class -1.

    numbers: (E,) episode numbers.
    classes: (E, N) class ids; support, support_labels: (E, S); query, query_labels: (E, Q).
    unknown: (E, U) queries of classes outside the episode; never padded, since all episodes have as many of them.
    unlabelled, unlabelled_labels: (E, M) items without a label and their hidden truth, -2 for a distractor.
    The last three are (E, 0) where they are not given.
    """

    numbers: np.ndarray
    classes: np.ndarray
    support: np.ndarray
    support_labels: np.ndarray
    query: np.ndarray
    query_labels: np.ndarray
    unknown: np.ndarray = None
    unlabelled: np.ndarray = None
    unlabelled_labels: np.ndarray = None

    def __post_init__(self) -> None:
        for name in EXTRAS:
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.empty((len(self.numbers), 0), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def padded(self) -> bool:
        """Whether any row holds padding, that is, whether the episodes differ in size."""
        arrays = (self.classes, self.support_labels, self.query_labels, self.unlabelled_labels)
        return any(bool((array[:, -1:] == -1).any()) for array in arrays)

    @property
    def extended(self) -> bool:
        """Whether the episodes have unknown queries or unlabelled items."""
        return self.unknown.shape[1] > 0 or self.unlabelled.shape[1] > 0

    def episode(self, row: int) -> Episode:
        """Return the episode in `row`, without its padding."""
        n_support = np.count_nonzero(self.support_labels[row] >= 0)
        n_query = np.count_nonzero(self.query_labels[row] >= 0)
        n_way = int(self.support_labels[row].max()) + 1
        plain = Episode(
            number=int(self.numbers[row]),
            classes=self.classes[row, :n_way],
            support=self.support[row, :n_support],
            support_labels=self.support_labels[row, :n_support],
            query=self.query[row, :n_query],
            query_labels=self.query_labels[row, :n_query],
        )
        if not self.extended:
            return plain
        kept = np.count_nonzero(self.unlabelled_labels[row] != -1)
        extras = (self.unknown[row], self.unlabelled[row, :kept], self.unlabelled_labels[row, :kept])
        return ExtendedEpisode(*vars(plain).values(), *extras)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes one by one."""
        if self.padded:
            yield from map(self.episode, range(len(self)))
            return
        # Rows of a rectangle are views that need no counting; a row that all share is one view for all.
        kind = ExtendedEpisode if self.extended else Episode
        arrays = (getattr(self, field.name) for field in fields(kind)[1:])
        yield from map(kind, self.numbers.tolist(), *(repeat(a[0]) if a.strides[0] == 0 else a for a in arrays))

    def rows(self, chosen: np.ndarray | slice) -> EpisodeBatch:
        """Return the chosen rows (copies for an index array, views for a slice), padded as they are."""
        return EpisodeBatch(*(getattr(self, field.name)[chosen] for field in fields(self)))


def stack(parts: Sequence[EpisodeBatch]) -> EpisodeBatch:
    """Put batches on top of each other, padded to the widest and no wider than their episodes need."""
    arrays = {"numbers": np.concatenate([part.numbers for part in parts])}
    arrays["unknown"] = np.concatenate([part.unknown for part in parts])
    for name, (padding, label_name) in PADDING.items():
        used = [int((getattr(part, label_name) != -1).sum(axis=1).max()) for part in parts]
        joined = np.full((len(arrays["numbers"]), max(used)), padding, dtype=np.int64)
        start = 0
        for part, width in zip(parts, used, strict=True):
            joined[start : start + len(part), :width] = getattr(part, name)[:, :width]
            start += len(part)
        arrays[name] = joined
    return EpisodeBatch(**arrays)


def batch_of(episodes: Sequence[Episode]) -> EpisodeBatch:
    """Stack episodes; all must have the same number of unknown queries."""
    arrays = {
        "numbers": np.array([episode.number for episode in episodes]),
        "unknown": np.stack([episode.unknown for episode in episodes]),
    }
    for name, (padding, _) in PADDING.items():
        rows = [getattr(episode, name) for episode in episodes]
        arrays[name] = np.full((len(rows), max(map(len, rows))), padding, dtype=np.int64)
        for place, row in enumerate(rows):
            arrays[name][place, : len(row)] = row
    return EpisodeBatch(**arrays)
