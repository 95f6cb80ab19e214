"""What a benchmark tells while it runs and leaves behind: progress, records, tables, pictures and a page."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from episodes.run import RunFolder, write_text
from tools.config import Benchmark
from tools.grid.costs import costs, in_words, to_markdown
from tools.grid.job import Outcome, count
from tools.grid.latex import to_latex
from tools.grid.pictures import measured, plot_differences, plot_heatmap, plot_ranks
from tools.grid.plan import Job, machine_of
from tools.grid.results import Found, make_tables, to_csv, write_records
from tools.grid.stage import Stage, note, read_done
from tools.grid.statistics import Ranks, differences, rank
from tools.table import Table

PICTURES = ("heatmap.png", "differences.png", "ranks.png")


class Journal:
    """Prints a line a job, with how many are done and how long the rest will take, and keeps the lines in a file."""

    def __init__(self, path: Path, jobs: Sequence[Job]) -> None:
        self.path, self.jobs, self.done = path, {job.name: job for job in jobs}, 0
        self.left = sum((weight(job) for job in jobs), Counter())
        self.spent: dict[str, list[tuple[float, int]]] = {}  # seconds between two outcomes, and weight of the second
        self.last = self.started = time.perf_counter()

    def say(self, outcome: Outcome) -> None:
        """Tell how a job ended."""
        job, now = self.jobs[outcome.name], time.perf_counter()
        self.done, self.left = self.done + 1, self.left - weight(job)
        if outcome.fresh:
            self.spent.setdefault(job.kind, []).append((now - self.last, weight(job)[job.kind]))
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
        rest = 0.0
        for kind, amount in self.left.items():
            seconds, weights = map(sum, zip(*self.spent[kind], strict=True))
            rest += seconds / weights * amount
        return passed + f", about {rest:.0f} s left]"


def weight(job: Job) -> Counter[str]:
    """Return how much a job counts in the time that is left, under its kind: a test by its cells."""
    return Counter({job.kind: max(len(job.cells), 1)})


def report(run: RunFolder, found: Found, jobs: Sequence[Job], seconds: float) -> dict:
    """Write and print everything; returns what `metrics.json` holds."""
    tables = {"accuracy": make_tables(found), "auroc": make_tables(found, "auroc")}
    rows, ranks = differences(found), rank(found)
    paid = costs(found.config.methods, jobs, run.path) if found.config.media == "videos" else []
    failed = [{"cell": cell.name.removeprefix("cells/"), "reason": reason} for cell, reason in found.reasons.items()]
    metrics = {
        "cells": len(found.results), "failed": failed, "seconds": round(seconds, 1),
        "rows": [{"measure": measure, "source": str(source), **row} for measure, several in tables.items()
                 for source, table in zip(found.config.sources, several, strict=False) for row in table.rows()],
        "ranks": ranks if isinstance(ranks, str) else {
            "average": dict(zip(ranks.methods, ranks.average.tolist(), strict=True)), "blocks": ranks.blocks,
            "friedman_p": ranks.p_value, "critical_difference": ranks.critical},
        **({"costs": [asdict(row) for row in paid]} if paid else {}),
    }  # fmt: skip
    write_records(run.path / "cells.jsonl", found)
    everything = [*tables["accuracy"], *tables["auroc"]]
    texts = [*(table.to_markdown() for table in everything), *filter(None, [to_markdown(paid)]), _words(found, ranks)]
    write_text(run.path / "table.md", "\n".join(texts))
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
        for part in narrow(table, console.width):
            console.print(part.to_rich(console.width))
    print("\n".join(["", *filter(None, [to_markdown(paid)]), _words(found, ranks)]))
    _page(run, found, jobs, everything, ranks, paid, seconds)
    run.write_metrics(metrics)
    if failed:
        print(f"{len(failed)} of {count(len(failed) + len(found.results), 'cell')} failed; the next run tries again")
    print(f"{seconds:.0f} s in all; open {run.path / 'index.html'} to look at tables and pictures")
    return metrics


def narrow(table: Table, width: int = 80) -> list[Table]:
    """Split a table between its groups of columns, so that each part fits a terminal of `width` places.

    A group that is wider by itself is split as well. Notes stand below the last part.
    """

    def part(groups: list[tuple[str, list[str]]]) -> Table:
        places = {(group, column) for group, columns in groups for column in columns}
        cells, failed = ({key: value for key, value in found.items() if key[1:] in places}
                         for found in (table.cells, table.failed))  # fmt: skip
        return replace(table, column_groups=groups, cells=cells, failed=failed, notes={})

    def fits(groups: list[tuple[str, list[str]]]) -> bool:
        return ruler.measure(replace(part(groups), title="").to_rich(width)).maximum <= width

    ruler, parts = Console(width=10_000), [[]]
    for group, columns in table.column_groups:
        for piece in [columns] if fits([(group, columns)]) else [[column] for column in columns]:
            last = parts[-1]
            begun = last and last[-1][0] == group
            wider = [*last[:-1], (group, [*last[-1][1], *piece])] if begun else [*last, (group, piece)]
            if not last or fits(wider):
                parts[-1] = wider
            else:
                parts.append([(group, piece)])
    result = [part(groups) for groups in parts]
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


def _page(run: RunFolder, found: Found, jobs: Sequence[Job], tables: list[Table], ranks, paid, seconds: float) -> None:
    """Write `index.html`."""
    from tools.page import write_page

    config = found.config
    curves = {}
    for job in jobs:
        stage = None if job.kind == "test" else _stage(job, run.path)
        if stage:
            curves[job.title] = stage.history
    figures = [(title, words, run.path / name) for name, (title, words) in _captions(found).items()
               if (run.path / name).is_file()]  # fmt: skip
    made = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    facts = {
        "command": f"python -m tools.{made['command']}",
        **{f"trained on {name}": text for name, text in _sets(config.sources).items()},
        **{f"tested on {name}": text for name, text in _sets(config.targets).items()},
        "network": _network(config),
        "episodes": f"{config.episodes:,} a cell, the same for every source and method",
        "seeds": ", ".join(map(str, config.seeds)),
        "engine": config.engine,
        "a job runs on": _device(config, made["device"]),
        "wall time of this run": f"{seconds:.0f} s",
        "torch": made["torch"],
        "python": made["python"],
        "commit": made["commit"],
    }
    once = "source serves" if config.media == "videos" else "source and pooling serves"
    intro = (
        f"{len(found.titles())} methods, trained on {', '.join(map(str, config.sources))} and tested on "
        f"{', '.join(map(str, config.targets))}. One pre-training a {once} all targets, methods and "
        f"shots that start from it.\n\n{_words(found, ranks)}"
    )
    for row in paid:
        facts[f"cost, {row.title}"] = in_words(row)
    write_page(
        run.path / "index.html", title="Few-shot methods across domains", intro=intro, table=tables, curves=curves,
        episodes=[], facts=facts, commands=[], figures=figures,
    )  # fmt: skip


def _captions(found: Found) -> dict[str, tuple[str, str]]:
    """Return title and explanation of every picture."""
    reference = found.titles()[found.config.reference or found.config.methods[0]]
    what, drawn = measured(found), sum(measure == "accuracies" for _, measure in found.views)
    alike = " Accuracies that are those of another kind, episode by episode, are not drawn again."
    alike = alike if drawn < len(found.columns) else ""
    texts = (
        ("Every source on every target",
         f"{what}, mean over all episodes, percent. Darker is higher; every row of panels has its own scale. "
         f"× marks a place without a result.{alike}"),
        ("Paired differences from the reference",
         f"Method minus {reference} on the same episodes, in points, with paired 95 % intervals. A filled mark has an "
         "interval without zero. Grey and dashed: one of both is transductive and the other is not, so they are not "
         f"compared. A cross has no result.{alike}"),
        ("Average ranks",
         "1 is best. Bars join methods whose average ranks differ by less than the critical difference: the data do "
         "not tell them apart. Transductive methods are not ranked."),
    )  # fmt: skip
    return dict(zip(PICTURES, texts, strict=True))


def _sets(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return the data sets of every source or target, as text."""
    return {str(name): value if isinstance(value, str)
            else ", ".join(f"{k} {v}" for k, v in value.items() if v and not isinstance(v, Mapping))
            for name, value in parts.items()}  # fmt: skip


def _network(config: Benchmark) -> str:
    """Say what network the grid trains, and on what."""
    if config.media == "pictures":
        return f"{config.backbone}, {config.size} px"
    grid = config.video
    size = f"{grid.size} px" if grid.size else "its own size"
    return f"{grid.backbone}, {grid.frames} frames ({grid.sampling}), {size}, {grid.eval_view} view"


def _device(config: Benchmark, device: str) -> str:
    """Say what a job of the grid computes on. device: of this machine."""
    machine = machine_of(config)
    if config.engine == "ray":
        where = "a Ray cluster at " + config.address if config.address else "a Ray cluster on this machine"
    else:
        where = device if machine.accelerator != "cpu" else "CPU"
    devices = f", {machine.devices} devices" if str(machine.devices) != "1" else ""
    return f"{where}{devices}, {count(machine.threads, 'thread')}"


def _stage(job: Job, root: Path) -> Stage | None:
    folder = root / job.name
    return read_done(folder, note(folder).get("key", {}))
