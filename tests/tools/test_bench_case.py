"""The bench's measuring: what is timed, in which order, and that memory is really seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench import sampler
from tools.bench.case import Case, Parts, measure

ROOT = Path(__file__).resolve().parents[2]
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")


def test_sides_run_in_turns_and_lead_alternately():
    calls = []
    case = Case("x", "1", lambda: calls.append("ours"), lambda: calls.append("other"), "peer", repeats=3, unit_count=10)
    row = measure(case)
    timed = calls[2:8]  # after the warm-up of each side
    assert timed == ["ours", "other", "other", "ours", "ours", "other"]
    assert row.ratio == pytest.approx(row.other_s / row.ours_s)
    assert (row.case, row.shape, row.other_name) == ("x", "1", "peer")


def test_parts_are_those_that_both_sides_tell(monkeypatch):
    """Medians of what the calls returned, per unit; the process clock is read where the case says so."""
    clock = [0.0]
    monkeypatch.setattr("time.process_time", lambda: clock[0])
    told = iter([1.0, 2.0, 9.0, 4.0, 7.0])

    def ours() -> Parts:
        clock[0] += 3
        return Parts(forward=next(told), backward=1.0)

    def other() -> Parts:
        clock[0] += 6
        return Parts(backward=5.0, optimiser=1.0)

    row = measure(Case("x", "1", ours, other, "peer", 3, unit_count=2, clock="process", facts={"a": "b"}))
    assert (row.ours_s, row.other_s, row.ratio, row.clock) == (1.5, 3.0, 2.0, "process")
    assert row.parts == {"backward": (0.5, 2.5)} and row.facts == {"a": "b"}
    told = iter([9.0, 1.0, 5.0, 2.0, 9.0])
    row = measure(Case("x", "1", ours, lambda: Parts(forward=8.0), "peer", 3))
    assert row.parts == {"forward": (2.0, 8.0)}


FILL = """
import numpy as np, torch
from tools.bench.case import peak_mb
def run():
    {fill}(40 << 20)
    {fill}(60 << 20)
print(*(peak_mb(run) for _ in range(2)))  # a second call is not hidden by what the first one left
"""


@needs_linux
@pytest.mark.parametrize("fill", ["(lambda n: np.ones(n, np.uint8))", "(lambda n: torch.ones(n, dtype=torch.uint8))"])
def test_memory_that_is_gone_again_is_seen(fill):
    # in a process of its own: an allocator with a long history may keep what is freed, and the peak is then higher
    code = [sys.executable, "-c", FILL.format(fill=fill)]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(58 < float(peak) < 75 for peak in done.stdout.split()), done.stdout


def test_sampler_cases_run():
    pytest.importorskip("learn2learn", reason="learn2learn could not be built here: see make setup")
    for case in sampler.cases():
        case.ours()
        case.other()
        assert case.unit_count > 0
