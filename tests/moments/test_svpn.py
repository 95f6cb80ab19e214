"""Singular value power normalisation: against the decomposition and loops, zero and rank-deficient matrices."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from moments.singular_power import singular_power
from moments.svpn import SVPN, svpn

D64 = torch.float64


@pytest.mark.parametrize(("iterations", "values"), [(1, 1), (3, 2), (2, None)])
def test_against_a_loop(iterations, values):
    matrices, start = torch.randn(2, 4, 3, dtype=D64), torch.randn(4, dtype=D64)
    expected = []
    for q in matrices:
        rest, total = q.clone(), torch.zeros_like(q)
        for _ in range(values or 3):
            v = start
            for _ in range(iterations):
                u = rest.T @ v / (rest.T @ v).norm()
                v = rest @ u / (rest @ u).norm()
            s = v @ rest @ u
            total += s**0.3 * torch.outer(v, u)
            rest = rest - s * torch.outer(v, u)
        expected.append(total if values is None else total + rest / (s**0.7 + 1e-5))
    found = svpn(matrices, start, alpha=0.3, iterations=iterations, singular_values=values)
    torch.testing.assert_close(found, torch.stack(expected))


def test_many_steps_and_all_values_give_the_exact_power():
    u, v = (torch.linalg.qr(torch.randn(2, 5, 3, dtype=D64))[0] for _ in range(2))
    matrix = u @ torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=D64)) @ v.mT[:, :, :4]
    start = torch.randn(5, dtype=D64)
    found = svpn(matrix, start, iterations=200, singular_values=None)
    torch.testing.assert_close(found, singular_power(matrix), atol=1e-6, rtol=1e-6)


def test_a_start_on_columns_is_a_start_on_rows_of_the_transpose():
    matrix, start = torch.randn(2, 3, 5), torch.randn(5)
    columns = svpn(matrix, start, iterations=2, singular_values=2, start_axis="column")
    torch.testing.assert_close(columns.mT, svpn(matrix.mT, start, iterations=2, singular_values=2))


def test_a_matrix_of_rank_one_is_divided_by_its_root():
    v, u = torch.randn(4, dtype=D64), torch.randn(3, dtype=D64)
    matrix = torch.outer(v, u)[None]
    s = v.norm() * u.norm()
    torch.testing.assert_close(svpn(matrix, torch.randn(4, dtype=D64)), matrix / s.sqrt())


@pytest.mark.parametrize("values", [1, 2, None])
@pytest.mark.parametrize("axis", ["row", "column"])
def test_derivatives(values, axis):
    matrix = torch.randn(2, 3, 3, dtype=D64, requires_grad=True)
    start = torch.randn(3, dtype=D64, requires_grad=True)

    def run(m, w):
        return svpn(m, w, iterations=2, singular_values=values, start_axis=axis)

    assert gradcheck(run, (matrix, start)) and gradgradcheck(run, (matrix, start), atol=1e-4)


@pytest.mark.parametrize("values", [1, 2, None])
def test_zero_and_rank_deficient_matrices_have_finite_gradients(values):
    zero = torch.zeros(1, 4, 3)
    single = torch.outer(torch.randn(4), torch.randn(3))[None]
    matrix = torch.cat([zero, single, torch.randn(1, 4, 3)]).requires_grad_()
    start = torch.randn(4, requires_grad=True)
    out = svpn(matrix, start, singular_values=values, iterations=1 if values == 1 else 2)
    out.sum().backward()
    assert out[0].abs().max() == 0 and matrix.grad[0].abs().max() == 0
    assert torch.isfinite(out).all() and torch.isfinite(matrix.grad).all() and torch.isfinite(start.grad).all()


def test_autocast_and_half_precision_are_computed_in_float32():
    matrix, layer = 1e-3 * torch.randn(2, 4, 3), SVPN(4)
    expected = layer(matrix)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(matrix), expected, rtol=0, atol=0)
    assert svpn(matrix.half(), layer.weight.detach().half()).dtype == torch.float32
    assert layer.double()(matrix.double()).dtype == D64 and expected.shape == (2, 12)


@pytest.mark.parametrize(
    ("shape", "start", "options", "hint"),
    [
        ((4, 3), 4, {}, r"\(B, m, n\)"),
        ((1, 4, 3), 4, {"singular_values": 2}, "2 singular values by one step"),
        ((1, 4, 3), 4, {"singular_values": None}, "3 singular values by one step"),
        ((1, 4, 3), 3, {}, "as long as axis 1"),
        ((1, 4, 3), 4, {"start_axis": "column"}, "as long as axis 2"),
        ((1, 4, 3), 4, {"start_axis": "left"}, "'left' is unknown"),
        ((1, 4, 3), 4, {"iterations": 0}, "iterations=0"),
        ((1, 4, 3), 4, {"singular_values": 0}, "singular_values=0"),
    ],
)
def test_wrong_input(shape, start, options, hint):
    with pytest.raises(ValueError, match=hint):
        svpn(torch.ones(shape), torch.ones(start), **options)
