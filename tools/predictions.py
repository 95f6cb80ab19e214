"""What `predict` found: files, terminal table, picture sheets; and whether it is right, where folders say so."""

from __future__ import annotations

import csv
import io
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from episodes.check import drop_broken, refuse_broken
from episodes.dataset import FileSet
from episodes.run import write_json, write_text

if TYPE_CHECKING:
    from episodes.loaders import Pictures
    from video.clips import Clips

    Items = Pictures | Clips
UNKNOWN = "unknown"
MOST_ROWS = 30  # of the terminal table; more pictures are summed up


@dataclass
class Predictions:
    """Answers for N files over K classes.

    probabilities: (N, K). truth: (N,) labels, -1 where a file's folder says nothing.
    unknown_below: best probability under which a file is of no class. what: the files are, pictures or videos.
    """

    files: list[str]
    class_names: list[str]
    probabilities: np.ndarray
    truth: np.ndarray
    unknown_below: float | None = None
    what: str = "pictures"

    @cached_property
    def short_files(self) -> list[str]:
        """The files without the folders that all of them share."""
        if len(self.files) == 1:
            return [Path(self.files[0]).name]
        shared = os.path.commonpath([os.path.abspath(Path(file).parent) for file in self.files])
        return [os.path.relpath(os.path.abspath(file), shared) for file in self.files]

    @cached_property
    def order(self) -> np.ndarray:
        """Labels from the likeliest to the least likely, (N, K); the first of equals in the order of the classes."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")

    @property
    def best(self) -> np.ndarray:
        """Probability of the likeliest class, (N,)."""
        return self.probabilities.max(axis=1)

    @property
    def known(self) -> np.ndarray:
        """(N,) bool, False for files that are of no class."""
        return self.best >= (self.unknown_below or 0.0)

    @property
    def answers(self) -> list[str]:
        """The class of every file, or 'unknown'."""
        firsts = zip(self.order[:, 0], self.known, strict=True)
        return [self.class_names[label] if known else UNKNOWN for label, known in firsts]

    def metrics(self) -> dict[str, object]:
        """Return counts for `metrics.json`; with the accuracy where folders name the classes."""
        answers = self.answers
        counted = {name: answers.count(name) for name in self.class_names}
        if self.unknown_below is not None:
            counted[UNKNOWN] = answers.count(UNKNOWN)
        result: dict[str, object] = {self.what: len(self.files), "answers": counted}
        labelled = self.truth >= 0
        if labelled.any():
            right = (self.order[:, 0] == self.truth) & self.known & labelled
            low, high = wilson(int(right.sum()), int(labelled.sum()))
            result |= {
                "labelled": int(labelled.sum()),
                "accuracy": right.sum() / labelled.sum(),
                "accuracy_low": low,
                "accuracy_high": high,
                "confusion": self.confusion().tolist(),
            }
        return result

    def confusion(self) -> np.ndarray:
        """Count answers of the labelled files, row = true class: (K, K), or (K, K + 1) with the unknown ones last."""
        columns = len(self.class_names) + (self.unknown_below is not None)
        counted = self.truth >= 0
        said = np.where(self.known, self.order[:, 0], len(self.class_names))[counted]
        flat = np.bincount(self.truth[counted] * columns + said, minlength=len(self.class_names) * columns)
        return flat.reshape(len(self.class_names), columns)

    def rows(self) -> list[dict[str, object]]:
        """Return one row a file, probabilities of all classes included."""
        result = []
        for number, (file, answer) in enumerate(zip(self.files, self.answers, strict=True)):
            first, second = self.order[number, :2]
            shares = self.probabilities[number]
            row: dict[str, object] = {"file": file, "class": answer, "probability": float(shares[first])}
            row |= {"runner_up": self.class_names[second], "runner_up_probability": float(shares[second])}
            if (self.truth >= 0).any():
                row["true_class"] = self.class_names[self.truth[number]] if self.truth[number] >= 0 else ""
            row |= {f"p({name})": float(p) for name, p in zip(self.class_names, shares, strict=True)}
            result.append(row)
        return result


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval of a share: unlike mean and deviation it is no point at 0 or 1."""
    share, spread = right / count, z * z / count
    centre, half = share + spread / 2, z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max((centre - half) / (1 + spread), 0.0), min((centre + half) / (1 + spread), 1.0)


def readable(dataset: FileSet | None, skip_broken: bool) -> tuple[FileSet | None, list[str]]:
    """Refuse files that cannot be read, or leave them out; returns the set and the names of the files left out.

    Raises UserError for broken files that are not to be skipped, and for a class of which none is left.
    """
    if dataset is None or not skip_broken:
        if dataset is not None:
            refuse_broken(dataset)
        return dataset, []
    kept = drop_broken(dataset)  # says in a warning what is left out
    return kept, sorted(set(dataset.names) - set(kept.names))


def warn_shared_files(support: Sequence[str], queries: Sequence[str], what: str = "pictures") -> None:
    """Warn when a file is support and query: what is said of it is no test."""
    known = {Path(name).resolve() for name in support}
    shared = [name for name in queries if Path(name).resolve() in known]
    if shared:
        warnings.warn(f"{len(shared)} of the {what} are supports themselves, such as '{shared[0]}'", stacklevel=2)


def truth_of(files: Sequence[str], places: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Return the labels (N,) of files that lie in a sub-folder with the name of a class, -1 for the others."""
    roots = [Path(place) for place in places if Path(place).is_dir()]
    number = {name: label for label, name in enumerate(class_names)}

    def label(file: str) -> int:
        for root in roots:
            if Path(file).is_relative_to(root):
                return number.get(Path(file).relative_to(root).parts[0], -1)
        return -1

    return np.array([label(file) for file in files], dtype=np.int64)


def write(folder: Path, result: Predictions, facts: dict) -> None:
    """Write `predictions.csv` and `predictions.json`."""
    rows = result.rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_text(folder / "predictions.csv", text.getvalue())
    entries = []
    for row in rows:
        shares = {name: row.pop(f"p({name})") for name in result.class_names}
        entries.append({**row, "probabilities": shares})
    write_json(folder / "predictions.json", {**facts, "classes": result.class_names, "predictions": entries})


def draw(folder: Path, result: Predictions, support: Items, queries: Items, title: str, most: int) -> None:
    """Draw the picture sheets, `most` at most, and the confusion of labelled files.

    support, queries: `Pictures`, or `Clips`, at the size at which they are drawn.
    """
    from episodes.plots import plot_confusion
    from episodes.prediction_sheet import CLIPS, PICTURES, Predicted, plot_sheet
    from tools.picturing import plain_pixels

    for old in folder.glob("sheet_*.png"):
        old.unlink()
    layout = PICTURES if result.what == "pictures" else CLIPS
    names, pages = result.class_names, layout.pages(len(result.files))
    count, labels = min(most, pages), np.asarray(support.dataset.labels)
    if (result.truth >= 0).any():
        plot_confusion(result.confusion(), names, folder / "confusion.png")
    if not count:
        return
    shown = np.concatenate([np.flatnonzero(labels == k)[: layout.shown] for k in range(len(names))])
    pixels = plain_pixels(support, shown)
    for page in range(count):
        part = slice(page * layout.on_page, min((page + 1) * layout.on_page, len(result.files)))
        here = Predicted(
            plain_pixels(queries, np.arange(part.start, part.stop)),
            result.short_files[part],
            result.probabilities[part],
            result.known[part],
            result.truth[part],
        )
        heads = page == 0 or len(names) <= 10  # with many classes the supports would fill every page
        plot_sheet(
            pixels if heads else None,
            labels[shown] if heads else None,
            names,
            here,
            folder / f"sheet_{page + 1:02d}.png",
            f"{title}  ·  {result.what} {part.start + 1} to {part.stop} of {len(result.files)}",
            np.bincount(labels, minlength=len(names)),
        )
    if count < pages:
        print(
            f"the first {count * layout.on_page} of {len(result.files)} {result.what} are drawn (--sheets draws more)"
        )


def show(result: Predictions, metrics: dict) -> None:
    """Print the class of every file, or of many files how many are of each class; then the accuracy."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    if len(result.files) <= MOST_ROWS:
        for column, side in (
            (result.what[:-1], "left"),
            ("class", "left"),
            ("probability", "right"),
            ("runner-up", "left"),
        ):
            table.add_column(column, justify=side)
        for file, row in zip(result.short_files, result.rows(), strict=True):
            second = f"{row['runner_up']} ({100 * row['runner_up_probability']:.1f} %)"
            wrong = row.get("true_class") not in (None, "", row["class"])
            answer = Text(str(row["class"]), style="red" if wrong else "bold")
            table.add_row(Text(file), answer, f"{100 * row['probability']:.1f} %", Text(second))
    else:
        for column, side in (("class", "left"), (result.what, "right"), ("mean probability", "right")):
            table.add_column(column, justify=side)
        answers, best = np.array(result.answers), result.best
        for name, count in metrics["answers"].items():
            mean = f"{100 * best[answers == name].mean():.1f} %" if count else "–"
            table.add_row(Text(name), f"{count:,}", mean)
    Console().print(table)
    if "accuracy" in metrics:
        print(
            f"{100 * metrics['accuracy']:.2f} % right of {metrics['labelled']:,} {result.what} in folders named like "
            f"the classes (95 % interval {100 * metrics['accuracy_low']:.2f} to {100 * metrics['accuracy_high']:.2f} %)"
            + ("; those called unknown count as wrong" if result.unknown_below is not None else "")
        )
