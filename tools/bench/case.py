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


class PeerMissing(Exception):
    """The other side of a case is not installed; the message is one sentence that says how to get it."""


@dataclass(frozen=True)
class Case:
    """What to run. `ours` and `other` each do `unit_count` units of the same work (episodes, images, ...) per call.

    other_count: units that `other` does a call, where that many would take too long.
    device: 'cpu' or 'cuda', where both sides compute; on 'cuda' the clock waits for the device.
    once: a call is so long that a single one of each side must do, for time and memory, without another to warm up.
    """

    name: str
    shape: str
    ours: Callable[[], None]
    other: Callable[[], None]
    other_name: str
    repeats: int = 5
    unit_count: int = 1
    device: str = "cpu"
    other_count: int | None = None
    once: bool = False


@dataclass(frozen=True)
class Row:
    """What was measured: medians over `repeats` of wall seconds per unit, and peak memory.

    ratio: other_s / ours_s. Memory is in MB of 2**20 bytes, of the device that computes; nan where unknown.
    """

    case: str
    shape: str
    other_name: str
    ours_s: float
    other_s: float
    ratio: float
    ours_mb: float
    other_mb: float
    repeats: int


def measure(case: Case, tick: Callable[[], None] = lambda: None) -> Row:
    """Run both sides once to warm up, then `repeats` times in turns, then once each for memory.

    Turns, with the side that goes first changing every round, let both meet the same load of a shared machine. A case
    with `once` is a single call of each side.
    tick: called after each of the `call_count(case)` calls, for a progress bar.
    """
    peak = peak_cuda_mb if case.device == "cuda" else peak_mb
    counts = case.unit_count, case.other_count or case.unit_count
    if case.once:
        seconds, memory = [], []
        for run, count in zip((case.ours, case.other), counts, strict=True):
            memory.append(peak(lambda run=run: seconds.append(wall_seconds(run, case.device))))
            seconds[-1] /= count
            tick()
        return Row(case.name, case.shape, case.other_name, *seconds, seconds[1] / seconds[0], *memory, 1)
    for run in (case.ours, case.other):
        run()
        tick()
    ours, other = [], []
    for repeat in range(case.repeats):
        sides = [(case.ours, ours), (case.other, other)]
        for run, seconds in sides if repeat % 2 == 0 else reversed(sides):
            seconds.append(wall_seconds(run, case.device))
            tick()
    ours_s, other_s = statistics.median(ours) / counts[0], statistics.median(other) / counts[1]
    memory = []
    for run in (case.ours, case.other):
        memory.append(peak(run))
        tick()
    return Row(case.name, case.shape, case.other_name, ours_s, other_s, other_s / ours_s, *memory, case.repeats)


def call_count(case: Case) -> int:
    """Return how many calls `measure` makes, both sides together."""
    return 2 if case.once else 2 * (1 + case.repeats + 1)


def wall_seconds(run: Callable[[], None], device: str = "cpu") -> float:
    """Time one call; garbage of earlier calls is collected before the clock starts."""
    gc.collect()
    wait_for(device)
    start = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: str) -> None:
    """Return when the device has done all that was asked of it."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def peak_cuda_mb(run: Callable[[], None]) -> float:
    """Return by how many MB the tensors on the device outgrow, at their highest, what lies there before `run` runs."""
    import torch

    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


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
