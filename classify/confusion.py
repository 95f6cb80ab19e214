"""Which classes a network takes for which, as a picture and a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classify.scoring import Scores
from episodes.confusion_plot import plot_confusion
from episodes.run import write_text


def draw_confusion(scores: Scores, path: Path) -> None:
    """Draw the confusion of a test; classes that it has no picture of are left out."""
    names, confusion = scores.class_names, scores.confusion
    seen = np.flatnonzero(confusion.sum(0) + confusion.sum(1))
    plot_confusion(confusion[np.ix_(seen, seen)], [names[place] for place in seen], path)


def write_classes(scores: Scores, path: Path) -> None:
    """Write a table of the classes: pictures, right ones, and what the wrong ones are mostly taken for."""
    confusion, rows = scores.confusion, []
    for place, name in enumerate(scores.class_names):
        count, right = int(confusion[place].sum()), int(confusion[place, place])
        wrong = confusion[place].copy()
        wrong[place] = 0
        most = int(wrong.argmax())
        taken = scores.class_names[most] if wrong[most] else ""
        rows.append([name, count, right, round(right / count, 4) if count else "", taken, int(wrong[most])])
    header = ["class", "pictures", "right", "accuracy", "mostly taken for", "times"]
    write_text(path, _as_csv(header, rows))


def write_answers(scores: Scores, files: Sequence[str], path: Path) -> None:
    """Write one row a picture: file, true class, likeliest class and its probability, whether it is right."""
    names = scores.class_names
    rows = [
        [file, names[label], names[best[0]], f"{share:.4f}", int(label == best[0])]
        for file, label, best, share in zip(files, scores.labels, scores.best, scores.probability, strict=True)
    ]
    write_text(path, _as_csv(["file", "class", "answer", "probability", "right"], rows))


def _as_csv(header: list[str], rows: list[list]) -> str:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(header)
    writer.writerows(rows)
    return table.getvalue()
