"""What an episode may hold besides support and queries: unknown queries, unlabelled items and distractors.

They are drawn apart from support and queries, each kind from a random stream of its own. Support and queries are
therefore the very same with and without them, and so are unknown queries with and without unlabelled items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from episodes.distinct import draw_distinct
from episodes.episode import DISTRACTOR
from episodes.errors import UserError


@dataclass(frozen=True)
class Extras:
    """How many extras an episode gets; the defaults are none.

    unknown_ways, unknown_queries: open-set recognition (Liu et al., "Few-shot open-set recognition using
        meta-learning", CVPR 2020): queries of each of so many classes outside the episode.
    unlabelled: semi-supervised learning (Ren et al., "Meta-learning for semi-supervised few-shot classification",
        ICLR 2018): further items of each of the episode's classes. Episodes of the Meta-Dataset rule or with queries
        shared by a Dirichlet law may use up a class: it then gives what is left, up to this number.
    distractor_ways, distractors: unlabelled items of each of so many further classes, which are no unknown ones either.
    """

    unknown_ways: int = 0
    unknown_queries: int = 0
    unlabelled: int = 0
    distractor_ways: int = 0
    distractors: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise UserError(f"{name}={value} must be at least 0")
        for ways, items in (("unknown_ways", "unknown_queries"), ("distractor_ways", "distractors")):
            if (getattr(self, ways) > 0) != (getattr(self, items) > 0):
                raise UserError(
                    f"{ways}={getattr(self, ways)} and {items}={getattr(self, items)}: both must be above 0, or both 0"
                )

    @property
    def other_ways(self) -> int:
        """Classes outside the episode that are needed."""
        return self.unknown_ways + self.distractor_ways

    @property
    def open_set(self) -> bool:
        """Whether there are unknown queries."""
        return self.unknown_ways > 0

    @property
    def semi_supervised(self) -> bool:
        """Whether there are unlabelled items."""
        return self.unlabelled > 0 or self.distractor_ways > 0

    def __bool__(self) -> bool:
        return self.open_set or self.semi_supervised

    def __str__(self) -> str:
        parts = []
        if self.open_set:
            parts.append(f"{self.unknown_queries} queries of each of {self.unknown_ways} unknown classes")
        if self.unlabelled:
            parts.append(f"{self.unlabelled} unlabelled items a class")
        if self.distractor_ways:
            parts.append(f"{self.distractors} distractors of each of {self.distractor_ways} further classes")
        return " and ".join(parts)


def skip_used(ranks: np.ndarray, used: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Turn ranks among the unused numbers of each row into the numbers themselves.

    ranks: (M, W), 0 being the smallest unused number. used: (M, U) distinct numbers, the first `counts` (M,) of a row.
    Rank r stands for r plus the used numbers below it: s_i of the sorted used ones lies below iff s_i - i <= r.
    """
    beyond = np.iinfo(np.int64).max // 2
    ordered = np.sort(np.where(np.arange(used.shape[1]) < counts[:, None], used, beyond), axis=1)
    unused_below = ordered - np.arange(used.shape[1])
    return ranks + (unused_below[:, None, :] <= ranks[:, :, None]).sum(axis=2)


class ClassTable(NamedTuple):
    """Items by class: those of row c are order[starts[c] : starts[c] + sizes[c]]."""

    order: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray


def draw_extras(
    streams: Sequence[np.random.Generator],
    extras: Extras,
    table: ClassTable,
    drawn: np.ndarray,
    present: np.ndarray,
    places: np.ndarray,
    used: np.ndarray,
) -> dict[str, np.ndarray]:
    """Draw the extras of E episodes.

    streams: three generators, for unknown queries, unlabelled items and distractors.
    drawn, present: (E, N) the episodes' classes as rows of the table, and which are there.
    places: (M, W) places in its class of the items of each present class, the first `used` (M,) of which are taken.
    Returns arrays of an `EpisodeBatch`: unknown (E, U), unlabelled and unlabelled_labels (E, M), as far as asked for.
    """
    own, result = present.sum(axis=1), {}
    if extras.open_set:
        classes = draw_others(streams[0], extras.unknown_ways, len(table.sizes), drawn, own)
        result["unknown"] = draw_items(streams[0], table, classes, extras.unknown_queries)
        # padding of `drawn` stands after a row's own classes: unknown classes go first for `skip_used`
        drawn, own = np.concatenate([classes, drawn], axis=1), own + extras.unknown_ways
    items, labels = [], []
    if extras.unlabelled:
        rows = drawn[:, -present.shape[1] :]
        found, truth = draw_unlabelled(streams[1], extras.unlabelled, table.sizes[rows], present, places, used)
        found += table.starts[rows][:, :, None]
        items.append(table.order.take(found, mode="clip").reshape(len(drawn), -1))
        labels.append(truth.reshape(len(drawn), -1))
    if extras.distractor_ways:
        classes = draw_others(streams[2], extras.distractor_ways, len(table.sizes), drawn, own)
        items.append(draw_items(streams[2], table, classes, extras.distractors))
        labels.append(np.full(items[-1].shape, DISTRACTOR))
    if items:
        both = last_padding(np.concatenate(items, axis=1), np.concatenate(labels, axis=1))
        result["unlabelled"], result["unlabelled_labels"] = both
    return result


def draw_others(
    generator: np.random.Generator, ways: int, n_classes: int, drawn: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """Draw (E, ways) distinct classes of 0..n_classes-1 that are not among the first `own` (E,) of `drawn` (E, N)."""
    ranks = draw_distinct(generator, n_classes - own, np.full(len(drawn), ways))
    return skip_used(ranks, drawn, own)


def draw_items(generator: np.random.Generator, table: ClassTable, classes: np.ndarray, each: int) -> np.ndarray:
    """Draw `each` distinct items of every class; classes (E, W) are rows of the table: (E, W * each)."""
    flat = classes.ravel()
    places = draw_distinct(generator, table.sizes[flat], np.full(len(flat), each))
    return table.order[places + table.starts[flat][:, None]].reshape(len(classes), -1)


def draw_unlabelled(
    generator: np.random.Generator,
    unlabelled: int,
    sizes: np.ndarray,
    present: np.ndarray,
    places: np.ndarray,
    used: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw unused items of the episodes' classes, at most `unlabelled` of each.

    sizes: (E, N) items of each class, present: (E, N). places: (M, W) places in its class of the items of each present
    class, the first `used` (M,) of which are taken. Returns places and labels (E, N, unlabelled), label -1 = nothing.
    """
    left = sizes[present] - used
    take = np.minimum(left, unlabelled)
    rows = np.flatnonzero(take)
    found = np.zeros((len(left), unlabelled), dtype=np.int64)
    if len(rows):
        ranks = draw_distinct(generator, left[rows], take[rows])
        found[rows, : ranks.shape[1]] = skip_used(ranks, places[rows], used[rows])
    there = np.zeros((*present.shape, unlabelled), dtype=bool)
    there[present] = np.arange(unlabelled) < take[:, None]
    spread = np.zeros(there.shape, dtype=np.int64)
    spread[present] = found
    return spread, np.where(there, np.arange(present.shape[1])[:, None], -1)


def last_padding(items: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move padding (label -1) to the end of each row, in items and labels (E, M), and set its items to 0."""
    if (labels != -1).all():
        return items, labels
    order = np.argsort(labels == -1, axis=1, kind="stable")
    items, labels = np.take_along_axis(items, order, axis=1), np.take_along_axis(labels, order, axis=1)
    return np.where(labels == -1, 0, items), labels


def check_extras(extras: Extras, most: int, available: int, variable: bool, what: str, dropped: str = "") -> None:
    """Raise a UserError when an episode could lack the classes outside it that its extras are of.

    most: the largest way of an episode. available: classes that can be drawn. variable: whether the way varies.
    what, dropped: the episodes, and the classes that are left out, in words.
    """
    if most + extras.other_ways <= available:
        return
    spare = available - extras.other_ways
    mend = f"lower max_way to {spare}" if variable and spare > 1 else "lower n_way, unknown_ways or distractor_ways"
    raise UserError(
        f"{what} need up to {most} classes and {extras.other_ways} outside the episode, but there are {available}"
        f"{dropped}: {mend}"
    )
