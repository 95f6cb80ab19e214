"""How large an episode is: always the same, or drawn anew by the Meta-Dataset protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from episodes.errors import UserError


@dataclass(frozen=True)
class FixedSizes:
    """Every episode alike: `shots[c]` support items for the class in position c, and `n_query` queries per class.

    Positions are filled with classes in random order, so unequal shots favour no class.
    """

    shots: tuple[int, ...]
    n_query: int

    @property
    def n_way(self) -> int:
        """Number of classes in an episode."""
        return len(self.shots)

    @property
    def items_per_class(self) -> int:
        """Items a class must have to be drawn in any position."""
        return max(self.shots) + self.n_query

    def __str__(self) -> str:
        shots = sorted(set(self.shots))
        shown = f"{shots[0]}" if len(shots) == 1 else f"{shots[0]}-to-{shots[-1]}"
        return f"{self.n_way}-way {shown}-shot with {self.n_query} queries per class"


@dataclass(frozen=True)
class MetaDatasetSizes:
    """Variable way and shot: Triantafillou et al., "Meta-Dataset", ICLR 2020, section 3.2 and its appendix.

    The rule for data sets without a class hierarchy. The defaults are the published constants.
    min_way, max_way: the way is uniform in [min_way, min(max_way, number of classes)].
    max_query: queries per class, at most; never more than half of the episode's smallest class.
    max_support: support items of an episode, at most.
    max_per_class: items of a class that count towards the support budget, at most.
    """

    min_way: int = 5
    max_way: int = 50
    max_query: int = 10
    max_support: int = 500
    max_per_class: int = 100

    def __post_init__(self) -> None:
        if not 1 <= self.min_way <= self.max_way:
            raise UserError(f"min_way={self.min_way} and max_way={self.max_way} need 1 <= min_way <= max_way")
        if self.max_support < self.max_way:
            raise UserError(
                f"max_support={self.max_support} gives fewer than one item to each of {self.max_way} classes"
            )
        for name in ("max_query", "max_per_class"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def n_way(self) -> int:
        """Number of classes that must be there."""
        return self.min_way

    @property
    def items_per_class(self) -> int:
        """A class needs one support item and one query item."""
        return 2

    def __str__(self) -> str:
        return f"variable episodes of at least {self.min_way} ways"


def draw_ways(generator: np.random.Generator, rule: MetaDatasetSizes, episodes: int, n_classes: int) -> np.ndarray:
    """Return (episodes,) ways, uniform in [min_way, min(max_way, n_classes)]."""
    return generator.integers(rule.min_way, min(rule.max_way, n_classes), size=episodes, endpoint=True)


def query_counts(rule: MetaDatasetSizes, sizes: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Queries per class of each episode, min(max_query, floor(half of the smallest class)).

    sizes: (E, N) items of each class; present: (E, N) which positions hold a class. Returns (E,).
    """
    smallest = np.where(present, sizes, np.iinfo(np.int64).max).min(axis=1)
    return np.minimum(rule.max_query, smallest // 2)


def support_budgets(
    generator: np.random.Generator, rule: MetaDatasetSizes, sizes: np.ndarray, present: np.ndarray, queries: np.ndarray
) -> np.ndarray:
    """Support size aimed at in each episode: min(max_support, sum of ceil(beta * min(max_per_class, size - query))).

    beta is uniform in (0, 1], one per episode. sizes, present: (E, N); queries: (E,). Returns (E,).
    """
    beta = 1.0 - generator.random(len(sizes))
    available = np.minimum(rule.max_per_class, sizes - queries[:, None])
    shares = np.where(present, np.ceil(beta[:, None] * available), 0)
    return np.minimum(rule.max_support, shares.sum(axis=1)).astype(np.int64)


def draw_shots(
    generator: np.random.Generator, rule: MetaDatasetSizes, sizes: np.ndarray, present: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw how many support and query items each class of each episode gives.

    A class gets its share of the budget in proportion to exp(alpha) * size, alpha uniform in [log 0.5, log 2):
    shots = min(floor(share * (budget - way)) + 1, size - query), hence at least one and never more than there are.
    sizes, present: (E, N). Returns shots (E, N), 0 where no class is present, and queries (E,).
    """
    queries = query_counts(rule, sizes, present)
    budgets = support_budgets(generator, rule, sizes, present, queries)
    alpha = generator.uniform(np.log(0.5), np.log(2.0), size=sizes.shape)
    weights = np.where(present, np.exp(alpha) * sizes, 0.0)
    shares = weights / weights.sum(axis=1, keepdims=True)
    spare = budgets - present.sum(axis=1)
    shots = np.floor(shares * spare[:, None]).astype(np.int64) + 1
    return np.where(present, np.minimum(shots, sizes - queries[:, None]), 0), queries
