"""What the demo has to show, as plain data: a table of accuracies and pictures of episodes. Needs no torch."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Cell:
    """One measured number.

    mean, interval: accuracy over episodes and the half-width of its 95 % interval, as fractions.
    episodes: how many were scored.  seconds: wall time that took; None where another cell tells it.
    """

    mean: float
    interval: float
    episodes: int
    seconds: float | None

    @property
    def percent(self) -> str:
        """The mean as printed, without a sign: '93.41'."""
        return f"{100 * self.mean:.2f}"

    @property
    def half_width(self) -> str:
        """The interval as printed: '0.52'."""
        return f"{100 * self.interval:.2f}"

    @property
    def cost(self) -> str:
        """Episodes and, where told and not all but none, seconds as printed: '600 ep, 4.2 s'."""
        if self.seconds is None or self.seconds < 0.05:
            return f"{self.episodes:,} ep"
        return f"{self.episodes:,} ep, {self.seconds:.{1 if self.seconds < 99.95 else 0}f} s"


@dataclass
class Table:
    """Accuracies of methods (rows) on columns in groups, for instance ("greek", ["1-shot", "5-shot"]).

    cells: by (row name, group name, column name); a missing key was not measured and prints as a dash.
    notes: explanations that go below the table, by keyword.
    apart: rows that are not compared with the others and so never are the best, such as transductive methods.
    failed: (row, group, column) of what could not be measured -> number of the note that says why.
    measure: what the numbers are, for captions.
    Raises ValueError for a cell that has no place in the table.
    """

    title: str
    row_names: list[str]
    column_groups: list[tuple[str, list[str]]]
    cells: dict[tuple[str, str, str], Cell]
    notes: dict[str, str] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()
    failed: dict[tuple[str, str, str], int] = field(default_factory=dict)
    measure: str = "Accuracy"

    def __post_init__(self) -> None:
        places = {(row, group, column) for row in self.row_names for group, column in self.columns}
        for key in (*self.cells, *self.failed):
            if key not in places:
                raise ValueError(f"cell {key} has no place in the table '{self.title}': add its row or column first")

    @property
    def columns(self) -> list[tuple[str, str]]:
        """All (group, column) pairs from left to right."""
        return [(group, column) for group, columns in self.column_groups for column in columns]

    def absent(self, row: str, group: str, column: str) -> str:
        """What stands where there is no cell: a dash, or that it failed with the number of its note."""
        number = self.failed.get((row, group, column))
        return "–" if number is None else f"failed [{number}]"

    def is_best(self, row: str, group: str, column: str) -> bool:
        """Whether no other row prints a higher mean in this column; rows that print the same are all best.

        A column that has a single measured row has no best.
        """
        compared = [name for name in self.row_names if name not in self.apart]
        means = {name: self.cells[name, group, column] for name in compared if (name, group, column) in self.cells}
        finite = {name: float(cell.percent) for name, cell in means.items() if cell.mean == cell.mean}
        return len(finite) > 1 and row in finite and finite[row] == max(finite.values())

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a measured cell, in reading order; accuracies stay fractions."""
        return [
            {"row": row, "group": group, "column": column, **vars(self.cells[row, group, column])}
            for row in self.row_names
            for group, column in self.columns
            if (row, group, column) in self.cells
        ]

    def to_markdown(self) -> str:
        """Write the table for a README or an issue; the best of each column is bold."""

        def line(values: list[str]) -> str:
            return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"

        lines = [line(["", *(f"{group} {column}".strip() for group, column in self.columns)])]
        lines.append("| :-- |" + " --: |" * len(self.columns))
        for row in self.row_names:
            values = [row]
            for group, column in self.columns:
                cell = self.cells.get((row, group, column))
                bold = "**" if self.is_best(row, group, column) else ""
                values.append(f"{bold}{cell.percent} ± {cell.half_width}{bold} ({cell.cost})" if cell
                              else self.absent(row, group, column))  # fmt: skip
            lines.append(line(values))
        notes = [f"- {key}: {text}" for key, text in self.notes.items()]
        return "\n".join([f"### {self.title}", "", *lines, *([""] if notes else []), *notes]) + "\n"

    def to_csv(self) -> str:
        """Write one line a cell (row, group, column, percentages with their full digits, cost)."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", "group", "column", "mean_percent", "interval_percent", "episodes", "seconds", "best"])
        for entry in self.rows():
            key = (entry["row"], entry["group"], entry["column"])
            percents = [round(100 * entry["mean"], 6), round(100 * entry["interval"], 6)]
            seconds = "" if entry["seconds"] is None else round(entry["seconds"], 3)
            writer.writerow([*key, *percents, entry["episodes"], seconds, int(self.is_best(*key))])
        return text.getvalue()

    def to_rich(self, width: int = 80) -> Group:
        """Build the table for a terminal of `width` places; where it does not fit, intervals get lines of their own.

        Title and notes stand above and below, as wide as the terminal whatever the table's width. Where all cells have
        the same number of episodes, it is one of the notes.
        """
        from rich.console import Console, Group
        from rich.text import Text

        table = self._rich(" ")
        table = table if Console(width=10_000).measure(table).maximum <= width else self._rich("\n")
        notes = [Text(f"{key}: {text}", style="dim") for key, text in {**self._shared, **self.notes}.items()]
        return Group(Text(self.title, style="italic"), table, *notes)

    @property
    def _shared(self) -> dict[str, str]:
        """The number of episodes, where all cells have the same."""
        counts = {cell.episodes for cell in self.cells.values()}
        return {"episodes per cell": f"{counts.pop():,}"} if len(counts) == 1 else {}

    def _rich(self, wrap: str) -> RichTable:
        """Build the table for a terminal, with `wrap` between a mean and its interval."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table, shared = RichTable(box=box.SIMPLE_HEAD), bool(self._shared)
        table.add_column("", no_wrap=True)
        for group, column in self.columns:
            table.add_column(Text(f"{group}\n{column.replace(', ', ',' + chr(10))}"), justify="right")
        for row in self.row_names:
            values = [Text(row)]
            for group, column in self.columns:
                value = Text(self.absent(row, group, column))
                if cell := self.cells.get((row, group, column)):
                    best = self.is_best(row, group, column)
                    value = Text(f"{cell.percent}{wrap}± {cell.half_width}", style="bold" if best else "")
                    cost = cell.cost.partition(", ")[2] if shared else cell.cost.replace(", ", "," + wrap)
                    value.append(f"\n{cost}" if cost else "", style="not bold dim")
                values.append(value)
            table.add_row(*values, end_section=row != self.row_names[-1])
        return table


@dataclass
class EpisodePicture:
    """One episode to look at, with what every method said.

    support_images (S, 3, H, W), query_images (Q, 3, H, W): uint8, arrays or tensors.
    support_labels (S,), query_labels (Q,): numbers 0..n_way-1; -1 marks padding, which is not shown.
    class_names: (n_way,).  predictions: method -> (Q,) predicted labels.
    unknown_images (U, 3, H, W): queries of other classes; unknown_predictions: method -> (U,) what was said of them.
    unlabelled_images (M, 3, H, W), unlabelled_labels (M,): further pictures, -2 marking distractors.
    """

    title: str
    support_images: Any
    support_labels: Any
    query_images: Any
    query_labels: Any
    class_names: list[str]
    predictions: dict[str, Any]
    unknown_images: Any = None
    unknown_predictions: dict[str, Any] = field(default_factory=dict)
    unlabelled_images: Any = None
    unlabelled_labels: Any = None
