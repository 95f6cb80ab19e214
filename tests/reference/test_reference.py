"""Every reference vector of every claimed system, driven by its JSON entry alone."""

from __future__ import annotations

import pytest
import torch

from tests.reference.check import assert_vector
from tests.reference.conftest import _float32_tolerance, adapters_of


def test_vector(vector, float32):
    adapters = adapters_of(vector.system)
    kinds = getattr(adapters, "KINDS", {})
    if vector.kind not in kinds:
        pytest.fail(
            f"unknown kind '{vector.kind}': '{vector.system}' is claimed, so tests/reference/adapters/"
            f"{vector.system}.py must say how to compute it; known: {', '.join(sorted(kinds)) or 'none'}",
            pytrace=False,
        )
    if float32:
        assert_vector(vector, kinds[vector.kind], _float32_tolerance(vector), torch.float32)
    else:
        assert_vector(vector, kinds[vector.kind], vector.item["tolerance"])
