"""Look at many videos, each in a process that may crash or hang without taking anybody with it."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from episodes.errors import UserError
from episodes.progress import Progress

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
    """Return (item, reason) of the videos of a `ClipSet` that cannot be opened."""
    reports = check_videos(dataset.read, dataset.names, workers, show=show)
    return [(item, report.problem) for item, report in enumerate(reports) if report.problem]


@dataclass(frozen=True)
class Died:
    """A process ended while it worked on a task."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def in_processes(
    work: Callable[[Any], Any], tasks: Sequence[Any], workers: int, limit_s: float
) -> Iterator[tuple[int, Any]]:
    """Do all tasks in `workers` forked processes; yields (position, result) as they are done, any order.

    A task whose process dies, or that takes longer than `limit_s` seconds, has a `Died` as its result; another process
    goes on with the rest. work: must not raise.
    """
    context = multiprocessing.get_context("fork")
    todo = iter(range(len(tasks)))
    busy: dict[Connection, tuple[Any, int]] = {}  # -> process, position

    def start() -> tuple[Connection, Any]:
        mine, theirs = context.Pipe()
        inherited = [mine, *busy]  # ends of ours, which would keep a process from seeing that we are gone
        process = context.Process(target=_serve, args=(theirs, inherited, work, tasks, limit_s), daemon=True)
        process.start()
        theirs.close()
        return mine, process

    def give(connection: Connection, process: Any) -> None:
        position = next(todo, None)
        if position is None:
            connection.send(None)
            process.join()
            connection.close()
        else:
            busy[connection] = process, position
            connection.send(position)

    try:
        for _ in range(min(workers, len(tasks))):
            give(*start())
        while busy:
            for connection in wait(list(busy)):
                process, position = busy.pop(connection)
                try:
                    result = connection.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    connection.close()
                    yield position, Died(_how(process.exitcode, limit_s))
                    if len(busy) < workers:
                        give(*start())
                    continue
                yield position, result
                give(connection, process)
    finally:
        for connection, (process, _) in busy.items():
            process.kill()
            process.join()
            connection.close()


def _serve(
    connection: Connection,
    inherited: Sequence[Connection],
    work: Callable[[Any], Any],
    tasks: Sequence[Any],
    limit_s: float,
) -> None:
    for other in inherited:
        other.close()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the system's own: ends a process that runs no Python
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops us
    with contextlib.suppress(EOFError, ConnectionError):
        while (position := connection.recv()) is not None:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            result = work(tasks[position])
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(result)


def _how(exitcode: int | None, limit_s: float) -> str:
    if exitcode == -signal.SIGALRM:
        return f"it takes longer than {limit_s:g} s to read"
    if exitcode is not None and exitcode < 0:
        return f"the process that read it was ended by {signal.Signals(-exitcode).name}"
    return f"the process that read it ended with code {exitcode}"


def failed(error: Exception, name: str) -> Report:
    """Return the report of a video that cannot be read: the reason alone, out of the reader's sentence."""
    text = str(error)
    start, end = text.find(f"'{name}' ("), text.find("): replace it")
    return Report(name, problem=text[start + len(name) + 4 : end] if 0 <= start < end else text)
