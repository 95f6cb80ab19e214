"""What a benchmark tells while it runs and leaves behind: progress, records, tables, pictures and a page."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from episodes.run import RunFolder, write_text
from tools.grid.job import Outcome
from tools.grid.latex import to_latex
from tools.grid.pictures import plot_differences, plot_heatmap, plot_ranks
from tools.grid.plan import Job
from tools.grid.results import Found, make_tables, to_csv, write_records
from tools.grid.stage import Stage, note, read_done
from tools.grid.statistics import Ranks, differences, rank
from tools.table import Table

PICTURES = ("heatmap.png", "differences.png", "ranks.png")


class Journal:
    """Prints a line a job, with how many are done and how long the rest will take, and keeps the lines in a file."""

    def __init__(self, path: Path, jobs: Sequence[Job]) -> None:
        self.path, self.jobs, self.done = path, {job.name: job for job in jobs}, 0
        self.left = Counter(job.kind for job in jobs)
        self.spent: dict[str, list[float]] = {}  # seconds between two outcomes, by kind of the second
        self.last = self.started = time.perf_counter()

    def say(self, outcome: Outcome) -> None:
        """Tell how a job ended."""
        job, now = self.jobs[outcome.name], time.perf_counter()
        self.done, self.left = self.done + 1, self.left - Counter([job.kind])
        if outcome.fresh:
            self.spent.setdefault(job.kind, []).append(now - self.last)
        self.last = now
        reason = (outcome.reason or "").partition(", which failed:")[0]  # told where it happened
        words = f"failed: {reason}" if reason else outcome.said
        lines = [f"({self.done}/{len(self.jobs)}) {job.title}: {words}{self._times(now)}"]
        lines += [f"    failed: {name.removeprefix('cells/')}: {reason}" for name, reason in outcome.cells.items()]
        print("\n".join(lines), flush=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n" for line in lines)

    def _times(self, now: float) -> str:
        """Say how long it took and, once each kind of job that is left was seen, how long the rest will take."""
        if not self.spent:
            return ""
        passed = f" [{now - self.started:.0f} s"
        if not self.left or not self.spent.keys() >= self.left.keys():
            return passed + "]"
        rest = sum(sum(self.spent[kind]) / len(self.spent[kind]) * count for kind, count in self.left.items())
        return passed + f", about {rest:.0f} s left]"


def report(run: RunFolder, found: Found, jobs: Sequence[Job], seconds: float) -> dict:
    """Write and print everything; returns what `metrics.json` holds."""
    from rich.console import Console

    tables = {"accuracy": make_tables(found), "auroc": make_tables(found, "auroc")}
    rows, ranks = differences(found), rank(found)
    failed = [{"cell": cell.name.removeprefix("cells/"), "reason": reason} for cell, reason in found.reasons.items()]
    metrics = {
        "cells": len(found.results), "failed": failed, "seconds": round(seconds, 1),
        "rows": [{"measure": measure, "source": str(source), **row} for measure, several in tables.items()
                 for source, table in zip(found.config.sources, several, strict=False) for row in table.rows()],
        "ranks": ranks if isinstance(ranks, str) else {
            "average": dict(zip(ranks.methods, ranks.average.tolist(), strict=True)), "blocks": ranks.blocks,
            "friedman_p": ranks.p_value, "critical_difference": ranks.critical},
    }  # fmt: skip
    write_records(run.path / "cells.jsonl", found)
    everything = [*tables["accuracy"], *tables["auroc"]]
    write_text(run.path / "table.md", "\n".join([*(table.to_markdown() for table in everything), _words(found, ranks)]))
    write_text(run.path / "table.csv", to_csv(tables))
    write_text(run.path / "table.tex", _latex(found, tables))
    for name in PICTURES:
        (run.path / name).unlink(missing_ok=True)
    plot_heatmap(found, run.path / PICTURES[0])
    plot_differences(found, rows, run.path / PICTURES[1])
    if isinstance(ranks, Ranks):
        plot_ranks(ranks, run.path / PICTURES[2])
    console = Console()
    for table in everything:
        for part in narrow(table):
            console.print(part.to_rich())
    print(_words(found, ranks))
    _page(run, found, jobs, everything, ranks, seconds)
    run.write_metrics(metrics)
    if failed:
        print(f"{len(failed)} of {len(failed) + len(found.results)} cells failed; the next run tries these again")
    print(f"{seconds:.0f} s in all; open {run.path / 'index.html'} to look at tables and pictures")
    return metrics


def narrow(table: Table, most: int = 6) -> list[Table]:
    """Split a table between its groups of columns, so that a part has at most `most` of them and fits a terminal.

    A group that is wider by itself stays whole. Notes stand below the last part.
    """
    parts: list[list[tuple[str, list[str]]]] = [[]]
    for group in table.column_groups:
        if parts[-1] and sum(len(columns) for _, columns in [*parts[-1], group]) > most:
            parts.append([])
        parts[-1].append(group)
    result = []
    for groups in parts:
        names = {group for group, _ in groups}
        cells, failed = ({key: value for key, value in found.items() if key[1] in names}
                         for found in (table.cells, table.failed))  # fmt: skip
        result.append(Table(table.title, table.row_names, groups, cells, {}, table.apart, failed))
    result[-1].notes = table.notes
    return result


def _latex(found: Found, tables: dict[str, list[Table]]) -> str:
    sources, config = list(map(str, found.config.sources)), found.config
    captions = {"accuracy": "accuracy", "auroc": "AUROC of unknown queries"}
    return "\n".join(
        to_latex(
            several,
            sources,
            f"{config.n_way}-way {captions[measure]}, percent, with 95 % intervals over "
            f"{config.episodes * len(set(config.seeds)):,} episodes.",
            f"tab:{measure}",
        )
        for measure, several in tables.items()
        if several
    )


def _words(found: Found, ranks: Ranks | str) -> str:
    """Say what the ranks tell, or why there are none."""
    if isinstance(ranks, str):
        return f"No ranks: {ranks}.\n"
    titles = found.titles()
    order = sorted(zip(ranks.average, ranks.methods, strict=True))
    listed = ", ".join(f"{titles[method]} {average:.2f}" for average, method in order)
    return (
        f"Average ranks over {ranks.blocks} blocks (source, target, kind, shot): {listed}. Friedman p = "
        f"{ranks.p_value:.2g}; ranks differ with 95 % confidence (Nemenyi) from {ranks.critical:.2f} on.\n"
    )


def _page(run: RunFolder, found: Found, jobs: Sequence[Job], tables: list[Table], ranks, seconds: float) -> None:
    """Write `index.html`."""
    import torch

    from tools.page import write_page

    config = found.config
    curves = {}
    for job in jobs:
        stage = None if job.kind == "test" else _stage(job, run.path)
        if stage:
            curves[job.title] = stage.history
    captions = ("Accuracy of every source on every target", "Paired differences from the reference", "Average ranks")
    figures = [(words, run.path / name) for words, name in zip(captions, PICTURES, strict=True)
               if (run.path / name).is_file()]  # fmt: skip
    facts = {
        "network": f"{config.backbone}, {config.size} px",
        "episodes": f"{config.episodes:,} a cell, the same for every source and method",
        "seeds": ", ".join(map(str, config.seeds)),
        "engine": config.engine,
        "wall time of this run": f"{seconds:.0f} s",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    intro = (
        f"{len(found.titles())} methods, trained on {', '.join(map(str, config.sources))} and tested on "
        f"{', '.join(map(str, config.targets))}. One pre-training a source and pooling serves all targets, methods and "
        f"shots that start from it.\n\n{_words(found, ranks)}"
    )
    write_page(
        run.path / "index.html", title="Few-shot methods across domains", intro=intro, table=tables, curves=curves,
        episodes=[], facts=facts, commands=[], figures=figures,
    )  # fmt: skip


def _stage(job: Job, root: Path) -> Stage | None:
    folder = root / job.name
    return read_done(folder, note(folder).get("key", {}))
