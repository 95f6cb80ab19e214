"""Efficient channel attention: against loops, on any number of axes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from moments.eca import ECA, eca_kernel_size, eca_scale


@pytest.mark.parametrize(
    ("channels", "size"),
    [(1, 1), (7, 1), (8, 3), (127, 3), (128, 5), (2047, 5), (2048, 7), (32767, 7), (32768, 9)],
)
def test_adaptive_length_of_the_specification(channels, size):
    assert eca_kernel_size(channels) == size


@pytest.mark.parametrize("filters", [1, 5])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_scale_against_a_loop(filters, k):
    means, weight = torch.randn(2, 5, dtype=torch.float64), torch.randn(filters, 1, k, dtype=torch.float64)
    expected = torch.empty(2, 5, dtype=torch.float64)
    for b in range(2):
        for c in range(5):
            taps = weight[c if filters > 1 else 0, 0]
            near = range(c - (k - 1) // 2, c + (k - 1) // 2 + 1)
            total = sum(float(taps[i]) * float(means[b, n]) for i, n in enumerate(near) if 0 <= n < 5)
            expected[b, c] = 1 / (1 + math.exp(-total))
    torch.testing.assert_close(eca_scale(means, weight), expected)


@pytest.mark.parametrize("shape", [(2, 6, 7), (2, 6, 3, 4), (1, 6, 2, 3, 4)])
@pytest.mark.parametrize("shared", [True, False])
def test_any_number_of_positional_axes(shape, shared):
    x, layer = torch.randn(shape), ECA(6, 3, shared=shared)
    out = layer(x)
    torch.testing.assert_close(out, layer(x.flatten(2)).reshape(shape))
    still = x * eca_scale(x.flatten(2).mean(2), layer.conv.weight).reshape(*shape[:2], *[1] * (len(shape) - 2))
    torch.testing.assert_close(out, still, rtol=0, atol=0)


def test_shared_filter_is_timms_module():
    layers = pytest.importorskip("timm.layers")
    mine, theirs = ECA(16, 5), layers.EcaModule(kernel_size=5)
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(2, 16, 4, 3)
    torch.testing.assert_close(mine(x), theirs(x), rtol=0, atol=0)


@pytest.mark.parametrize("filters", [1, 4])
def test_derivatives(filters):
    means = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(filters, 1, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(eca_scale, (means, weight)) and gradgradcheck(eca_scale, (means, weight))


def test_wrong_lengths_and_filters():
    with pytest.raises(ValueError, match="odd length, got 4"):
        ECA(8, 4)
    with pytest.raises(ValueError, match="odd length, got 2"):
        eca_scale(torch.ones(1, 8), torch.ones(1, 1, 2))
    with pytest.raises(ValueError, match="5 filters for 8 channels"):
        eca_scale(torch.ones(1, 8), torch.ones(5, 1, 3))
    with pytest.raises(ValueError, match="at least one"):
        eca_kernel_size(0)
    assert ECA(128).conv.weight.shape == (1, 1, 5) and ECA(128, shared=False).conv.weight.shape == (128, 1, 5)
