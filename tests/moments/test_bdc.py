"""BDC against a naive oracle, its invariants, first and second derivatives, and hard inputs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moments import BDC, bdc_matrix, bdc_vector, from_upper_triangle, upper_triangle
from moments import bdc as bdc_module
from moments.bdc import _composed


def oracle(x: torch.Tensor, log_scale: float) -> torch.Tensor:
    """The definition with loops and products with all-ones matrices, one image (d, M) in float64."""
    d = x.shape[0]
    a = torch.empty(d, d, dtype=torch.float64)
    for i in range(d):
        for j in range(d):
            a[i, j] = math.sqrt(math.exp(log_scale) * float(((x[i] - x[j]) ** 2).sum()) + 1e-5)
    ones = torch.ones(d, d, dtype=torch.float64)
    return a - a @ ones / d - ones @ a / d + ones @ a @ ones / d**2


def maps(batch: int, d: int, m: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(batch, d, m, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 9), st.floats(-6, 1), st.integers(0, 99))
def test_equals_the_definition(batch, d, m, log_scale, seed):
    x = maps(batch, d, m, seed)
    got = bdc_matrix(x, torch.tensor(log_scale, dtype=torch.float64))
    for image, matrix in zip(x, got, strict=True):
        torch.testing.assert_close(matrix, oracle(image, log_scale), rtol=1e-10, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 99))
def test_symmetric_centred_and_blind_to_position_order(d, m, seed):
    x = maps(2, d, m, seed)
    t = torch.tensor(-1.0, dtype=torch.float64)
    matrix = bdc_matrix(x, t)
    torch.testing.assert_close(matrix, matrix.mT)
    torch.testing.assert_close(matrix.sum(-1), torch.zeros(2, d, dtype=torch.float64), atol=1e-10, rtol=0)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(bdc_matrix(x[:, :, order], t), matrix)
    torch.testing.assert_close(bdc_matrix(x + 3.0, t), matrix)  # distances ignore a common shift


def test_vector_is_row_major_upper_triangle():
    x, t = maps(2, 5, 4, 0), torch.tensor(-1.0, dtype=torch.float64)
    matrix, vector = bdc_matrix(x, t), bdc_vector(x, t)
    expected = torch.stack([matrix[:, i, j] for i in range(5) for j in range(i, 5)], dim=1)
    torch.testing.assert_close(vector, expected)
    torch.testing.assert_close(upper_triangle(matrix), expected)
    torch.testing.assert_close(from_upper_triangle(vector), matrix)


def test_no_triangle_has_this_length():
    with pytest.raises(ValueError, match="5 entries"):
        from_upper_triangle(torch.zeros(1, 5))


@pytest.mark.parametrize("function", [bdc_matrix, bdc_vector])
@pytest.mark.parametrize("blocks", [1, 100])
def test_first_and_second_derivatives(function, blocks, monkeypatch):
    # blocks=1 forces one matrix at a time, so that the loop over blocks is differentiated too
    monkeypatch.setattr(bdc_module, "_CPU_BLOCK_BYTES", blocks)
    x = maps(3, 5, 4, 1).relu_()
    x[0, 2] = 0  # a dead channel
    x[1, 3] = x[1, 0]  # a duplicate
    x.requires_grad_()
    t = torch.full((1, 1), -1.3, dtype=torch.float64, requires_grad=True)
    smooth = maps(2, 4, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(function, (smooth, t))
    assert torch.autograd.gradgradcheck(function, (smooth, t))
    # At exactly equal channels numbers cannot be differenced: compare with ordinary operations instead.
    weight = maps(*function(x, t).flatten(1).shape, 1, 3).squeeze(-1)
    composed = _composed(x, t, 1e-5)
    composed = upper_triangle(composed) if function is bdc_vector else composed.flatten(1)
    want = torch.autograd.grad((composed * weight).sum(), (x, t))
    got = torch.autograd.grad((function(x, t).flatten(1) * weight).sum(), (x, t))
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("wanted", ["x", "temperature"])
def test_gradient_of_one_argument_alone(wanted):
    x, t = maps(2, 4, 3, 5), torch.tensor([[-1.0]], dtype=torch.float64)
    target = (x if wanted == "x" else t).requires_grad_()
    (grad,) = torch.autograd.grad(bdc_vector(x, t).square().sum(), target, create_graph=True)
    (again,) = torch.autograd.grad(grad.square().sum(), target)
    (plain,) = torch.autograd.grad(bdc_vector(x, t).square().sum(), target)
    torch.testing.assert_close(grad, plain)
    assert again.abs().sum() > 0


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 6, 3, 3),
        torch.ones(2, 6, 3, 3),
        torch.randn(2, 6, 1, 1),
        torch.randn(2, 1, 3, 3),
        1e4 * torch.randn(1, 6, 3, 3),
    ],
    ids=["zero", "constant", "one-position", "one-channel", "batch-of-one-large"],
)
def test_finite_on_degenerate_maps(x):
    x = x.requires_grad_()
    layer = BDC(x.shape[1])
    out = layer(x)
    assert out.shape == (x.shape[0], layer.out_dim)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all() and torch.isfinite(layer.temperature.grad).all()


def test_empty_batch():
    assert BDC(4)(torch.zeros(0, 4, 3, 3)).shape == (0, 10)


def test_diagonal_is_exact_zero_distance_in_float32():
    x = 30 * maps(1, 64, 100, 7, torch.float32).relu()
    x[:, 5] = x[:, 9]
    t = torch.tensor(-5.0)
    matrix = bdc_matrix(x, t)
    want = oracle(x[0].double(), -5.0).float()
    torch.testing.assert_close(matrix[0], want, rtol=2e-4, atol=2e-5)


def test_half_precision_and_autocast_leave_the_layer_in_float32():
    x = 5 * maps(2, 16, 9, 3, torch.float32).relu().unflatten(2, (3, 3))
    layer = BDC(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, layer(x))
    assert layer(x.bfloat16()).dtype == torch.float32


def test_differentiating_twice_keeps_float32_inside_autocast():
    x = 5 * maps(2, 16, 9, 3, torch.float32).relu()
    x.requires_grad_()
    t = torch.full((1, 1), -2.0, requires_grad=True)
    weight = maps(2, 136, 1, 4, torch.float32).squeeze(-1)

    def first() -> torch.Tensor:
        return torch.autograd.grad((bdc_vector(x, t) * weight).sum(), x, create_graph=True)[0]

    plain = first()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = first()
    torch.testing.assert_close(inside, plain)
    for grad in (plain, inside):
        assert grad.requires_grad
    second = [torch.autograd.grad(grad.square().sum(), x)[0] for grad in (plain, inside)]
    torch.testing.assert_close(second[1], second[0])


def test_reduction_layer_and_initial_values():
    layer = BDC(24, reduce_dim=8, map_size=(5, 7), activation="leaky_relu")
    assert layer.out_dim == 36 and layer(torch.randn(2, 24, 5, 7)).shape == (2, 36)
    assert layer.temperature.item() == pytest.approx(-math.log(70))
    weights = torch.cat([BDC(640, 128).reduce[0].weight.flatten() for _ in range(2)])
    assert weights.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.02)
    assert BDC(24, reduce_dim=24).reduce is None
    assert BDC(8, vectorize=False)(torch.randn(1, 8, 2, 2)).shape == (1, 64)
    assert BDC(24, reduce_dim=8)(torch.randn(2, 24, 6)).shape == (2, 36)


def test_bad_arguments():
    with pytest.raises(ValueError, match="gelu"):
        BDC(8, 4, activation="gelu")
    with pytest.raises(ValueError, match="shape"):
        bdc_vector(torch.zeros(3, 4), torch.zeros(1))


def test_indices_made_in_inference_mode_serve_training_later():
    with torch.inference_mode():
        bdc_vector(torch.randn(1, 23, 4), torch.zeros(1))
    x = torch.randn(1, 23, 4, requires_grad=True)
    bdc_vector(x, torch.zeros(1)).sum().backward()
    assert x.grad.shape == x.shape
