"""Clips for the main process, read by processes that a decoder may crash or hang."""

from __future__ import annotations

import contextlib
import math
import mmap
import multiprocessing
import os
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from episodes.errors import UserError

from .clips_guard import deadly
from .crew import Crew, Died


def must_stay() -> bool:
    """Whether this process must read by itself: it is a loader's worker, or may have no children."""
    return get_worker_info() is not None or multiprocessing.current_process().daemon


class ClipCrew:
    """Processes that read clips into memory that they share with this one.

    clip: (item, seeds) -> Tensor of `shape`, what they do; it must not know of this object, or that would never end.
    where: item -> its name. size: how many processes. limit_s: seconds for one clip. state: what the work depends on.
    """

    def __init__(
        self,
        clip: Callable[[int, Sequence[int]], Tensor],
        where: Callable[[int], str],
        shape: Sequence[int],
        size: int,
        limit_s: float,
        state: Any,
    ) -> None:
        self._where, self._state, self._owner, self._lock = where, state, os.getpid(), threading.Lock()
        memory = mmap.mmap(-1, size * math.prod(shape) * 4)
        shared = np.frombuffer(memory, np.float32).reshape(size, *shape)

        def work(number: int, task: tuple[int, Sequence[int]]) -> Exception | None:
            torch.set_num_threads(1)  # the parent's threads were not forked
            try:
                shared[number] = clip(*task).numpy()
            except Exception as error:
                if not isinstance(error, UserError):
                    error.add_note(traceback.format_exc())  # the traceback itself stays behind
                return error
            return None

        self._shared, self._crew = shared, Crew(work, size, limit_s)
        weakref.finalize(self, self._crew.close)

    def fits(self, state: Any) -> bool:
        """Whether the processes are this one's and know things as they are."""
        return self._state == state and self._owner == os.getpid()

    def load(self, tasks: Sequence[tuple[int, Sequence[int]]], out: np.ndarray) -> None:
        """Fill `out` (N, ...) with the clips of N tasks; raises what reading raises, or UserError when it kills."""
        with self._lock, contextlib.closing(self._crew.run(tasks)) as results:
            for position, number, result in results:
                if isinstance(result, Died):
                    raise deadly(self._where(tasks[position][0]), result.reason)
                if isinstance(result, Exception):
                    raise result
                out[position] = self._shared[number]
