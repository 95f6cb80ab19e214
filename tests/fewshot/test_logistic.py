"""The batched logistic regression against scikit-learn and against its own optimality."""

from __future__ import annotations

import pytest
import torch

from fewshot import logistic, newton
from fewshot.good_embed import GoodEmbed, normalise
from fewshot.logistic import fit_logistic, fit_sklearn
from fewshot.stl_deepbdc import STLDeepBDC
from tests.fewshot.episodes import random_episodes


def objective_gradient(fit, support, labels, n_way, C):
    """Gradient of 0.5 |W|^2 + C * sum CE by autograd, at the fitted point of one episode."""
    coef, intercept = fit.coef()[0].requires_grad_(), fit.intercept[0].clone().requires_grad_()
    logits = support[0] @ coef.T + intercept
    loss = 0.5 * coef.square().sum() + C * torch.nn.functional.cross_entropy(logits, labels[0], reduction="sum")
    return torch.autograd.grad(loss, [coef, intercept])


@pytest.mark.parametrize("C", [1e-3, 0.1, 2.0, 100.0, 1e5])
@pytest.mark.parametrize("shots", [(1, 1, 1), (4, 1, 2), (3, 5)])
def test_gradient_vanishes_at_the_optimum(C, shots):
    data = random_episodes((7,), shots, n_episodes=1)
    fit = fit_logistic(data.support, data.labels, C=C, tol=1e-12)
    assert fit.converged.all()
    for gradient in objective_gradient(fit, data.support, data.labels, data.n_way, C):
        assert gradient.abs().max() < 1e-10 * C * len(data.labels[0]) + 1e-10


@pytest.mark.parametrize("shots", [(2, 2, 2), (4, 1, 2), (1, 1), (3, 5)])
@pytest.mark.parametrize("C", [0.1, 2.0, 50.0])
def test_equals_sklearn(C, shots):
    """Two classes included: scikit-learn fits one row there, the model here is the softmax of two."""
    data = random_episodes((30,), shots, n_episodes=3)
    rows = normalise(data.support)
    fit = fit_logistic(data.support, data.labels, C=C, norm_eps=1e-6)
    coef, intercept = fit_sklearn(rows, data.labels, data.n_way, C, max_iter=20_000)
    torch.testing.assert_close(fit.coef(), coef, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fit.intercept, intercept, rtol=1e-4, atol=1e-4)
    query = normalise(data.query)
    mine = fit.decision(data.query)
    torch.testing.assert_close(mine, query @ coef.transpose(1, 2) + intercept.unsqueeze(1), rtol=1e-4, atol=1e-4)


def test_two_way_is_the_softmax_and_not_the_binary_model():
    from sklearn.linear_model import LogisticRegression

    data = random_episodes((10,), (4, 3), n_episodes=1)
    fit = fit_logistic(data.support, data.labels, C=0.5)
    x, y = data.support[0].numpy(), data.labels[0].numpy()
    probabilities = [
        LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(x, y).predict_proba(data.query[0].numpy())
        for C in (0.5, 1.0)
    ]
    mine = fit.probabilities(data.query)[0]
    torch.testing.assert_close(mine, torch.as_tensor(probabilities[1]), rtol=1e-5, atol=1e-6)
    assert (mine - torch.as_tensor(probabilities[0])).abs().max() > 1e-3


@pytest.mark.parametrize("head", [GoodEmbed, STLDeepBDC])
def test_both_solvers_of_the_head_agree(head):
    data = random_episodes((12,), (2, 3, 1), n_episodes=2)
    data.labels[0, 0] = -1
    arguments = (data.support, data.labels, data.query, 4)
    mine, theirs = head(C=3.0)(*arguments), head(C=3.0, solver="sklearn")(*arguments)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_sklearn_with_one_class_has_nothing_to_separate():
    coef, intercept = fit_sklearn(torch.randn(1, 2, 3), torch.tensor([[1, 1]]), 2)
    assert (coef == 0).all()
    assert intercept.tolist() == [[float("-inf"), 0.0]]


def test_the_two_phases_reach_the_same_optimum(monkeypatch):
    data = random_episodes((9,), (3, 2, 4), n_episodes=4)
    arguments = {"C": 1.0, "norm_eps": 1e-6, "tol": 1e-11}
    both = fit_logistic(data.support, data.labels, **arguments)
    monkeypatch.setattr(newton, "MAX_CONJUGATE_STEPS", 0)
    alone = fit_logistic(data.support, data.labels, **arguments)
    assert alone.converged.all()
    torch.testing.assert_close(both.dual, alone.dual, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(both.intercept, alone.intercept, rtol=1e-8, atol=1e-10)


def test_newton_is_quadratic_from_far_away(monkeypatch):
    """A wrong curvature still converges, but slowly: the number of steps is what a wrong factor would change."""
    monkeypatch.setattr(newton, "MAX_CONJUGATE_STEPS", 0)
    data = random_episodes((9,), (3, 2, 4), n_episodes=4)
    assert fit_logistic(data.support, data.labels, C=1e4, tol=1e-10).iterations <= 15
    assert fit_logistic(data.support, data.labels, C=1.0, norm_eps=1e-6, tol=1e-10).iterations <= 6


def test_blocks_of_episodes_change_nothing(monkeypatch):
    data = random_episodes((9,), (3, 2), n_episodes=5)
    whole = fit_logistic(data.support, data.labels)
    monkeypatch.setattr(newton, "BLOCK_NUMBERS", 1)
    torch.testing.assert_close(fit_logistic(data.support, data.labels).dual, whole.dual, rtol=1e-9, atol=1e-12)


def variable_episodes(sizes=((2, 2), (9, 4, 30), (1, 1, 1, 1, 1), (20, 3), (40, 25)), length=12, n_way=7):
    """Episodes of unequal numbers of rows and classes, padded, the real rows and classes anywhere in the batch."""
    generator = torch.Generator().manual_seed(0)
    width = max(sum(shots) for shots in sizes) + 3
    labels = torch.full((len(sizes), width), -1)
    support = torch.full((len(sizes), width, length), float("nan"), dtype=torch.float64)
    centres = torch.randn(n_way, length, generator=generator, dtype=torch.float64)
    for episode, shots in enumerate(sizes):
        classes = torch.randperm(n_way, generator=generator)[: len(shots)].repeat_interleave(torch.tensor(shots))
        rows = torch.randperm(width, generator=generator)[: len(classes)]
        labels[episode, rows] = classes
        noise = torch.randn(len(rows), length, generator=generator, dtype=torch.float64)
        support[episode, rows] = centres[classes] + noise
    return support, labels, n_way


@pytest.mark.parametrize("C", [0.1, 2.0, 50.0])
@pytest.mark.parametrize("numbers", [1, newton.BLOCK_NUMBERS])
def test_padded_episodes_of_unequal_size_are_fitted_as_if_alone(monkeypatch, C, numbers):
    monkeypatch.setattr(logistic, "BLOCK_NUMBERS", numbers)
    support, labels, n_way = variable_episodes()
    query = torch.randn(len(labels), 80, support.shape[2], dtype=torch.float64)
    fit = fit_logistic(support, labels, n_way, C, norm_eps=1e-6, tol=1e-11)
    assert fit.converged.all()
    decision, coef = fit.decision(query), fit.coef()
    theirs, _ = fit_sklearn(normalise(support), labels, n_way, C, max_iter=20_000)
    torch.testing.assert_close(coef, theirs, rtol=1e-4, atol=1e-4)
    for episode, rows in enumerate(labels >= 0):
        classes, own = labels[episode][rows].unique(return_inverse=True)
        alone = fit_logistic(support[episode][rows][None], own[None], C=C, norm_eps=1e-6, tol=1e-11)
        torch.testing.assert_close(coef[episode, classes], alone.coef()[0], rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(
            decision[episode][:, classes], alone.decision(query[episode][None])[0], rtol=1e-7, atol=1e-8
        )
        absent = torch.ones(n_way, dtype=torch.bool).index_fill(0, classes, False)
        assert (decision[episode][:, absent] == float("-inf")).all()
        assert (fit.dual[episode][~rows] == 0).all()


def test_many_rows_are_decided_through_the_weights_and_few_through_the_gram_matrix(monkeypatch):
    support, labels, n_way = variable_episodes()
    query = torch.randn(len(labels), 80, support.shape[2], dtype=torch.float64)
    fit = fit_logistic(support, labels, n_way, 2.0, norm_eps=1e-6)
    both = []
    for gain in (0, 10**9):  # always, never
        monkeypatch.setattr(logistic, "WEIGHTS_GAIN", gain)
        both.append(fit.decision(query))
    torch.testing.assert_close(*both, rtol=1e-10, atol=1e-12)


def test_a_large_episode_needs_no_newton_step(monkeypatch):
    """Where a Newton step costs as much as a hundred conjugate ones, those get the time that they need."""
    monkeypatch.setattr(newton, "_newton_step", None)  # to call it would fail
    support, labels, n_way = variable_episodes(sizes=((50, 60, 40, 50), (70, 80)), length=60)
    for C in (0.1, 2.0):
        assert fit_logistic(support, labels, n_way, C, norm_eps=1e-6).converged.all()


def test_repeated_rows_and_more_rows_than_dimensions():
    """A singular Gram matrix: two identical rows with different labels in two dimensions."""
    row = torch.tensor([1.0, 2.0], dtype=torch.float64)
    support = torch.stack([row, row, -row, 2 * row, row, -row]).unsqueeze(0)
    labels = torch.tensor([[0, 1, 2, 0, 1, 2]])
    fit = fit_logistic(support, labels, C=5.0, tol=1e-12)
    assert fit.converged.all()
    for gradient in objective_gradient(fit, support, labels, 3, 5.0):
        assert gradient.abs().max() < 1e-9


def test_intercepts_sum_to_zero_and_shifting_features_moves_only_them():
    data = random_episodes((9,), (3, 2, 4), n_episodes=2)
    fit, shifted = (fit_logistic(s, data.labels, C=2.0, tol=1e-12) for s in (data.support, data.support + 3.0))
    assert fit.intercept.sum(-1).abs().max() < 1e-12
    torch.testing.assert_close(fit.coef(), shifted.coef(), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(fit.decision(data.query), shifted.decision(data.query + 3.0), rtol=1e-8, atol=1e-8)


def test_coef_gives_the_same_decisions():
    data = random_episodes((9,), (3, 2, 4))
    fit = fit_logistic(data.support, data.labels, norm_eps=1e-6)
    by_hand = normalise(data.query) @ fit.coef().transpose(1, 2) + fit.intercept.unsqueeze(1)
    torch.testing.assert_close(fit.decision(data.query), by_hand, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(fit.probabilities(data.query).sum(-1), torch.ones(2, 4, dtype=torch.float64))


def test_float32_features_give_the_double_answer():
    generator = torch.Generator().manual_seed(0)
    support, query = (torch.randn(3, n, 2000, generator=generator) + 2.0 for n in (10, 20))
    labels = torch.arange(5).repeat(3, 2)
    single, double = (
        fit_logistic(support, labels, C=2.0, norm_eps=1e-6, double_gram=wide).probabilities(query)
        for wide in (False, True)
    )
    torch.testing.assert_close(single, double, rtol=0, atol=1e-6)


def test_an_unfinished_fit_warns_and_says_which():
    data = random_episodes((9,), (3, 2, 4), n_episodes=2)
    with pytest.warns(RuntimeWarning, match="2 of 2 episodes are not at tol"):
        fit = fit_logistic(data.support, data.labels, C=1e4, max_iter=1)
    assert not fit.converged.any()


def test_wrong_options_are_refused():
    data = random_episodes((9,))
    with pytest.raises(ValueError, match="C must be positive, got 0"):
        fit_logistic(data.support, data.labels, C=0.0)
    with pytest.raises(ValueError, match="unknown solver 'lbfgs'"):
        GoodEmbed(solver="lbfgs")


def test_a_zero_feature_without_epsilon_is_no_division_by_zero():
    support = torch.randn(1, 4, 6, dtype=torch.float64)
    support[0, 1] = 0
    logits = GoodEmbed(norm_eps=0.0)(support, torch.tensor([[0, 0, 1, 1]]), support)
    assert torch.isfinite(logits).all()
