"""The bench's measuring: what is timed, in which order, and that memory is really seen."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tools.bench import sampler
from tools.bench.case import Case, measure, peak_mb

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")


def test_sides_run_in_turns_and_lead_alternately():
    calls = []
    case = Case("x", "1", lambda: calls.append("ours"), lambda: calls.append("other"), "peer", repeats=3, unit_count=10)
    row = measure(case)
    timed = calls[2:8]  # after the warm-up of each side
    assert timed == ["ours", "other", "other", "ours", "ours", "other"]
    assert row.ratio == pytest.approx(row.other_s / row.ours_s)
    assert (row.case, row.shape, row.other_name) == ("x", "1", "peer")


@needs_linux
@pytest.mark.parametrize("fill", [lambda n: np.ones(n, dtype=np.uint8), lambda n: torch.ones(n, dtype=torch.uint8)])
def test_memory_that_is_gone_again_is_seen(fill):
    def run() -> None:
        fill(40 << 20)
        fill(60 << 20)

    for _ in range(2):  # a second call is not hidden by what the first one left
        assert 58 < peak_mb(run) < 75


def test_sampler_cases_run():
    pytest.importorskip("learn2learn", reason="learn2learn could not be built here: see make setup")
    for case in sampler.cases():
        case.ours()
        case.other()
        assert case.unit_count > 0
