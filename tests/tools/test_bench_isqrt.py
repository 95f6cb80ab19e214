"""The bench case of the Newton-Schulz root: both sides compute the same, and it runs."""

from __future__ import annotations

import pytest
import torch

from moments import covariance, newton_schulz_root
from tools.bench import isqrt
from tools.bench.plain_isqrt import saved_iterates_root


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_published_form_computes_the_same(steps):
    maps = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    upstream = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for function in (newton_schulz_root, saved_iterates_root):
        x = maps.clone().requires_grad_()
        out = function(covariance(x), steps)
        found.append((out.detach(), torch.autograd.grad(out, x, upstream)[0]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_cases_run():
    for case in (isqrt.case((2, 4, 4), 2), isqrt.case((1, 3, 3))):
        case.ours()
        case.other()
    assert [case.shape for case in isqrt.cases()] == ["8x256x256", "64x64x64"]


def test_the_compiled_root_is_measured_on_a_gpu_alone():
    assert [case.other_name for case in isqrt.cases("cpu")] == ["saved iterates"] * 2
    case = isqrt.compiled_case((2, 4, 4), device="cpu", backend="aot_eager")
    case.ours()
    case.other()
    assert case.other_name == "compiled, aot_eager"
