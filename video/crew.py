"""Processes that do work which may crash or hang, without taking anybody with them: native decoding, above all."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any


@dataclass(frozen=True)
class Died:
    """A process ended while it worked on a task, which `reason` says as in: the video ended the process."""

    reason: str

    def __str__(self) -> str:
        return f"it {self.reason}"


class Crew:
    """Forked processes that do one kind of work; they stay for the next `run`, and those that die are replaced.

    work: (number of the process from 0 on, task) -> result; must not raise. size: processes, forked when they are
    needed. limit_s: seconds for one task.
    """

    def __init__(self, work: Callable[[int, Any], Any], size: int, limit_s: float) -> None:
        self.work, self.size, self.limit_s = work, size, limit_s
        self._owner = os.getpid()
        self._members: dict[int, tuple[Connection, BaseProcess]] = {}  # by number

    def run(self, tasks: Sequence[Any]) -> Iterator[tuple[int, int, Any]]:
        """Do all tasks; yields (position, number of the process, result) as they are done, in any order.

        A task whose process dies, or that takes longer than the limit, has a `Died` as its result. A process gets no
        new task before the caller has taken its result.
        """
        todo = iter(enumerate(tasks))
        busy: dict[Connection, tuple[int, int]] = {}  # -> number of the process, position

        def give(number: int) -> None:
            position, task = next(todo, (None, None))
            if position is not None:
                connection = self._member(number)
                busy[connection] = number, position
                with contextlib.suppress(ConnectionError):  # it has died meanwhile, which `recv` will tell
                    connection.send(task)

        try:
            for number in range(min(self.size, len(tasks))):
                give(number)
            while busy:
                for connection in wait(list(busy)):
                    number, position = busy[connection]
                    try:
                        result = connection.recv()
                    except (EOFError, ConnectionError):
                        result = Died(_how(self._end(number), self.limit_s))
                    del busy[connection]
                    yield position, number, result
                    give(number)
        finally:
            for number, _ in busy.values():
                self._end(number, kill=True)

    def close(self) -> None:
        """End all processes; a fork of the process that made them leaves them alone."""
        if os.getpid() == self._owner:
            for number in list(self._members):
                self._end(number, kill=True)

    def _member(self, number: int) -> Connection:
        if number not in self._members:
            context = multiprocessing.get_context("fork")
            mine, theirs = context.Pipe()
            # ends of ours, which would keep a process from seeing that we are gone
            inherited = [mine, *(connection for connection, _ in self._members.values())]
            arguments = (theirs, inherited, self.work, number, self.limit_s)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._members[number] = mine, process
        return self._members[number][0]

    def _end(self, number: int, kill: bool = False) -> int | None:
        connection, process = self._members.pop(number)
        if kill:
            process.kill()
        process.join()
        connection.close()
        return process.exitcode


def in_processes(
    work: Callable[[Any], Any], tasks: Sequence[Any], workers: int, limit_s: float
) -> Iterator[tuple[int, Any]]:
    """Do all tasks in `workers` processes that end afterwards; yields (position, result), any order, see `Crew`."""
    crew = Crew(lambda number, task: work(task), workers, limit_s)
    try:
        for position, _, result in crew.run(tasks):
            yield position, result
    finally:
        crew.close()


def _serve(
    connection: Connection,
    inherited: Sequence[Connection],
    work: Callable[[int, Any], Any],
    number: int,
    limit_s: float,
) -> None:
    for other in inherited:
        other.close()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the system's own: ends a process that runs no Python
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            task = connection.recv()
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            result = work(number, task)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(result)


def _how(exitcode: int | None, limit_s: float) -> str:
    if exitcode == -signal.SIGALRM:
        return f"takes longer than {limit_s:g} s to read"
    if exitcode is not None and exitcode < 0:
        return f"ended the process that read it ({signal.Signals(-exitcode).name})"
    return f"ended the process that read it (exit code {exitcode})"
