"""What native decoding code does to a process: a crash or a hang ends a loader worker, with the file's name.

A worker notes which video it works on in memory that it shares with its parent, and sets an alarm of the operating
system, which kills it when the time is up, whatever it hangs in. The parent learns from the worker's death which video
it was.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess

import numpy as np
from torch.utils.data import get_worker_info

from episodes.errors import UserError

SLOTS = 256  # workers; more of them share a slot, and may then blame each other's video


class Journal:
    """Which item each worker is at: shared with the workers that are forked after it was made.

    limit_s: seconds that a worker may take for one video, 0 for as long as it likes. The main process, which an alarm
    would end, has its clips read by others, see `video.clips_apart`.
    """

    def __init__(self, limit_s: float = 0.0) -> None:
        self.limit_s = limit_s
        self._slots = np.frombuffer(mmap.mmap(-1, SLOTS * 16), dtype=np.int64).reshape(SLOTS, 2)  # (process, item + 1)

    @contextlib.contextmanager
    def at(self, item: int) -> Iterator[None]:
        """Note that this process works on `item`, and see to it that it does not do so for ever."""
        worker = get_worker_info()
        if worker is None:
            yield
            return
        slot = self._slots[worker.id % SLOTS]
        slot[:] = os.getpid(), item + 1
        if self.limit_s:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the system's own: ends a process that runs no Python
            signal.setitimer(signal.ITIMER_REAL, self.limit_s)
        try:
            yield
        finally:
            if self.limit_s:
                signal.setitimer(signal.ITIMER_REAL, 0)
            slot[1] = 0

    def item_of(self, processes: set[int]) -> int | None:
        """Return the item at which one of `processes` stopped."""
        found = self._slots[(self._slots[:, 1] > 0) & np.isin(self._slots[:, 0], list(processes))]
        return int(found[0, 1]) - 1 if len(found) else None

    def __getstate__(self) -> dict[str, float]:
        return {"limit_s": self.limit_s}

    def __setstate__(self, state: dict[str, float]) -> None:
        self.__init__(state["limit_s"])


def explain(
    error: BaseException, journal: Journal, where: Callable[[int], str], workers: Sequence[BaseProcess] = ()
) -> UserError | None:
    """Return what a loader's error about a dead worker means, None for other errors. where: item -> its name."""
    found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
    if found is None:
        return None
    processes = {int(pid) for pid in found[1].split(",")}
    item = journal.item_of(processes)
    if item is None:
        return None
    codes = [worker.exitcode for worker in workers if worker.pid in processes and worker.exitcode]
    if -signal.SIGALRM in codes:
        what = f"takes longer than {journal.limit_s:g} s to read"
    else:
        how = "".join(f" ({signal.Signals(-code).name})" if code < 0 else f" (exit code {code})" for code in codes[:1])
        what = f"ended the process that read it{how}"
    return deadly(where(item), what)


def deadly(name: str, what: str) -> UserError:
    """Return the one error for a video that a decoder does not survive. what: it does, as in "takes too long"."""
    return UserError(
        f"video {name} {what}: look at it with `python -m tools.videos check`, and replace it or leave it out"
    )


@contextlib.contextmanager
def watching(journal: Journal, where: Callable[[int], str]) -> Iterator[None]:
    """Turn the death of a loader worker into a `UserError` that names the video; enter it when the workers run.

    torch reports a death from a signal handler, that is, from the midst of whatever the main thread is doing.
    """
    workers = multiprocessing.active_children()
    main = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGCHLD) if main else None

    def handler(number: int, frame: object) -> None:
        try:
            previous(number, frame)
        except RuntimeError as error:
            raise explain(error, journal, where, workers) or error from error

    if callable(previous):
        signal.signal(signal.SIGCHLD, handler)
    try:
        yield
    except RuntimeError as error:
        meaning = explain(error, journal, where, workers)
        if meaning is None:
            raise
        raise meaning from error
    finally:
        if callable(previous) and signal.getsignal(signal.SIGCHLD) is handler:
            signal.signal(signal.SIGCHLD, previous)
