"""Batched Newton solver of kernel multinomial logistic regression with a free intercept.

Minimises, for every episode, 0.5 tr(A^T G A) + C * sum_i cross_entropy((G A)_i + b, y_i) over A (S, K) and b (K,).
Everything is float64. With R = P - Y (probabilities minus one-hot labels) and the softmax curvature
Pi = C (diag(p) - p p^T) of the S*K logits, the Newton step is

    dA = -(A + C R) - q,      (G x I + Pi^-1) q = 1 db - G (A + C R),

and db makes the intercept gradient vanish. The inverse needs no S*K matrix: with E_c = (G + diag(1 / (C p_c)))^-1 of
size S for every class, it is E - E 1 (sum_c E_c)^-1 1^T E (Rasmussen and Williams, Gaussian Processes for Machine
Learning, equation 3.46 and algorithm 3.3). G itself is never inverted, so a singular Gram matrix (repeated supports,
more rows than dimensions) does no harm.

Two phases: conjugate gradients preconditioned by the cheap curvature of the start, which suffice for the usual small C
and for large episodes, where a Newton step costs as much as hundreds of them; then Newton steps with a line search for
the episodes that are left.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MAX_CONJUGATE_STEPS = 20
CHECK_EVERY = 4  # conjugate steps, in which the gradient has to fall to a tenth
PATIENCE_ROWS = 40  # both numbers are of episodes up to this many rows, and grow in proportion: a Newton step costs
# S^3 K against S^2 K of a conjugate step
BLOCK_NUMBERS = 2**20  # float64 numbers of E_c at a time: 8 MB, near the cache, whatever the number of episodes


class Optimum(NamedTuple):
    """dual (E, S, K), intercept (E, K), gradient_norm (E,) divided by C * S, iterations of the slowest episode."""

    dual: Tensor
    intercept: Tensor
    gradient_norm: Tensor
    iterations: int


class _Point(NamedTuple):
    """A, G A, b: a step moves all three on a straight line, so that a trial point costs no Gram product."""

    dual: Tensor
    scores: Tensor
    intercept: Tensor

    def moved(self, step: _Point, length: Tensor) -> _Point:
        t = length[:, None, None]
        return _Point(
            self.dual + t * step.dual, self.scores + t * step.scores, self.intercept + t[:, 0] * step.intercept
        )


class _Gradient(NamedTuple):
    """gap A + C R, of which X^T gap is the gradient in W; image G gap; slope_b in b; P; the norm that is tested."""

    gap: Tensor
    image: Tensor
    slope_b: Tensor
    probability: Tensor
    norm: Tensor

    def along(self, step: _Point) -> Tensor:
        """Return the slope of the objective along a step (E,)."""
        return (self.image * step.dual).sum((1, 2)) + (self.slope_b * step.intercept).sum(1)


def minimise(gram: Tensor, target: Tensor, C: float, tol: float = 1e-8, max_iter: int = 100) -> Optimum:
    """Solve E episodes: gram (E, S, S), target (E, S, K) one-hot rows, all-zero rows being padding.

    A class without rows takes no part (its intercept is 0). tol: gradient norm divided by C * S at which an episode
    stops; it then stays as it is, so that its result does not depend on the episodes beside it.
    """
    block = max(1, BLOCK_NUMBERS // max(target.shape[1] ** 2 * target.shape[2], 1))
    parts = [
        _minimise_block(g, t, C, tol, max_iter) for g, t in zip(gram.split(block), target.split(block), strict=True)
    ]
    return Optimum(
        torch.cat([p.dual for p in parts]),
        torch.cat([p.intercept for p in parts]),
        torch.cat([p.gradient_norm for p in parts]),
        max(p.iterations for p in parts),
    )


def _minimise_block(gram: Tensor, target: Tensor, C: float, tol: float, max_iter: int) -> Optimum:
    point = _Point(torch.zeros_like(target), torch.zeros_like(target), torch.zeros_like(target[:, 0]))
    point, gradient, first_steps = _conjugate_phase(gram, target, C, tol, point)
    rest = (gradient.norm > tol).nonzero().squeeze(1)
    newton_steps = 0
    if len(rest):
        part, norm, newton_steps = _newton_phase(
            gram[rest], target[rest], C, tol, max_iter, _Point(*(t[rest] for t in point))
        )
        point = _Point(*(whole.index_copy(0, rest, some) for whole, some in zip(point, part, strict=True)))
        gradient = gradient._replace(norm=gradient.norm.index_copy(0, rest, norm))
    return Optimum(point.dual, _centred(point.intercept, target), gradient.norm, first_steps + newton_steps)


def _gradient(gram: Tensor, target: Tensor, C: float, point: _Point) -> _Gradient:
    real = target.sum(-1, keepdim=True)
    probability = (point.scores + point.intercept.unsqueeze(1) + _absent(target)).softmax(-1) * real
    residual = probability - target
    gap = point.dual + C * residual
    image = gram @ gap
    norm_w = (gap * image).sum((1, 2)).clamp(min=0).sqrt()  # a rounded zero may be negative
    slope_b = C * residual.sum(1)
    norm = torch.maximum(norm_w, slope_b.norm(dim=-1)) / (C * real.sum((1, 2)).clamp(min=1))
    return _Gradient(gap, image, slope_b, probability, norm)


def _conjugate_phase(
    gram: Tensor, target: Tensor, C: float, tol: float, point: _Point
) -> tuple[_Point, _Gradient, int]:
    """Conjugate gradients, preconditioned by the curvature of the start: one S x S factor per episode.

    At the start all classes are equally likely, and Newton's step needs one factor instead of one per class. While
    the probabilities stay near that, few such steps reach the optimum. An episode leaves when a step triples its
    gradient (that step is not taken) or some steps gain too little; the Newton phase then finishes it.
    """
    real = target.sum(-1)
    shift = ((target.sum(1) > 0).sum(-1).clamp(min=1) / C)[:, None, None]
    inner = gram.clone()
    inner.diagonal(dim1=1, dim2=2).add_(shift[..., 0])
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(inner))
    unit = inverse @ real.unsqueeze(-1)
    unit_scores = real.unsqueeze(-1) - shift * unit  # G unit
    gradient = _gradient(gram, target, C, point)
    growth = (real.sum(1) / PATIENCE_ROWS).floor().clamp(min=1)
    check_every, limit = CHECK_EVERY * growth, MAX_CONJUGATE_STEPS * growth
    mark = gradient.norm
    active = gradient.norm > tol
    direction = previous = energy = None
    iteration = 0
    for iteration in range(1, int(limit.max()) + 1):
        if not bool(active.any()):
            iteration -= 1
            break
        # (G + shift)^-1 G gap = gap - shift (G + shift)^-1 gap, which spares a product with G for the step's scores
        solved = shift * (inverse @ gradient.gap)
        image = gradient.gap - solved
        step_b = ((image * real.unsqueeze(-1)).sum(1) - gradient.slope_b) / unit.sum(1)
        by = step_b.unsqueeze(1)
        step = _Point(-solved - unit * by, -shift * image - unit_scores * by, step_b)
        fall = -gradient.along(step)
        if direction is None:
            direction = step
        else:  # Polak and Ribiere; a negative weight means a restart
            direction = step.moved(direction, ((fall + gradient.along(previous)) / energy).clamp(min=0))
        previous, energy = step, fall
        length = -gradient.along(direction) / _curvature(direction, gradient.probability, C)
        moved = point.moved(direction, length)
        fresh = _gradient(gram, target, C, moved)
        active = active & (fresh.norm < 3 * gradient.norm)
        point = _Point(*(_where(active, a, b) for a, b in zip(moved, point, strict=True)))
        gradient = _Gradient(*(_where(active, a, b) for a, b in zip(fresh, gradient, strict=True)))
        active = active & (gradient.norm > tol)
        if iteration % CHECK_EVERY == 0:
            due = iteration % check_every == 0
            active = active & ~(due & ((gradient.norm >= mark / 10) | (iteration >= limit)))
            mark = torch.where(due, gradient.norm, mark)
    point = point._replace(scores=gram @ point.dual)  # their own rounding must not hide in the norm
    return point, _gradient(gram, target, C, point), iteration


def _curvature(step: _Point, probability: Tensor, C: float) -> Tensor:
    """Return the second derivative of the objective along a step (E,)."""
    rise = step.scores + step.intercept.unsqueeze(1)
    mean = (probability * rise).sum(-1, keepdim=True)
    return (step.dual * step.scores).sum((1, 2)) + C * (probability * (rise - mean).square()).sum((1, 2))


def _newton_phase(
    gram: Tensor, target: Tensor, C: float, tol: float, max_iter: int, point: _Point
) -> tuple[_Point, Tensor, int]:
    """Newton's method with a line search, from anywhere; episodes leave the batch as they converge."""
    whole, norms = _Point(*(t.clone() for t in point)), gram.new_empty(len(gram))
    index = torch.arange(len(gram), device=gram.device)  # the episodes at work
    for iteration in range(max_iter + 1):
        gradient = _gradient(gram, target, C, point)
        norms[index] = gradient.norm
        left = (gradient.norm > tol).nonzero().squeeze(1)
        if iteration == max_iter or not len(left):
            break
        if len(left) < len(index):
            for to, values in zip(whole, point, strict=True):
                to[index] = values
            index, gram, target = index[left], gram[left], target[left]
            point, gradient = _Point(*(t[left] for t in point)), _Gradient(*(t[left] for t in gradient))
        step = _newton_step(gram, target, C, gradient)
        dual, _, intercept = point.moved(step, _line_search(point, step, gradient.along(step), target, C))
        point = _Point(dual, gram @ dual, intercept)  # anew: with a large C, rounding would add up from step to step
    for to, values in zip(whole, point, strict=True):
        to[index] = values
    return whole, norms, iteration


def _newton_step(gram: Tensor, target: Tensor, C: float, gradient: _Gradient) -> _Point:
    """Return the full Newton step; all factors are S x S."""
    gap, image, slope_b, probability, _ = gradient
    present = (target.sum(1) > 0).to(gram.dtype)
    root = (C * probability).sqrt().transpose(1, 2)  # (E, K, S)
    inner = root.unsqueeze(-1) * gram.unsqueeze(1) * root.unsqueeze(-2)
    inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
    per_class = torch.cholesky_inverse(torch.linalg.cholesky(inner))
    per_class = root.unsqueeze(-1) * per_class * root.unsqueeze(-2)  # E_c, (E, K, S, S)
    total = per_class.sum(1)
    total.diagonal(dim1=-2, dim2=-1).add_(1.0 - target.sum(-1))  # a padding row is empty in every E_c

    # E_c applied to the gradient (column 0 of `images`) and to a unit step of the intercept of class c (column 1)
    ones = torch.ones_like(image)
    images = per_class @ torch.stack([-image, ones], -1).transpose(1, 2)  # (E, K, S, 2)
    unit = images[..., 1].transpose(1, 2)  # (E, S, K): also the class sum, since a unit step moves one class
    gathered = torch.cholesky_solve(
        torch.cat([images[..., 0].sum(1).unsqueeze(-1), unit], -1), torch.linalg.cholesky(total)
    )
    # how the sums of q over the rows (K) answer to the gradient and to the intercepts
    sums = images[..., 0].sum(-1) - (unit.transpose(1, 2) @ gathered[..., :1]).squeeze(-1)
    response = torch.diag_embed(unit.sum(1)) - unit.transpose(1, 2) @ gathered[..., 1:]
    # the common shift of the intercepts is free and absent classes have none: pin both to keep the system regular
    pin = present.unsqueeze(1) * present.unsqueeze(2) / target.shape[-1] + torch.diag_embed(1.0 - present)
    step_b = torch.linalg.solve(response + pin, -(slope_b + sums))

    common = gathered[..., 0] + (gathered[..., 1:] @ step_b.unsqueeze(-1)).squeeze(-1)
    images = images[..., 0] + images[..., 1] * step_b.unsqueeze(-1)
    step = -gap - (images - (per_class @ common[:, None, :, None]).squeeze(-1)).transpose(1, 2)
    return _Point(step, gram @ step, step_b)


def _line_search(point: _Point, step: _Point, slope: Tensor, target: Tensor, C: float) -> Tensor:
    """Return step lengths (E,): 1, halved until the objective falls enough (Armijo)."""
    value = _objective(point, target, C)
    slack = 1e-12 * (1 + value.abs())  # at the optimum the fall is below the rounding of the objective
    length = torch.ones_like(value)
    for _ in range(40):
        too_long = _objective(point.moved(step, length), target, C) > value + 1e-4 * length * slope + slack
        if not bool(too_long.any()):
            break
        length = torch.where(too_long, length / 2, length)
    return length


def _objective(point: _Point, target: Tensor, C: float) -> Tensor:
    logits = point.scores + point.intercept.unsqueeze(1)
    losses = torch.logsumexp(logits + _absent(target), -1) * target.sum(-1) - (logits * target).sum(-1)
    return 0.5 * (point.dual * point.scores).sum((1, 2)) + C * losses.sum(1)


def _absent(target: Tensor) -> Tensor:
    """Return (E, 1, K): -inf for a class without rows, 0 for the others."""
    return torch.zeros_like(target[:, :1]).masked_fill((target.sum(1) == 0).unsqueeze(1), float("-inf"))


def _where(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(active.reshape((-1,) + (1,) * (new.dim() - 1)), new, old)


def _centred(intercept: Tensor, target: Tensor) -> Tensor:
    """Fix the one freedom of the model: the intercepts of the classes present sum to zero."""
    present = target.sum(1) > 0
    mean = (intercept * present).sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp(min=1)
    return (intercept - mean) * present
