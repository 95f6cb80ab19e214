"""Which method is ahead over the whole grid: paired differences, average ranks, Friedman's test, Nemenyi's distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from episodes.metrics import paired_difference
from tools.grid.methods import method_of
from tools.grid.results import Found, View

LEAST_METHODS, LEAST_BLOCKS = 3, 5


@dataclass(frozen=True)
class Difference:
    """Method minus reference on the same episodes, fractions: mean and half-width of the paired 95 % interval.

    apart: whether one of both is transductive and the other is not, so that they do not compare.
    """

    source: str
    target: str
    view: View
    method: str
    mean: float
    interval: float
    apart: bool = False


@dataclass(frozen=True)
class Ranks:
    """Average ranks over blocks, 1 = best.

    methods: as ranked. average: (M,). blocks: N. p_value: of Friedman's test that all methods are alike.
    critical: difference of average ranks that Nemenyi's test needs at the level 0.05.
    """

    methods: list[str]
    average: np.ndarray
    blocks: int
    p_value: float
    critical: float


def differences(found: Found) -> list[Difference]:
    """Compare every method with the reference; places where one of both failed are left out."""
    config = found.config
    reference = config.reference or config.methods[0]
    result = []
    for source in map(str, config.sources):
        for target in map(str, config.targets):
            for column, what in found.views:
                base = found.pooled(source, target, reference, column, what)
                for method in found.titles():
                    values = found.pooled(source, target, method, column, what)
                    if method != reference and values is not None and base is not None:
                        apart = method_of(method).transductive != method_of(reference).transductive
                        place = (source, target, (column, what), method)
                        result.append(Difference(*place, *paired_difference(values, base), apart))
    return result


def rank(found: Found) -> Ranks | str:
    """Rank the inductive methods in every block, a (source, target, kind, shot); returns why not where it cannot.

    Seeds are pooled: results of one block with several seeds are not independent of each other, and counted as blocks
    they would make the test surer than it is (Demsar, JMLR 2006, section 3). Two kinds in which every episode of every
    method has the same accuracy are one block for the same reason. Ties share their ranks.
    """
    config = found.config
    methods = [method for method in found.titles() if not method_of(method).transductive]
    if len(methods) < LEAST_METHODS:
        return f"ranks need {LEAST_METHODS} methods that are not transductive, here are {len(methods)}"
    rows, seen = [], set()
    for source in map(str, config.sources):
        for target in map(str, config.targets):
            for column in found.columns:
                values = [found.pooled(source, target, method, column) for method in methods]
                if any(value is None for value in values):
                    continue
                block = (source, target, *(value.tobytes() for value in values))
                if block not in seen:  # open-set episodes have the known queries of the standard ones: the same answers
                    seen.add(block)
                    rows.append([value.mean() for value in values])
    if len(rows) < LEAST_BLOCKS:
        return (
            f"ranks need {LEAST_BLOCKS} blocks (source, target, kind, shot) with results of all methods, "
            f"here are {len(rows)}"
        )
    return rank_rows(methods, np.array(rows))


def rank_rows(methods: Sequence[str], accuracies: np.ndarray) -> Ranks:
    """Rank methods by their accuracies (N blocks, M methods)."""
    from scipy.stats import friedmanchisquare, rankdata

    average = rankdata(-accuracies, axis=1).mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = float(friedmanchisquare(*accuracies.T).pvalue)
    p_value = 1.0 if math.isnan(p_value) else p_value  # all tied everywhere
    return Ranks(list(methods), average, len(accuracies), p_value, critical_difference(len(methods), len(accuracies)))


def critical_difference(methods: int, blocks: int, level: float = 0.05) -> float:
    """Return Nemenyi's critical difference of average ranks, q sqrt(M (M + 1) / (6 N)) (Demsar 2006, section 3.2.2).

    q is the quantile of the studentised range with infinitely many degrees of freedom, divided by sqrt(2).
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - level, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


def cliques(average: np.ndarray, critical: float) -> list[tuple[int, int]]:
    """Return the longest runs of methods, sorted by rank, whose ranks lie within the critical difference.

    Each is (first, last) in the sorted order and has two methods at least; a run inside another is left out.
    """
    ordered, runs = np.sort(average), []
    for first in range(len(ordered)):
        last = int(np.searchsorted(ordered, ordered[first] + critical, side="right")) - 1
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs
