"""Processes that die in the middle of their work, as if killed from outside, at a place that a test chooses."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tools.grid.job import run_job


def die_at(name: str, count: int, marker: Path) -> None:
    """Kill this process when the `count`-th file of this ending is about to get its place; once, says the marker."""
    seen = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event == "os.rename" and str(arguments[1]).endswith(name) and not marker.exists():
            seen += 1
            if seen == count:
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


class MortalJob:
    """Does a job like `run_job`; the first worker that comes to its second checkpoint is killed there."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __call__(self, job, root, before):
        if not self.marker.exists():
            die_at("last.ckpt", 2, self.marker)
        return run_job(job, root, before)
