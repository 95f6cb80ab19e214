"""One comparison: our code and somebody else's on the same work, timed in turns, and the memory each needs."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PROCESS = Path("/proc/self")


class PeerMissing(Exception):
    """The other side of a case is not installed; the message is one sentence that says how to get it."""


class Parts(dict[str, float]):
    """Seconds of the parts of a call, by name, which a side may return to have them measured as well."""


@dataclass(frozen=True)
class Case:
    """What to run. `ours` and `other` each do `unit_count` units of the same work (episodes, images, ...) per call.

    other_count: units that `other` does a call, where that many would take too long.
    device: 'cpu' or 'cuda', where both sides compute; on 'cuda' the clock waits for the device.
    once: a call is so long that a single one of each side must do, for time and memory, without another to warm up.
    clock: 'wall', or 'process' for the CPU time of this process, which other load on the machine lengthens less.
    facts: what else to tell of the case, such as published figures, by name.
    """

    name: str
    shape: str
    ours: Callable[[], object]
    other: Callable[[], object]
    other_name: str
    repeats: int = 5
    unit_count: int = 1
    device: str = "cpu"
    other_count: int | None = None
    once: bool = False
    clock: str = "wall"
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What was measured: medians over `repeats` of seconds per unit, and peak memory.

    ratio: other_s / ours_s. Memory is in MB of 2**20 bytes, of the device that computes; nan where unknown.
    parts: seconds (ours, other) of the parts of a call, where both sides tell them.
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
    clock: str = "wall"
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def measure(case: Case, tick: Callable[[], None] = lambda: None) -> Row:
    """Run both sides once to warm up, then `repeats` times in turns, then once each for memory.

    Turns, with the side that goes first changing every round, let both meet the same load of a shared machine. A case
    with `once` is a single call of each side.
    tick: called after each of the `call_count(case)` calls, for a progress bar.
    """
    peak = peak_cuda_mb if case.device == "cuda" else peak_mb
    sides, memory = (Side(case, case.ours), Side(case, case.other, case.other_count)), []
    if case.once:
        for side in sides:
            memory.append(peak(side.timed))
            tick()
        return _row(case, sides, memory)
    for side in sides:
        side.run()
        tick()
    for repeat in range(case.repeats):
        for side in sides if repeat % 2 == 0 else reversed(sides):
            gc.collect()  # what earlier calls left
            side.timed()
            tick()
    for side in sides:
        memory.append(peak(side.run))
        tick()
    return _row(case, sides, memory)


class Side:
    """One side of a case, and what its calls took."""

    def __init__(self, case: Case, run: Callable[[], object], count: int | None = None) -> None:
        self.run, self.device, self.clock = run, case.device, case.clock
        self.count = count or case.unit_count
        self.seconds: list[float] = []
        self.parts: list[Parts] = []

    def timed(self) -> None:
        """Make one call and note what it took."""
        start = now(self.clock, self.device)
        result = self.run()
        self.seconds.append(now(self.clock, self.device) - start)
        if isinstance(result, Parts):
            self.parts.append(result)

    def median(self, part: str | None = None) -> float:
        """Return the median seconds of a unit, or of a part of it."""
        return statistics.median(self.seconds if part is None else [parts[part] for parts in self.parts]) / self.count


def _row(case: Case, sides: tuple[Side, Side], memory: list[float]) -> Row:
    ours, other = (side.median() for side in sides)
    known = [set(side.parts[0]) if side.parts else set() for side in sides]
    names = [name for name in (sides[0].parts or [Parts()])[0] if all(name in names for names in known)]
    parts = {name: (sides[0].median(name), sides[1].median(name)) for name in names}
    repeats, clock = len(sides[0].seconds), case.clock
    return Row(
        case.name, case.shape, case.other_name, ours, other, other / ours, *memory, repeats, clock, parts, case.facts
    )


def call_count(case: Case) -> int:
    """Return how many calls `measure` makes, both sides together."""
    return 2 if case.once else 2 * (1 + case.repeats + 1)


def now(clock: str = "wall", device: str = "cpu") -> float:
    """Return seconds of a clock, 'wall' or 'process', when the device has done all that was asked of it."""
    wait_for(device)
    return time.process_time() if clock == "process" else time.perf_counter()


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
