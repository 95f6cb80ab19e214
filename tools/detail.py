"""What stands below the table of a comparison: the seeds one by one, paired differences, and where the time went."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from episodes.metrics import mean_and_interval, paired_difference
from fewshot.methods import METHODS
from tools.config import Compare

if TYPE_CHECKING:
    from tools.compare import Comparison

# (second-order method, its first-order counterpart): same training, another pooling.
PAIRS = (("meta_deepbdc", "protonet"), ("stl_deepbdc", "good_embed"))


def detail(config: Compare, found: Comparison) -> str:
    """Write the sections as Markdown; those that have nothing to say are left out."""
    sections = [
        ("Mean accuracy of every seed, percent", seed_rows(config, found) if len(config.seeds) > 1 else []),
        ("Differences on the same episodes, points of accuracy", difference_rows(config, found)),
        ("Where the seconds went, all seeds together", time_rows(found)),
    ]
    return "".join(f"\n### {title}\n\n{_markdown(rows)}" for title, rows in sections if len(rows) > 1)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| :-- |" + " --: |" * (len(rows[0]) - 1), *lines[1:]]) + "\n"


def _columns(config: Compare, found: Comparison) -> list[tuple[str, int]]:
    names = dict.fromkeys(name for _, name, _ in found.scores)
    return [(name, k) for name in names for k in config.k_shot]


def seed_rows(config: Compare, found: Comparison) -> list[list[str]]:
    """One row a method: the means of the seeds and, in brackets, the standard deviation between them (n - 1)."""
    columns = _columns(config, found)
    rows = [["", *(f"{name} {k}-shot" for name, k in columns)]]
    for method in config.methods:
        cells = []
        for name, k in columns:
            means = [100 * score.cell().mean for score in found.scores[method, name, k]]
            cells.append(f"{' / '.join(f'{m:.2f}' for m in means)} ({np.std(means, ddof=1):.2f})")
        rows.append([METHODS[method].title, *cells])
    return rows


def difference_rows(config: Compare, found: Comparison) -> list[list[str]]:
    """One row a pair: mean difference with its paired 95 % interval over episodes, then the difference of each seed."""
    columns = _columns(config, found)
    rows = [["", *(f"{name} {k}-shot" for name, k in columns)]]
    for second, first in PAIRS:
        if second not in config.methods or first not in config.methods:
            continue
        cells = []
        for name, k in columns:
            pairs = list(zip(found.scores[second, name, k], found.scores[first, name, k], strict=True))
            mean, interval = paired_difference(*(np.concatenate([p[i].accuracies for p in pairs]) for i in (0, 1)))
            seeds = [100 * mean_and_interval(a.accuracies - b.accuracies)[0] for a, b in pairs]
            each = f" ({' / '.join(map(_signed, seeds))})" if len(seeds) > 1 else ""
            cells.append(f"{_signed(100 * mean)} ± {100 * interval:.2f}{each}")
        rows.append([f"{METHODS[second].title} − {METHODS[first].title}", *cells])
    return rows


def _signed(points: float) -> str:
    return f"{round(points, 2) + 0.0:+.2f}"  # adding 0 makes -0 positive


def time_rows(found: Comparison) -> list[list[str]]:
    """One row a kind of stage: its seconds, and how they split."""
    rows = [["stage", "runs", "seconds", "training", "of it waiting for pictures", "validation and the rest"]]
    kinds: dict[str, list[str]] = {}
    for title in found.seconds:
        kinds.setdefault(title.partition(", seed ")[0], []).append(title)
    for kind, titles in kinds.items():
        history = [row for title in titles for row in found.curves[title]]
        total = sum(found.seconds[title] for title in titles)
        training = sum(row["seconds"] for row in history)
        waiting = sum(row["seconds"] * row["wait_share"] for row in history)
        values = [total, training, waiting, total - training]
        rows.append([kind, str(len(titles)), *(f"{value:.0f}" for value in values)])
    tested = sum(score.cell().seconds for scores in found.scores.values() for score in scores)
    count = sum(len(scores) for scores in found.scores.values())
    rows.append(["tests", str(count), f"{tested:.0f}", "–", "–", "–"])
    return rows


def episodes_csv(config: Compare, found: Comparison) -> str:
    """One line a test episode (test, k_shot, seed, number), one column of accuracies a method."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["test", "k_shot", "seed", "episode", *config.methods])
    for name, k in _columns(config, found):
        for place, seed in enumerate(config.seeds):
            scores = [found.scores[method, name, k][place] for method in config.methods]
            numbers = np.concatenate([part.numbers for part in scores[0].evaluations])
            for row in zip(numbers, *(score.accuracies for score in scores), strict=True):
                writer.writerow([name, k, seed, int(row[0]), *(f"{value:.6f}" for value in row[1:])])
    return text.getvalue()
