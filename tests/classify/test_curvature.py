"""The second-order view: the formula of the root's gradient, and what is reported on a batch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from classify.curvature import cosine, curvature, feature_gradient, fit_average_classifier, root_gradient, spectrum
from moments import covariance, matrix_power, newton_schulz_root


@pytest.fixture
def p():
    torch.manual_seed(0)
    return covariance(torch.randn(3, 6, 200, dtype=torch.float64))


def test_formula_is_automatic_differentiation_through_eigenvectors(p):
    grad = torch.randn_like(p)
    grad = grad + grad.mT
    p = p.requires_grad_()
    values, vectors = torch.linalg.eigh(p)
    root = vectors @ values.sqrt()[:, :, None].mul(vectors.mT)
    (through,) = torch.autograd.grad(root, p, grad)
    found = root_gradient(p.detach(), grad)
    torch.testing.assert_close(found, (through + through.mT) / 2, rtol=1e-8, atol=1e-8)
    r = matrix_power(p.detach(), 0.5)
    torch.testing.assert_close(r @ found + found @ r, grad)  # Lyapunov's equation


@pytest.mark.filterwarnings("ignore:20 Newton-Schulz steps")
def test_twenty_steps_converge_to_it(p):
    grad = torch.eye(6, dtype=torch.float64).expand(3, 6, 6) + 0.1
    p = p.requires_grad_()
    (steps,) = torch.autograd.grad(newton_schulz_root(p, 20), p, grad)
    torch.testing.assert_close(steps, root_gradient(p.detach(), grad), rtol=1e-6, atol=1e-8)


def test_gradients_of_both_poolings_are_at_right_angles_at_the_features():
    torch.manual_seed(1)
    x, labels = torch.randn(4, 5, 3, 3, dtype=torch.float64), torch.arange(4) % 2
    mean, second = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 25, dtype=torch.float64)
    one = feature_gradient(lambda x: x.mean((2, 3)) @ mean.T, x, labels)
    other = feature_gradient(lambda x: covariance(x).flatten(1) @ second.T, x, labels)
    assert abs(cosine(one, other)) < 1e-12


def test_spectrum_of_known_variances():
    torch.manual_seed(2)
    scale = torch.tensor([3.0, 1.0, 0.1])[:, None, None]
    found = spectrum(torch.randn(40, 3, 20, 20) * scale)
    assert found["eigenvalues"] == pytest.approx([9, 1, 0.01], rel=0.05)
    assert found["condition"] == pytest.approx(900, rel=0.05) and found["rank"] == 3
    assert spectrum(torch.randn(5, 8, 2, 2))["rank"] == 3  # four positions, less their mean


def test_average_classifier_learns():
    torch.manual_seed(3)
    labels = torch.arange(30) % 3
    features = torch.randn(30, 4, 2, 2) * 0.1 + F.one_hot(labels, 4).float()[:, :, None, None]
    weight = fit_average_classifier(features, labels, 3)
    said = (features.double().mean((2, 3)) @ weight[:, :-1].T + weight[:, -1]).argmax(1)
    assert (said == labels).all()


@pytest.mark.filterwarnings("ignore:20 Newton-Schulz steps")
def test_report_on_a_batch():
    torch.manual_seed(4)
    features, labels = torch.randn(16, 6, 6, 6).relu(), torch.arange(16) % 4
    found = curvature(features, labels, torch.randn(4, 21), torch.zeros(4), [1, 5, 20])
    assert list(found["cosines"]) == ["1", "5", "20", "exact"]
    exact, many, one = (found["cosines"][name] for name in ("exact", "20", "1"))
    assert many == pytest.approx(exact, abs=1e-6) and abs(one["plain"] - exact["plain"]) > 1e-4
    assert all(-1 <= value <= 1 for row in found["cosines"].values() for value in row.values())
    assert exact["preconditioned"] > exact["covariance"]  # P^(-1/2) / 2 explains more than nothing at all
