"""Classifiers trained by SGD on the support of every episode, all episodes at once and never in feature space.

SGD moves a weight vector along support rows and along itself alone, so that it stays a combination of the support rows
X (S, D) and of its start: w = X^T a + share * w_0. The whole training happens on the coefficients a (S,), the share,
and the image X w = G a + share * X w_0 with G = X X^T: exactly the iterates of SGD on w, at a cost that does not depend
on D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from episodes.arguments import at_least, positive, whole

Parameters = tuple[Tensor, ...]


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained on the support; the defaults are those of Chen et al., ICLR 2019.

    passes: over the support. The paper says 100 iterations; its code makes 100 passes, which the numbers come from.
    batch_size: rows a step, the last step of a pass taking the rest; None takes all rows.
    lr, momentum, dampening, weight_decay: of `torch.optim.SGD`; the decay acts on every parameter.
    seed: of the start weights and the order of the rows. Both depend on it alone, not on the place of an episode in
        the batch, so that all episodes start from the same weights.
    """

    passes: int = 100
    batch_size: int | None = 4
    lr: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.9
    weight_decay: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        whole("passes", self.passes)
        whole("batch_size", self.batch_size, 1, optional=True)
        positive("lr", self.lr)
        for name in ("momentum", "dampening", "weight_decay"):
            at_least(name, getattr(self, name))
        whole("seed", self.seed)

    def generators(self) -> tuple[np.random.Generator, np.random.Generator]:
        """Return the generators of the start weights and of the order."""
        start, order = np.random.SeedSequence(self.seed).spawn(2)
        return np.random.default_rng(start), np.random.default_rng(order)


def start_weights(recipe: Recipe, n_way: int, n_features: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the start of a linear layer, uniform in +-1/sqrt(D): weights (K, D) and bias (K,).

    Drawn class by class: a class keeps its start when there are more classes.
    """
    bound = n_features**-0.5
    drawn = recipe.generators()[0].uniform(-bound, bound, (n_way, n_features + 1))
    drawn = torch.from_numpy(drawn).to(like)
    return drawn[:, :-1], drawn[:, -1]


def batches(labels: Tensor, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the steps: row numbers (E, B) and their weights (E, B), one over the real rows of the step, 0 for padding.

    Every pass has a fresh order of the real rows, the same for episodes with the same number of rows; padding comes
    last, wherever it stands in `labels` (E, S), and a step of padding alone is to be skipped.
    """
    real = labels >= 0
    place = (real.cumsum(1) - 1).clamp(min=0)
    # one row of keys for each place: the orders of n rows do not depend on the padding behind them
    keys = recipe.generators()[1].random((labels.shape[1], recipe.passes))
    keys = torch.from_numpy(keys).to(labels.device)
    for number in range(recipe.passes):
        order = keys[:, number][place].masked_fill(~real, 2.0).argsort(1)
        for rows in order.split(recipe.batch_size or labels.shape[1], 1):
            weight = real.gather(1, rows).double()
            yield rows, weight / weight.sum(1, keepdim=True).clamp(min=1)


def descend(
    start: Parameters, gradient: Callable[[Parameters, Tensor, Tensor], Parameters], labels: Tensor, recipe: Recipe
) -> Parameters:
    """Run `torch.optim.SGD` on parameters (E, ...) of many episodes; an episode without rows in a step stands still.

    gradient(parameters, rows, weight) returns what `batches` asks for. An image X w among the parameters, whose
    gradient is the image of the gradient of w, stays the image of w, since every rule of SGD is linear.
    """
    parameters, buffers = start, None
    for rows, weight in batches(labels, recipe):
        active = weight.sum(1) > 0
        slopes = gradient(parameters, rows, weight)
        slopes = tuple(g + recipe.weight_decay * p for g, p in zip(slopes, parameters, strict=True))
        if buffers is None:  # torch takes the first gradient without dampening
            fresh = slopes
        else:
            old = zip(buffers, slopes, strict=True)
            fresh = tuple(recipe.momentum * b + (1 - recipe.dampening) * g for b, g in old)
        moved = tuple(p - recipe.lr * b for p, b in zip(parameters, fresh, strict=True))
        if buffers is not None and not bool(active.all()):
            fresh = _where(active, fresh, buffers)
        if not bool(active.all()):
            moved = _where(active, moved, parameters)
        parameters, buffers = moved, fresh
    return parameters


def residual(scores: Tensor, target: Tensor, present: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient (E, B, K) of the weighted mean cross-entropy in the scores of the present classes."""
    scores = scores.masked_fill(~present.unsqueeze(1), float("-inf"))
    return (scores.softmax(-1) - target) * weight.unsqueeze(-1)


def rows_of(table: Tensor, rows: Tensor) -> Tensor:
    """Return table (E, S, N) at rows (E, B): (E, B, N)."""
    return table.gather(1, rows.unsqueeze(-1).expand(-1, -1, table.shape[-1]))


def scatter_rows(values: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Return (E, n_rows, K) with values (E, B, K) at rows (E, B), which are distinct, and zero elsewhere."""
    result = values.new_zeros(values.shape[0], n_rows, values.shape[-1])
    return result.scatter_(1, rows.unsqueeze(-1).expand_as(values), values)


def _where(active: Tensor, new: Parameters, old: Parameters) -> Parameters:
    return tuple(torch.where(active.reshape((-1,) + (1,) * (a.dim() - 1)), a, b) for a, b in zip(new, old, strict=True))
