"""What a grid found: one record a cell, and the tables of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from episodes.metrics import mean_and_interval
from tools.config import Benchmark
from tools.grid.cells import Result, cell_key, read_cell
from tools.grid.job import Outcome, last_weights
from tools.grid.methods import method_of, title_of, tuned_part
from tools.grid.plan import Cell, Job, kinds_of, shots_of
from tools.kinds import varies
from tools.table import Cell as Number
from tools.table import Table

# A column of the tables: episodes of one kind and one shot; a view is a column and what is measured: accuracies, auroc.
Column = tuple[str, int]
View = tuple[Column, str]
MEASURES = {"accuracies": "Accuracy", "auroc": "AUROC of unknown queries"}


@dataclass
class Found:
    """Results and reasons of all cells of a grid, in the order of its options."""

    config: Benchmark
    results: dict[Cell, Result]
    reasons: dict[Cell, str]

    @property
    def columns(self) -> list[Column]:
        """Kinds and shots, in the order of the options."""
        return [(kind, k) for kind, options in kinds_of(self.config).items() for k in shots_of(self.config, options)]

    def column_title(self, column: Column) -> str:
        """Return the heading of a column; kinds are named where there are several."""
        kind, k = column
        shots = "varied shots" if varies(kinds_of(self.config)[kind]) else f"{k}-shot"
        return shots if len(self.config.kinds) == 1 else f"{kind}, {shots}"

    @property
    def views(self) -> list[View]:
        """What pictures show: accuracies of every column, and AUROC of those with unknown queries.

        Accuracies that are those of another column, episode by episode, are left out: open-set episodes have the known
        queries of the standard ones, and so the same answers, but for methods that ask all queries at once.
        """
        methods = [m for m in self.titles() if not method_of(m).transductive] or list(self.titles())
        views: list[View] = []
        seen: set[tuple[bytes | None, ...]] = set()
        for column in self.columns:
            places = [(str(s), str(t), m, column) for s in self.config.sources for t in self.config.targets
                      for m in methods]  # fmt: skip
            values = tuple(None if (one := self.pooled(*place)) is None else one.tobytes() for place in places)
            if values not in seen:
                views.append((column, "accuracies"))
            if any(values):
                seen.add(values)
            if kinds_of(self.config)[column[0]].unknown_ways:
                views.append((column, "auroc"))
        return views

    def view_title(self, view: View) -> str:
        """Return the heading of a view in a picture; what is measured is named where pictures show both."""
        title, named = self.column_title(view[0]), any(what == "auroc" for _, what in self.views)
        return f"{title}, {'AUROC' if view[1] == 'auroc' else 'accuracy'}" if named else title

    def cells(self, source: str, target: str, method: str, column: Column) -> list[Cell]:
        """Return the cells of all seeds at one place of the tables."""
        kind, k = column
        return [Cell(source, target, method, k, kind, seed) for seed in dict.fromkeys(self.config.seeds)]

    def pooled(self, source: str, target: str, method: str, column: Column, what: str = "accuracies") -> Any:
        """Return the episodes of all seeds, (E,), or None unless every seed has them.

        what: accuracies or auroc.
        """
        results = [self.results.get(cell) for cell in self.cells(source, target, method, column)]
        parts = [getattr(result, what) if result else None for result in results]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    def titles(self) -> dict[str, str]:
        """Return the title of every method, in the order of the options."""
        return {method: title_of(method) for method in dict.fromkeys(self.config.methods)}


def collect(config: Benchmark, jobs: Iterable[Job], outcomes: Mapping[str, Outcome], root: Path) -> Found:
    """Read the results of all cells whose keys are those of this grid; the others have the reason of their failure."""
    by_name, found, hashes = {job.name: job for job in jobs}, Found(config, {}, {}), {}
    for job in by_name.values():
        if job.kind != "test":
            continue
        (start,), outcome = job.needs, outcomes[job.name]
        if start not in hashes:
            hashes[start] = last_weights(by_name[start], root) if outcomes[start].reason is None else None
        for entry in job.cells:
            cell = Cell(**entry["cell"])
            reason, result = outcome.cells.get(cell.name), None
            if reason is None and hashes[start] is not None:
                result = read_cell(root, cell, cell_key(entry, hashes[start][1], job.data))
            if result is not None:
                found.results[cell] = result
            else:
                found.reasons[cell] = reason or outcome.reason or "its result is not in the run folder"
    return found


def write_records(path: Path, found: Found) -> None:
    """Write one JSON line a cell: what it is, and its figures or why it failed."""
    from episodes.run import write_text

    lines = []
    for cell in [*found.results, *found.reasons]:
        record = dict(found.results[cell].record) if cell in found.results else {"failed": found.reasons[cell]}
        key = record.pop("key", {})
        extra = {"weights": key["weights"], "episodes_file": f"{cell.name}.npz"} if key else {}
        lines.append(json.dumps({**asdict(cell), **record, **extra}))
    write_text(path, "".join(line + "\n" for line in lines))


def make_tables(found: Found, what: str = "accuracies") -> list[Table]:
    """Return one table a source: methods, and targets by columns, pooled over the seeds; failures have numbered notes.

    what: accuracies, or auroc, whose tables have the columns with unknown queries only.
    """
    config, reasons = found.config, {}
    columns = [c for c in found.columns if what == "accuracies" or kinds_of(config)[c[0]].unknown_ways]
    if not columns:
        return []
    tables, titles = [], found.titles()
    for source in map(str, config.sources):
        numbers, failed = {}, {}
        for method, row in titles.items():
            for target in map(str, config.targets):
                for column in columns:
                    place = (row, target, found.column_title(column))
                    values = found.pooled(source, target, method, column, what)
                    if values is not None:
                        numbers[place] = _number(found, source, target, method, column, values)
                        continue
                    why = [found.reasons[c] for c in found.cells(source, target, method, column) if c in found.reasons]
                    if why:
                        failed[place] = reasons.setdefault(why[0], len(reasons) + 1)
        notes = {f"[{number}]": text for text, number in reasons.items() if number in failed.values()}
        apart = frozenset(row for method, row in titles.items() if method_of(method).transductive)
        if apart:
            notes["transductive"] = "asks all queries of an episode at once, so it is not compared with the others"
        groups = [(target, [found.column_title(c) for c in columns]) for target in map(str, config.targets)]
        measure = MEASURES[what]
        title = f"{measure} (%), {config.n_way}-way, trained on {source}"
        tables.append(Table(title, list(titles.values()), groups, numbers, notes, apart, failed, measure))
    if what == "accuracies":
        tables[0].notes |= _notes(found)  # once, not below every table
    return tables


def _notes(found: Found) -> dict[str, str]:
    """Return what the heads said of how they computed, by shot where it differs, and who used unlabelled pictures."""
    notes, learners = _of_videos(found), []
    for method, title in found.titles().items():
        said: dict[str, dict[int, None]] = {}  # what was said -> shots
        for cell, result in found.results.items():
            if cell.method == method and (text := result.record.get("note")):
                said.setdefault(text, {})[cell.k_shot] = None
        if said:
            shots = {text: " and ".join(f"{k}-shot" for k in sorted(ks)) for text, ks in said.items()}
            notes[title] = "; ".join(f"{text} ({shots[text]})" if len(said) > 1 else text for text in said)
        learners += [title] if method_of(method).semi_supervised else []
    if any(kind.unlabelled for kind in kinds_of(found.config).values()):
        notes["unlabelled pictures"] = f"used by {', '.join(learners)}" if learners else "no method here uses them"
    return notes


def _of_videos(found: Found) -> dict[str, str]:
    """Return which methods are not tuned, and what targets have other than the rest: classes and queries."""
    if found.config.media != "videos":
        return {}
    from tools.grid.video_grid import targets_of

    usual = (found.config.n_way, found.config.n_query)
    own = {name: target for name, target in targets_of(found.config).items()
           if (target.n_way, target.n_query) != usual}  # fmt: skip
    frozen = [title for method, title in found.titles().items() if tuned_part(method) == "frozen"]
    notes = {"the source's network as it is": ", ".join(frozen)} if frozen else {}
    return notes | {name: f"{one.n_way}-way, queries of a class: {one.n_query}" for name, one in own.items()}


def _number(found: Found, source: str, target: str, method: str, column: Column, values: np.ndarray) -> Number:
    mean, interval = mean_and_interval(values)
    records = [found.results[cell].record for cell in found.cells(source, target, method, column)]
    seconds = sum(record["seconds"] + record["feature_seconds"] for record in records)
    return Number(mean, interval, len(values), seconds)


def to_csv(tables: Mapping[str, list[Table]]) -> str:
    """Write all tables as one CSV, a line a cell; a failed one has its reason and no numbers.

    tables: by measure, each with one table a source.
    """
    text, columns = io.StringIO(), ["mean_percent", "interval_percent", "episodes", "seconds", "best", "failed"]
    writer = csv.DictWriter(text, ["measure", "source", "row", "group", "column", *columns], lineterminator="\n")
    writer.writeheader()
    for measure, several in tables.items():
        for table in several:
            place = {"measure": measure, "source": table.title.partition("trained on ")[2]}
            writer.writerows({**place, **line} for line in csv.DictReader(io.StringIO(table.to_csv())))
            for (row, group, column), number in table.failed.items():
                named = {"row": row, "group": group, "column": column, "failed": table.notes[f"[{number}]"]}
                writer.writerow({**place, **named})
    return text.getvalue()
