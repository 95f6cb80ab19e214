"""A progress bar for people at a terminal; silent elsewhere."""

from __future__ import annotations

import sys

from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Show how many of `total` steps are done, with the time left; a context manager.

    label: shown in front. done: steps that were done before. on: False shows nothing (other processes than the first).
    """

    def __init__(self, total: int, label: str, done: int = 0, on: bool = True) -> None:
        self._bar: RichProgress | None = None
        if on and sys.stderr.isatty():
            from rich.console import Console

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn())
            notes = (TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self._bar = RichProgress(*columns, *notes, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(label, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, steps: int = 1, **values: float) -> None:
        """Move on, and show named numbers."""
        if self._bar is not None:
            note = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            self._bar.update(self._task, advance=steps, note=note)
