"""One comparison: our code and somebody else's on the same work, timed in turns, and the memory each needs."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Case:
    """What to run. `ours` and `other` each do the same `unit_count` units of work (episodes, images, ...) per call."""

    name: str
    shape: str
    ours: Callable[[], None]
    other: Callable[[], None]
    other_name: str
    repeats: int = 5
    unit_count: int = 1


@dataclass(frozen=True)
class Row:
    """What was measured: median wall seconds per unit, other / ours, and peak memory in MB of 2**20 bytes (nan where unknown)."""

    case: str
    shape: str
    other_name: str
    ours_s: float
    other_s: float
    ratio: float
    ours_mb: float
    other_mb: float


def measure(case: Case) -> Row:
    """Run both sides once to warm up, then `repeats` times in turns, then once each for memory.

    Turns, with the side that goes first changing every round, let both meet the same load of a shared machine.
    """
    case.ours()
    case.other()
    ours, other = [], []
    for repeat in range(case.repeats):
        sides = [(case.ours, ours), (case.other, other)]
        for run, seconds in sides if repeat % 2 == 0 else reversed(sides):
            seconds.append(wall_seconds(run))
    ours_s, other_s = statistics.median(ours) / case.unit_count, statistics.median(other) / case.unit_count
    memory = peak_mb(case.ours), peak_mb(case.other)
    return Row(case.name, case.shape, case.other_name, ours_s, other_s, other_s / ours_s, *memory)


def wall_seconds(run: Callable[[], None]) -> float:
    """Time one call; garbage of earlier calls is collected before the clock starts."""
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_mb(run: Callable[[], None]) -> float:
    """Return by how many MB the resident memory of this process rises at its highest while `run` runs once.

    The kernel keeps the high-water mark, so no peak is missed and every allocator counts, that of torch, of numpy and
    of Python alike (tracemalloc would not see tensors). Before the call, memory that was freed but is still held is
    given back and the mark is reset; without that, a call would hide in what an earlier one had left. Memory taken
    once and kept, such as cached indices, is there since the warm-up and does not count.
    Linux only; nan elsewhere. Device memory is not included.
    """
    if not (PROCESS / "clear_refs").exists():
        return float("nan")
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    (PROCESS / "clear_refs").write_text("5")  # resets the high-water mark to what is resident now
    before = status_kb("VmRSS")
    run()
    return max(0, status_kb("VmHWM") - before) / 1024


def status_kb(field: str) -> int:
    """Read one memory figure of this process, in kB."""
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise KeyError(field)
