"""What the trainings of a grid cost: tuned parameters and seconds, for every method and for every source."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.grid.methods import TUNED, title_of, tuned_part
from tools.grid.plan import Job
from tools.grid.stage import note


@dataclass(frozen=True)
class Cost:
    """One row of the table of costs.

    title: of a method or source. what: is trained, in words. trained, total: parameters; None where nobody said.
    seconds: wall time of one training, mean over all of them. trainings: how many.
    """

    title: str
    what: str
    trained: int | None
    total: int | None
    seconds: float
    trainings: int


def costs(methods: Iterable[str], jobs: Iterable[Job], root: Path) -> list[Cost]:
    """Return what the trainings of a grid of videos cost: stages of sources first, then every method."""
    rows, jobs = [], list(jobs)
    for job in jobs:
        if job.kind == "video_pretrain" and (done := note(root / job.name)).get("metrics"):
            count = parameters_in(root / job.name / done["weights"])
            rows.append(Cost(job.title, "the whole network", count, count, round(done["seconds"], 2), 1))
    for method in dict.fromkeys(methods):
        part = tuned_part(method)
        if part == "frozen":
            rows.append(Cost(title_of(method), "nothing, frozen", 0, None, 0.0, 0))
            continue
        mine = {entry for job in jobs for entry in job.needs
                if job.cells and job.cells[0]["cell"]["method"] == method}  # fmt: skip
        done = [found for name in sorted(mine) if (found := note(root / name)).get("metrics")]
        if done:
            rows.append(row(title_of(method), TUNED[part], done))
    return rows


def row(title: str, what: str, done: list[dict[str, Any]]) -> Cost:
    """Return the row of several trainings alike. done: what their `done.json` say."""
    first = done[0]["metrics"]
    seconds = float(np.mean([one["seconds"] for one in done]))
    return Cost(title, what, first.get("trained_parameters"), first.get("parameters"), round(seconds, 2), len(done))


def parameters_in(weights: Path) -> int:
    """Return how many numbers a file of weights holds, without reading them."""
    import safetensors

    with safetensors.safe_open(weights, framework="numpy") as file:
        return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118


def to_markdown(rows: Iterable[Cost]) -> str:
    """Return the table of costs, empty without rows."""
    lines = [
        f"| {r.title} | {r.what} | {size(r.trained)} | {size(r.total)} | {time(r)} | {r.trainings} |" for r in rows
    ]
    if not lines:
        return ""
    head = ["| | trained | parameters | of | seconds each | trainings |", "| :-- | :-- | --: | --: | --: | --: |"]
    return "\n".join(["### Cost", "", *head, *lines]) + "\n"


def in_words(cost: Cost) -> str:
    """Return a row as one line of text."""
    if not cost.trainings:
        return cost.what
    return f"{cost.what}: {size(cost.trained)} parameters, {time(cost)} s each of {cost.trainings}"


def size(number: int | None) -> str:
    """Return a number of parameters as printed."""
    return "–" if number is None else f"{number:,}"


def time(cost: Cost) -> str:
    """Return the seconds of a training as printed."""
    return f"{cost.seconds:.1f}" if cost.trainings else "–"
