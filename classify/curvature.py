"""How covariance pooling preconditions the gradient: spectra, and its likeness to second-order optimisation (K-FAC).

With P = X J X^T and R = P^(1/2) a gradient G_R comes back as the G_P that solves R G_P + G_P R = G_R, which divides by
sums of square roots of eigenvalues: strong directions are damped and weak ones raised, like P^(-1/2) / 2 would do.
K-FAC divides the gradient of a layer by the second moments of its input and of the gradients at its output.

Gradients are compared on an imagined linear layer, the identity, in front of the pooling. At the features themselves
the gradient of average pooling is the same everywhere and that of covariance pooling sums to zero, so the two always
are at right angles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from moments import covariance, matrix_power, newton_schulz_root, upper_triangle

DAMPING = 1e-3  # of the mean eigenvalue


def root_gradient(p: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient at P (B, d, d) of a gradient at its square root, by the formula in P's eigenvectors.

    P: symmetric and positive definite. The result is symmetric where the given gradient is.
    """
    values, vectors = torch.linalg.eigh(p)
    roots = values.clamp_min(0).sqrt()
    inside = vectors.mT @ grad @ vectors / (roots[:, :, None] + roots[:, None, :])
    return vectors @ inside @ vectors.mT


def spectrum(features: Tensor) -> dict[str, object]:
    """Return eigenvalues of the features' covariances, largest first, averaged over the images, and their condition.

    features: (B, d, h, w). condition: largest over smallest eigenvalue of the covariance of all positions of all
    images; image_condition: median over the images of the same with the smallest one that their few positions leave.
    """
    x = features.detach().double()
    each = torch.linalg.eigvalsh(covariance(x)).flip(1)
    whole = torch.linalg.eigvalsh(covariance(x.transpose(0, 1).flatten(1)[None]))[0].flip(0)
    kept = each > torch.finfo(x.dtype).eps * each[:, :1] * x.shape[1]
    last = torch.where(kept, each, each[:, :1]).amin(1)
    tiny = torch.finfo(x.dtype).tiny
    return {
        "eigenvalues": each.mean(0).tolist(),
        "rank": kept.sum(1).double().mean().item(),
        "condition": (whole[0] / whole[-1].clamp_min(tiny)).item(),
        "image_condition": (each[:, 0] / last.clamp_min(tiny)).median().item(),
    }


def fit_average_classifier(features: Tensor, labels: Tensor, classes: int, decay: float = 1e-2) -> Tensor:
    """Return the weights (K, d + 1) of a linear classifier, bias last, fitted to average-pooled features."""
    pooled = F.pad(features.detach().double().mean((2, 3)), (0, 1), value=1.0)
    weight = torch.zeros(classes, pooled.shape[1], dtype=pooled.dtype, device=pooled.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(pooled @ weight.T, labels) + decay * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach()


def feature_gradient(score: Callable[[Tensor], Tensor], features: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean cross entropy at the features (B, d, h, w); score: features -> logits."""
    with torch.enable_grad():
        x = features.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(score(x), labels), x)[0]


def _layer_gradient(grad: Tensor, features: Tensor) -> Tensor:
    """Return the gradient (d, d) of the identity layer in front of the pooling."""
    return torch.einsum("bchw,bdhw->cd", grad, features)


def _damped_inverse(x: Tensor, power: float) -> Tensor:
    """Return the power of the second moment over all positions of (B, d, h, w), damped by its mean eigenvalue."""
    rows = x.transpose(0, 1).flatten(1)
    values, vectors = torch.linalg.eigh(rows @ rows.T / rows.shape[1])
    values = values.clamp_min(0) + DAMPING * values.mean().clamp_min(torch.finfo(x.dtype).tiny)
    return vectors @ (values**power)[:, None].mul(vectors.T)


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of the angle between two tensors, 0 where one is zero."""
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0, eps=1e-300).item()


def curvature(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, iterations: Sequence[int] = range(1, 11)
) -> dict[str, object]:
    """Compare the gradients of covariance and of average pooling on one batch.

    features: (B, d, h, w), the map that enters the covariance. labels: (B,).
    weight, bias: of the classifier on the triangles, row by row. The classifier of average pooling is fitted here.
    iterations: Newton-Schulz steps to look at, beside the exact root.
    Returns `spectrum`, and for every number of steps ("exact" for the root) cosines with the gradient of covariance
    pooling: `plain` of average pooling's, `kfac` of the same under K-FAC, `kfac_input` with the input's moment alone;
    and at the features `covariance`, of covariance pooling without a root, and `preconditioned`, the same times
    P^(-1/2) / 2.
    """
    x, weight, bias = (value.detach().double() for value in (features, weight, bias))
    head = fit_average_classifier(x, labels, len(weight))
    plain = feature_gradient(lambda x: F.linear(x.mean((2, 3)), head[:, :-1], head[:, -1]), x, labels)
    layer, inputs = _layer_gradient(plain, x), _damped_inverse(x, -1)
    candidates = {"plain": layer, "kfac": _damped_inverse(plain, -1) @ layer @ inputs, "kfac_input": layer @ inputs}

    def roots(steps: int | None) -> Callable[[Tensor], Tensor]:
        return lambda p: matrix_power(p, 0.5) if steps is None else newton_schulz_root(p, steps)

    rows = {}
    for steps in (*iterations, None):
        root = roots(steps)

        def score(x: Tensor, root: Callable[[Tensor], Tensor] = root) -> Tensor:
            return F.linear(upper_triangle(root(covariance(x))), weight, bias)

        grad = feature_gradient(score, x, labels)
        own = _layer_gradient(grad, x)
        row = {name: cosine(own, other) for name, other in candidates.items()}
        row |= _features_alone(x, labels, weight, bias, root, grad)
        rows["exact" if steps is None else str(steps)] = row
    return {**spectrum(x), "cosines": rows}


def _features_alone(x, labels, weight, bias, root, grad: Tensor) -> dict[str, float]:
    """Compare at the features with the gradient that leaves the root out, and with P^(-1/2) / 2 in its place."""
    with torch.enable_grad():
        r = root(covariance(x)).detach().requires_grad_()
        loss = F.cross_entropy(F.linear(upper_triangle(r), weight, bias), labels)
        (at_root,) = torch.autograd.grad(loss, r)
    flat = x.flatten(2)
    centred = (flat - flat.mean(2, keepdim=True)) / flat.shape[2]
    without = (at_root + at_root.mT) @ centred
    values, vectors = torch.linalg.eigh(covariance(x))
    floor = DAMPING * values.mean(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    inverse = vectors @ ((values.clamp_min(0) + floor) ** -0.5)[:, :, None].mul(vectors.mT) / 2
    return {"covariance": cosine(grad, without), "preconditioned": cosine(grad, inverse @ without)}
