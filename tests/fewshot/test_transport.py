"""Exact and entropic optimal transport."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from fewshot.deepemd import DeepEMD
from fewshot.transport import exact_transport, sinkhorn


def problem(n: int = 5, m: int = 4, batch: int = 3):
    generator = torch.Generator().manual_seed(0)
    cost, source, target = (
        torch.rand(*shape, generator=generator, dtype=torch.float64)
        for shape in ((batch, n, m), (batch, n), (batch, m))
    )
    source, target = source + 0.1, target + 0.1
    return cost, source / source.sum(-1, keepdim=True), target / target.sum(-1, keepdim=True)


def test_plans_have_the_marginals():
    cost, source, target = problem()
    for plan in (exact_transport(cost, source, target), sinkhorn(cost, source, target, 0.1, 2000)):
        torch.testing.assert_close(plan.sum(-1), source, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(plan.sum(-2), target, rtol=1e-6, atol=1e-8)
        assert (plan >= 0).all()


def test_exact_plan_of_equal_weights_is_the_best_assignment():
    cost = problem(6, 6)[0]
    ones = torch.ones(3, 6, dtype=torch.float64)
    plan = exact_transport(cost, ones, ones)
    for c, p in zip(cost, plan, strict=True):
        rows, columns = linear_sum_assignment(c.numpy())
        assert (p * c).sum().item() == pytest.approx(c.numpy()[rows, columns].sum())


def test_sinkhorn_tends_to_the_exact_cost_from_above():
    cost, source, target = problem()
    best = (exact_transport(cost, source, target) * cost).sum((-1, -2))
    costs = [(sinkhorn(cost, source, target, r, 3000) * cost).sum((-1, -2)) for r in (0.3, 0.05, 0.005)]
    assert (costs[0] > costs[1]).all()
    assert (costs[1] > costs[2]).all()
    torch.testing.assert_close(costs[2], best, rtol=1e-2, atol=1e-3)


def test_sinkhorn_survives_a_tiny_regularisation_in_float32():
    plan = sinkhorn(*(x.float() for x in problem()), 1e-4, 50)
    assert torch.isfinite(plan).all()


def test_sinkhorn_gradient():
    cost, source, target = (x[:1].requires_grad_() for x in problem(3, 2))
    assert torch.autograd.gradcheck(lambda *a: sinkhorn(*a, 0.2, 20), (cost, source, target))


def test_unknown_solver_and_absent_package():
    with pytest.raises(ValueError, match="unknown transport solver 'simplex'"):
        exact_transport(*problem(), solver="simplex")
    if importlib.util.find_spec("ot") is None:
        with pytest.raises(ImportError, match="pip install POT"):
            exact_transport(*problem(), solver="pot")
    else:
        torch.testing.assert_close(exact_transport(*problem(), solver="pot"), exact_transport(*problem(), "linprog"))


def test_tuning_improves_the_fit_of_the_support():
    """Two rows of a class far apart: the tuned class maps must classify the support better than their means."""
    generator = torch.Generator().manual_seed(0)
    support = torch.randn(2, 6, 4, 2, 2, generator=generator)
    labels = torch.tensor([[0, 0, 1, 1, 2, 2], [2, 1, 0, 2, 1, 0]])
    losses = []
    for passes in (0, 30):
        head = DeepEMD(solver="sinkhorn", iterations=20, tune_passes=passes)
        losses.append(torch.nn.functional.cross_entropy(head(support, labels, support).flatten(0, 1), labels.flatten()))
    assert losses[1] < 0.7 * losses[0]


def test_tuning_works_without_gradients_and_repeats():
    generator = torch.Generator().manual_seed(0)
    support = torch.randn(1, 4, 4, 2, 2, generator=generator)
    labels = torch.tensor([[0, 0, 1, 1]])
    head = DeepEMD(solver="sinkhorn", iterations=10, tune_passes=3)
    with torch.no_grad():
        first = head(support, labels, support)
        torch.testing.assert_close(head(support, labels, support), first, rtol=0, atol=0)


def test_solver_follows_the_mode():
    generator = torch.Generator().manual_seed(0)
    support, query = torch.randn(1, 2, 4, 2, 2, generator=generator), torch.randn(1, 3, 4, 2, 2, generator=generator)
    labels = torch.tensor([[0, 1]])
    head = DeepEMD(regularisation=0.5)
    entropic = DeepEMD(regularisation=0.5, solver="sinkhorn")(support, labels, query)
    exact = DeepEMD(solver="exact")(support, labels, query)
    torch.testing.assert_close(head.train()(support, labels, query), entropic)
    torch.testing.assert_close(head.eval()(support, labels, query), exact)
    assert not torch.allclose(entropic, exact)
