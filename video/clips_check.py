"""Look at many videos, each in a process that may crash or hang without taking anybody with it."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from episodes.errors import UserError
from episodes.fingerprint import dataset_key
from episodes.progress import Progress
from episodes.run import write_json
from episodes.sources.cache import cache_folder

from .crew import in_processes
from .readers import Opener

Depth = Literal["open", "all"]


@dataclass(frozen=True)
class Report:
    """What was found of one video: its frames and size, or why it cannot be read."""

    name: str
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    problem: str | None = None


def look(read: Opener, name: str, depth: Depth = "open") -> Report:
    """Open a video, which decodes its first frame, or (`all`) decode every frame."""
    try:
        with read(name) as video:
            count = len(video)
            for start in range(0, count if depth == "all" else 1, 32):
                video.frames(range(start, min(start + 32, count) if depth == "all" else 1))
            return Report(name, count, video.fps, video.height, video.width)
    except (UserError, OSError) as error:
        return failed(error, name)


def check_videos(
    read: Opener,
    names: Sequence[str],
    workers: int = 2,
    depth: Depth = "open",
    limit_s: float = 60.0,
    show: bool = True,
) -> list[Report]:
    """Look at every video in `workers` processes; returns a report for each, in order.

    A video that crashes a decoder, or takes longer than `limit_s` seconds, is a problem like any other.
    """
    reports: list[Report] = [Report(name) for name in names]
    with Progress(len(names), "videos", on=show) as bar:
        for position, found in in_processes(functools.partial(look, read, depth=depth), names, workers, limit_s):
            reports[position] = found if isinstance(found, Report) else Report(names[position], problem=str(found))
            bar.advance()
    return reports


def check_clips(dataset: Any, workers: int = 2, show: bool = True) -> list[tuple[int, str]]:
    """Return (item, reason) of the videos of a `ClipSet` of which not every frame can be decoded.

    That takes as long as decoding all of them once; it is remembered in the cache folder for as long as the files stay
    as they are.
    """
    if getattr(dataset.read, "harmless", False):
        return []
    how = getattr(getattr(dataset.read, "opener", dataset.read), "backend", "")
    place = cache_folder() / "checked" / f"{dataset_key(dataset)}-{how or type(dataset.read).__name__}.json"
    try:
        found = json.loads(place.read_text())
        return [(int(item), str(reason)) for item, reason in found]
    except (OSError, ValueError, TypeError):
        pass
    reports = check_videos(dataset.read, dataset.names, workers, "all", show=show)
    broken = [(item, report.problem) for item, report in enumerate(reports) if report.problem]
    with contextlib.suppress(OSError):  # a folder that cannot be written costs time alone
        write_json(place, broken)
    return broken


def failed(error: Exception, name: str) -> Report:
    """Return the report of a video that cannot be read: the reason alone, out of the reader's sentence."""
    text = str(error)
    start, end = text.find(f"'{name}' ("), text.find("): replace it")
    return Report(name, problem=text[start + len(name) + 4 : end] if 0 <= start < end else text)
