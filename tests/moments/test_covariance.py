"""Covariance pooling and its Newton-Schulz root: naive oracles, invariants, derivatives of both orders, hard inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moments import covariance, newton_schulz_root


def maps(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def oracle_covariance(x: torch.Tensor, centred: bool, correction: int) -> torch.Tensor:
    """The definition with loops over pairs of channels of one map (C, M)."""
    c, m = x.shape
    out = torch.empty(c, c, dtype=x.dtype)
    for i in range(c):
        for j in range(c):
            a = x[i] - x[i].sum() / m if centred else x[i]
            b = x[j] - x[j].sum() / m if centred else x[j]
            out[i, j] = sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / (m - correction)
    return out


def oracle_root(s: torch.Tensor, steps: int, eps: float) -> torch.Tensor:
    """The recursion as printed, one matrix, no step treated apart."""
    trace, eye = s.trace(), torch.eye(len(s), dtype=s.dtype)
    y, z = s / (trace + eps), eye
    for _ in range(steps):
        t = (3 * eye - z @ y) / 2
        y, z = y @ t, t @ z
    return y * trace.sqrt()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(2, 9), st.booleans(), st.integers(0, 1), st.integers(0, 99))
def test_covariance_equals_the_definition(batch, channels, positions, centred, correction, seed):
    x = maps(batch, channels, positions, seed=seed) + 3
    found = covariance(x, centred=centred, correction=correction)
    for one, matrix in zip(x, found, strict=True):
        torch.testing.assert_close(matrix, oracle_covariance(one, centred, correction))
    torch.testing.assert_close(found, found.mT)


def test_covariance_reads_maps_and_clips():
    x = maps(2, 3, 2, 4, 5)
    torch.testing.assert_close(covariance(x), covariance(x.flatten(2)))
    torch.testing.assert_close(covariance(x[:, :, 0]), covariance(x[:, :, 0].flatten(2)))
    torch.testing.assert_close(covariance(x + 100, correction=1)[0], torch.cov(x[0].flatten(1)))  # blind to a shift


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 7), st.sampled_from([0.0, 1e-5, 0.3]), st.integers(0, 99))
def test_root_equals_the_recursion(d, positions, steps, eps, seed):
    s = covariance(maps(2, d, positions + 1, seed=seed))  # often of low rank
    found = newton_schulz_root(s, steps, eps=eps)
    for one, root in zip(s, found, strict=True):
        torch.testing.assert_close(root, oracle_root(one, steps, eps), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["trace", "frobenius"])
def test_root_converges_to_the_exact_one(norm):
    s = covariance(maps(3, 5, 40))
    root = newton_schulz_root(s, 14, norm=norm)
    torch.testing.assert_close(root @ root, s)
    torch.testing.assert_close(root, root.mT)
    torch.testing.assert_close(newton_schulz_root(9 * s, 4, norm=norm), 3 * newton_schulz_root(s, 4, norm=norm))


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("options", [{}, {"eps": 1e-5}, {"norm": "frobenius"}])
def test_first_and_second_derivatives(steps, options):
    def pooled(x):
        return newton_schulz_root(covariance(x), steps, **options)

    x = maps(2, 3, 3).requires_grad_()  # three positions: of rank two
    assert torch.autograd.gradcheck(pooled, x)
    assert torch.autograd.gradgradcheck(pooled, x)
    s = covariance(maps(2, 3, 7))
    assert torch.autograd.gradcheck(lambda s: newton_schulz_root((s + s.mT) / 2, steps, **options), s.requires_grad_())


@pytest.mark.parametrize("options", [{"centred": False}, {"correction": 1}])
def test_derivatives_of_the_options(options):
    x = maps(2, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: covariance(x, **options), x)
    assert torch.autograd.gradgradcheck(lambda x: covariance(x, **options), x)


def test_function_transforms():
    x = maps(4, 3, 5)

    def total(x):
        return newton_schulz_root(covariance(x[None]), 3).pow(2).sum()

    each = torch.func.vmap(torch.func.grad(total))(x)
    leaf = x.clone().requires_grad_()
    (whole,) = torch.autograd.grad(newton_schulz_root(covariance(leaf), 3).pow(2).sum(), leaf)
    torch.testing.assert_close(each, whole)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("dead", ["zero", "constant", "one position"])
def test_no_variance_gives_zeros_and_leaves_the_others_alone(dead, eps):
    x = maps(2, 4, 9, dtype=torch.float32)
    if dead == "one position":
        x = x[:, :, :1]
    else:
        x[0] = 2.0 if dead == "constant" else 0.0
    x.requires_grad_()
    root = newton_schulz_root(covariance(x), 5, eps=eps)
    (grad,) = torch.autograd.grad(root.sum(), x)
    assert not root[0].any() and not grad[0].any()
    if dead != "one position":
        alone = x.detach()[1:].requires_grad_()
        expected = newton_schulz_root(covariance(alone), 5, eps=eps)
        torch.testing.assert_close(root[1:], expected)
        torch.testing.assert_close(grad[1:], torch.autograd.grad(expected.sum(), alone)[0])
        assert grad[1].isfinite().all() and grad[1].any()
    matrix = torch.zeros(1, 3, 3, requires_grad=True)
    newton_schulz_root(matrix, 3, eps=eps).sum().backward()
    assert not matrix.grad.any()


def test_what_is_no_covariance_is_not_hidden():
    assert newton_schulz_root(torch.full((1, 2, 2), float("nan")), 3).isnan().all()
    assert newton_schulz_root(-torch.eye(2)[None], 3).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_left(dtype):
    x = (20 + 100 * maps(2, 8, 14, 14, dtype=torch.float32)).to(dtype)  # the trace overflows float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = newton_schulz_root(covariance(x), 5)
        leaf = x.float().requires_grad_()
        total = newton_schulz_root(covariance(leaf), 5).sum()
    total.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, newton_schulz_root(covariance(x.double()), 5).float(), rtol=1e-4, atol=1e-3)
    exact = x.double().requires_grad_()
    newton_schulz_root(covariance(exact), 5).sum().backward()
    torch.testing.assert_close(leaf.grad, exact.grad.float(), rtol=1e-3, atol=1e-6)


def test_nothing_grows_with_the_square_of_the_positions():
    """A centring matrix for 40,000 positions would take 6.4 GB; keeping a centred copy would double the input."""
    x = maps(1, 2, 200, 200, dtype=torch.float32).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        out = covariance(x)
    assert kept == [x.numel()]
    out.sum().backward()
    assert x.grad.isfinite().all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="1 positions are too few"):
        covariance(torch.zeros(1, 3, 1), correction=1)
    with pytest.raises(ValueError, match="got shape"):
        covariance(torch.zeros(3, 3))
    for arguments, message in (((torch.zeros(1, 2, 3), 3), "got shape"), ((torch.zeros(1, 2, 2), 0), "at least one")):
        with pytest.raises(ValueError, match=message):
            newton_schulz_root(*arguments)
    with pytest.raises(ValueError, match="norm 'spectral'"):
        newton_schulz_root(torch.eye(2)[None], 3, norm="spectral")
    with pytest.warns(UserWarning, match="20 Newton-Schulz steps"):
        newton_schulz_root(torch.eye(2)[None], 20)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_blocks_of_the_batch_change_nothing(steps, monkeypatch):
    """The batch is worked on in blocks that fit a core's cache; with and without recording for a backward pass."""
    s = covariance(maps(7, 5, 9)).requires_grad_()
    upstream = maps(7, 5, 5, seed=1)
    whole = newton_schulz_root(s, steps)
    monkeypatch.setattr("moments.newton_schulz._CPU_BLOCK_BYTES", 3 * 25 * 8)
    found = newton_schulz_root(s, steps)
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(newton_schulz_root(s.detach(), steps), whole)
    grads = [torch.autograd.grad(root, s, upstream, retain_graph=True)[0] for root in (whole, found)]
    torch.testing.assert_close(*grads)
    (graphed,) = torch.autograd.grad(found, s, upstream, create_graph=True)
    torch.testing.assert_close(graphed, grads[0])
    empty = torch.zeros(0, 5, 5, requires_grad=True)
    newton_schulz_root(empty, steps).sum().backward()
    assert empty.grad.shape == empty.shape


def test_many_gradients_at_once():
    """Function transforms: whole Jacobians, and forward under vmap with an ordinary backward pass."""
    s = covariance(maps(3, 4, 9)).requires_grad_()
    root = newton_schulz_root(s, 3)
    upstream = maps(5, 3, 4, 4, seed=2)
    _, back = torch.func.vjp(lambda s: newton_schulz_root(s, 3), s.detach())
    each = [torch.autograd.grad(root, s, one, retain_graph=True)[0] for one in upstream]
    torch.testing.assert_close(torch.func.vmap(back)(upstream)[0], torch.stack(each))
    torch.testing.assert_close(torch.func.vmap(lambda m: newton_schulz_root(m[None], 3)[0])(s), root)
    total = torch.func.vmap(lambda m: newton_schulz_root(m[None], 3)[0])(s).sum()
    torch.testing.assert_close(*(torch.autograd.grad(value, s, retain_graph=True)[0] for value in (total, root.sum())))


def test_second_derivative_at_the_same_size_as_the_first():
    """Hessian-vector products against differences of gradients: kept iterates must not count as constants."""
    x, v = maps(1, 4, 9).requires_grad_(), maps(1, 4, 9, seed=1)

    def gradient(x):
        return torch.autograd.grad(newton_schulz_root(covariance(x), 5).square().sum(), x, create_graph=True)[0]

    (product,) = torch.autograd.grad(gradient(x), x, v)
    step = 1e-5
    ahead, behind = (gradient((x + sign * step * v).detach().requires_grad_()) for sign in (1, -1))
    torch.testing.assert_close(product, (ahead - behind).detach() / (2 * step), rtol=1e-6, atol=1e-7)
