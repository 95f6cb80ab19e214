"""Powers by eigen-decomposition, singular values: definitions, derivatives of both orders, hard spectra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from moments import EigenPower, covariance, gaussian_matrix, matrix_power, newton_schulz_root, singular_power
from moments.svpn import svpn


def maps(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_spectrum(values: list[float], seed: int = 0) -> torch.Tensor:
    """A symmetric matrix (1, d, d) with these eigenvalues and random eigenvectors."""
    q, _ = torch.linalg.qr(maps(len(values), len(values), seed=seed))
    return ((q * torch.tensor(values, dtype=torch.float64)) @ q.T)[None]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.5, 0.3, 1.0, 2.0, -0.5]), st.integers(0, 99))
def test_power_equals_the_definition(d, positions, alpha, seed):
    s = covariance(maps(2, d, positions, seed=seed))  # often of low rank, and zero for one position
    found = matrix_power(s, alpha, threshold=1e-10)
    for one, power in zip(s, found, strict=True):
        values, vectors = torch.linalg.eigh(one)
        expected = torch.zeros_like(one)
        for value, vector in zip(values, vectors.T, strict=True):
            if value > 1e-10:
                expected += value**alpha * torch.outer(vector, vector)
        torch.testing.assert_close(power, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found, found.mT)


def test_root_is_what_the_steps_converge_to():
    s = covariance(maps(3, 5, 40))
    torch.testing.assert_close(matrix_power(s), newton_schulz_root(s, 15), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(matrix_power(s, 1 / 3) @ matrix_power(s, 2 / 3), s)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3}, {"alpha": -1.0}, {"alpha": 2.0}, {"eps": 0.1}])
@pytest.mark.parametrize("positions", [9, 3])  # of full rank, and of rank 2 among 4
def test_first_and_second_derivatives(options, positions):
    def power(x):
        return matrix_power(covariance(x), **options, threshold=1e-10)

    x = maps(1, 4, positions).requires_grad_()
    assert gradcheck(power, x)
    assert gradgradcheck(power, x)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [2.0, 1.0, 1.0], [1.0, 1.0 + 1e-9, 3.0], [1.0, 1.0 + 1e-5, 1.0]])
@pytest.mark.parametrize("alpha", [0.5, 0.7])
def test_derivatives_where_eigenvalues_meet(values, alpha):
    def power(s):
        return matrix_power((s + s.mT) / 2, alpha)

    s = with_spectrum(values).requires_grad_()
    assert gradcheck(power, s)
    assert gradgradcheck(power, s)


def test_derivative_solves_the_lyapunov_equation():
    """The derivative X of the root R in direction E fulfils R X + X R = E, whatever formula gave it."""
    s, e = covariance(maps(2, 5, 20)).requires_grad_(), covariance(maps(2, 5, 7, seed=1))
    root = matrix_power(s)
    (x,) = torch.autograd.grad(root, s, e)
    torch.testing.assert_close(root @ x + x @ root, e)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_spectra_stay_finite(dtype):
    x = torch.stack([maps(6, 4), torch.zeros(6, 4), torch.full((6, 4), 2.0), maps(6, 4).mul(1e-4)]).to(dtype)
    x.requires_grad_()
    for function in (matrix_power, EigenPower(scale="frobenius"), EigenPower(scale="spectral"), EigenPower(0.3, 1e-3)):
        out = function(covariance(x))
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), x)
        assert out.isfinite().all() and grad.isfinite().all() and second.isfinite().all()
        assert not out[1:3].any() and not grad[1:3].any()


def test_nan_stays_in_its_sample():
    s = covariance(maps(2, 3, 9))
    s[0, 0, 0] = float("nan")
    s.requires_grad_()
    out = matrix_power(s)
    (grad,) = torch.autograd.grad(out.sum(), s)
    assert out[0].isnan().all() and grad[0].isnan().all() and out[1].isfinite().all() and grad[1].isfinite().all()


@pytest.mark.parametrize("scale", ["spectral", "frobenius"])
def test_scaled_powers(scale):
    x = maps(2, 4, 9).requires_grad_()
    power = EigenPower(scale=scale)
    norms = torch.linalg.matrix_norm(power(covariance(x)), 2 if scale == "spectral" else "fro")
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert gradcheck(lambda x: power(covariance(x)), x)
    assert gradgradcheck(lambda x: power(covariance(x)), x)


def test_gaussian_matrix():
    x = maps(2, 3, 4, 5) + 1
    found = gaussian_matrix(x, 0.5)
    mean = x.mean((2, 3))
    torch.testing.assert_close(found[:, :3, :3], covariance(x) + 0.25 * mean[:, :, None] * mean[:, None])
    torch.testing.assert_close(found[:, 3, :3], 0.5 * mean)
    assert (found[:, 3, 3] == 1).all()
    torch.testing.assert_close(gaussian_matrix(x)[:, :3, :3], covariance(x, centred=False))
    assert (torch.linalg.eigvalsh(found) > -1e-12).all()
    beta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    few = maps(2, 3, 2).requires_grad_()

    def embedded(x, beta):
        return matrix_power(gaussian_matrix(x, beta), eps=1e-3, threshold=1e-10)

    assert gradcheck(embedded, (few, beta))
    assert gradgradcheck(embedded, (few, beta))


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 4), (1, 3, 3)])
@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_singular_power(shape, alpha):
    q = maps(*shape).requires_grad_()
    u, s, v = torch.linalg.svd(q.detach(), full_matrices=False)
    torch.testing.assert_close(singular_power(q, alpha), (u * s[:, None] ** alpha) @ v)
    assert gradcheck(lambda q: singular_power(q, alpha), q)
    assert gradgradcheck(lambda q: singular_power(q, alpha), q)


def test_singular_power_is_what_the_iteration_converges_to():
    q = maps(2, 4, 3)
    found = svpn(q, maps(4, seed=1), iterations=400, singular_values=None)
    torch.testing.assert_close(singular_power(q), found, rtol=1e-6, atol=1e-6)
    zero = torch.zeros(1, 3, 2, requires_grad=True)
    out = singular_power(zero)
    out.sum().backward()
    assert out.dtype == torch.float32 and not out.any() and not zero.grad.any()
    torch.testing.assert_close(singular_power(q, 1), q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_left(dtype):
    x = (20 + 100 * maps(2, 6, 14, 14, dtype=torch.float32)).to(dtype)
    exact = matrix_power(covariance(x.double())).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = x.float().requires_grad_()
        found, half = matrix_power(covariance(leaf)), matrix_power(covariance(x))
        rows = singular_power(covariance(leaf)[:, :, :4])
        found.sum().backward()
    assert found.dtype == half.dtype == rows.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(half, exact, rtol=1e-4, atol=1e-3)
    assert leaf.grad.isfinite().all()


def test_bad_arguments():
    eye = torch.eye(2)[None]
    for call, message in (
        (lambda: matrix_power(torch.zeros(1, 2, 3)), "got shape"),
        (lambda: matrix_power(eye, 0), "power 0"),
        (lambda: EigenPower(0), "power 0"),
        (lambda: EigenPower(scale="trace"), "scale 'trace'"),
        (lambda: singular_power(torch.zeros(2, 3)), "got shape"),
        (lambda: singular_power(eye, 0), "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
