"""How large an episode is: always the same, drawn anew by the Meta-Dataset protocol, or imbalanced.

A rule says which classes it can use (`n_way`, `items_per_class`), and draws for a block of episodes at once: `ways`
and, once the classes are known, `counts`. `block` is the number of episodes drawn in one step; it is part of what
defines the episodes: changing it changes them all. `uneven` says whether their arrays differ in length, `greedy`
whether an episode may use up a class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from episodes.errors import UserError


@dataclass(frozen=True)
class FixedSizes:
    """Every episode alike: `shots[c]` support items for the class in position c, and `n_query` queries per class.

    Positions are filled with classes in random order, so unequal shots favour no class.
    """

    block: ClassVar[int] = 1024
    uneven: ClassVar[bool] = False
    greedy: ClassVar[bool] = False
    shots: tuple[int, ...]
    n_query: int

    @property
    def n_way(self) -> int:
        """Number of classes in an episode."""
        return len(self.shots)

    @property
    def shown_shots(self) -> str:
        """The shots as the head of a column."""
        return f"{_span(min(self.shots), max(self.shots))}-shot"

    @property
    def items_per_class(self) -> int:
        """Items a class must have to be drawn in any position."""
        return max(self.shots) + self.n_query

    def most_ways(self, n_classes: int) -> int:
        """Return the largest way of an episode over so many classes."""
        return self.n_way

    def ways(self, generator: np.random.Generator, episodes: int, n_classes: int) -> np.ndarray:
        """Return the way of each episode (E,)."""
        return np.full(episodes, self.n_way)

    def counts(
        self, generator: np.random.Generator, sizes: np.ndarray, present: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the supports and the queries of each class (E, N); sizes (E, N): its items, present (E, N)."""
        return np.broadcast_to(np.array(self.shots), sizes.shape), np.full(sizes.shape, self.n_query)

    def __str__(self) -> str:
        return f"{self.n_way}-way {self.shown_shots} with {self.n_query} queries per class"


@dataclass(frozen=True)
class MetaDatasetSizes:
    """Variable way and shot: Triantafillou et al., "Meta-Dataset", ICLR 2020, section 3.2 and its appendix.

    The rule for data sets without a class hierarchy. The defaults are the published constants.
    min_way, max_way: the way is uniform in [min_way, min(max_way, number of classes)].
    max_query: queries per class, at most; never more than half of the episode's smallest class.
    max_support: support items of an episode, at most.
    max_per_class: items of a class that count towards the support budget, at most.
    """

    block: ClassVar[int] = 32  # these episodes are some 50 times larger
    uneven: ClassVar[bool] = True
    greedy: ClassVar[bool] = True
    shown_shots: ClassVar[str] = "variable"
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

    def most_ways(self, n_classes: int) -> int:
        """Return the largest way of an episode over so many classes."""
        return min(self.max_way, n_classes)

    def ways(self, generator: np.random.Generator, episodes: int, n_classes: int) -> np.ndarray:
        """Return the way of each episode (E,), see `draw_ways`."""
        return draw_ways(generator, self, episodes, n_classes)

    def counts(
        self, generator: np.random.Generator, sizes: np.ndarray, present: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the supports and the queries of each class (E, N), see `draw_shots`."""
        shots, queries = draw_shots(generator, self, sizes, present)
        return shots, np.where(present, queries[:, None], 0)

    def __str__(self) -> str:
        return f"variable episodes of at least {self.min_way} ways"


@dataclass(frozen=True)
class ImbalancedSizes:
    """Fixed way, but shots, queries or both that differ between the classes of an episode.

    shots: (fewest, most) supports of a class, uniform between them and independent of each other: Ochal et al.,
        "Few-shot learning with class imbalance", 2021.
    n_query: queries per class on average; an episode has n_way * n_query of them.
    query_alpha: they are shared among the classes by Dirichlet(query_alpha): Veilleux et al., "Realistic evaluation of
        transductive few-shot learning", NeurIPS 2021, where it is 2. A class may get none. None gives each n_query.
    """

    block: ClassVar[int] = 256
    n_way: int
    shots: tuple[int, int]
    n_query: int
    query_alpha: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shots", tuple(int(number) for number in self.shots))  # a list where read from a file
        if self.n_way < 1 or self.n_query < 1:
            raise UserError(f"n_way={self.n_way} and n_query={self.n_query} must be at least 1")
        if len(self.shots) != 2 or not 1 <= self.shots[0] <= self.shots[1]:
            raise UserError(f"shots={list(self.shots)} must be the fewest and the most of a class, 1 <= fewest <= most")
        if self.query_alpha is not None and not 0 < self.query_alpha < np.inf:
            raise UserError(f"query_alpha={self.query_alpha} must be above 0")

    @property
    def uneven(self) -> bool:
        """Whether the support differs in length; the number of queries never does."""
        return self.shots[0] < self.shots[1]

    @property
    def greedy(self) -> bool:
        """Whether an episode may use up a class."""
        return self.query_alpha is not None

    @property
    def items_per_class(self) -> int:
        """Items a class must have; a larger share of the queries than it has items left goes to other classes."""
        return self.shots[1] + self.n_query

    @property
    def shown_shots(self) -> str:
        """The shots as the head of a column."""
        return f"{_span(*self.shots)}-shot"

    def most_ways(self, n_classes: int) -> int:
        """Return the largest way of an episode over so many classes."""
        return self.n_way

    def ways(self, generator: np.random.Generator, episodes: int, n_classes: int) -> np.ndarray:
        """Return the way of each episode (E,)."""
        return np.full(episodes, self.n_way)

    def counts(
        self, generator: np.random.Generator, sizes: np.ndarray, present: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the supports and the queries of each class (E, N); sizes (E, N): its items, all are present."""
        shots = generator.integers(*self.shots, size=sizes.shape, endpoint=True)
        if self.query_alpha is None:
            return shots, np.full(sizes.shape, self.n_query)
        shares = generator.dirichlet(np.full(self.n_way, self.query_alpha), size=len(sizes))
        return shots, share_out(shares, self.n_way * self.n_query, sizes - shots)

    def __str__(self) -> str:
        queries = f"{self.n_query} queries per class"
        if self.query_alpha is not None:
            queries = f"{self.n_way * self.n_query} queries shared by Dirichlet({self.query_alpha:g})"
        return f"imbalanced {self.n_way}-way {self.shown_shots} with {queries}"


RULES = {"fixed": FixedSizes, "meta_dataset": MetaDatasetSizes, "imbalanced": ImbalancedSizes}


def describe_sizes(sizes: FixedSizes | MetaDatasetSizes | ImbalancedSizes) -> dict[str, Any]:
    """Return a rule as plain values, "rule" being its name in RULES."""
    return {"rule": next(name for name, kind in RULES.items() if type(sizes) is kind), **asdict(sizes)}


def _span(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least}-to-{most}"


def share_out(shares: np.ndarray, total: int, room: np.ndarray) -> np.ndarray:
    """Turn shares into whole numbers that add up to `total` and exceed no `room`.

    shares: (E, N), each row sums to 1. room: (E, N), each row sums to `total` at least.
    Every position gets the floor of its share and the largest remainders one more; what exceeds a position's room goes
    to those that have room left, in proportion to their shares again.
    """
    counts, left = np.zeros(shares.shape, dtype=np.int64), np.full(len(shares), total)
    while left.any():  # at most N rounds: each fills a position or is the last of its row
        weights = np.where(counts < room, np.maximum(shares, np.finfo(float).tiny), 0.0)
        exact = left[:, None] * (weights / weights.sum(axis=1, keepdims=True).clip(min=np.finfo(float).tiny))
        more = np.floor(exact).astype(np.int64)
        order = np.argsort(np.where(weights > 0, more - exact, np.inf), axis=1, kind="stable")
        rank = np.argsort(order, axis=1, kind="stable")
        more += rank < (left - more.sum(axis=1))[:, None]
        more = np.minimum(more, room - counts)
        counts += more
        left = left - more.sum(axis=1)
    return counts


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
