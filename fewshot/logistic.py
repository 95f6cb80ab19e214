"""Multinomial logistic regression for many small episodes at once, solved to the optimum.

The objective of every episode is that of scikit-learn's softmax model,

    0.5 * ||W||^2 + C * sum_i cross_entropy(W x_i + b, y_i),        W (K, D), b (K,), intercept not penalised.

D is far larger than the number of support rows S, and the optimum lies in their span (representer theorem):
W = A^T X with A (S, K). Everything therefore happens on the S x S Gram matrix (`newton.py`), and the features are
read once to build it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from episodes.class_rows import check_episodes, drop_padding, membership
from fewshot.newton import BLOCK_NUMBERS, Optimum, minimise
from fewshot.trimmed import trimmed_blocks

WEIGHTS_GAIN = 4  # how many times fewer products the weights must need before they replace the Gram matrix


@dataclass(frozen=True)
class LogisticFit:
    """The optimum of E episodes. All tensors are float64 but for `support`, the rows that were fitted (E, S, D).

    dual: A (E, S, K); intercept: (E, K), summing to zero over the classes present; present: (E, K), False for a class
    without support, whose decision is -inf; scale: (E, S), what every support row was multiplied by.
    gradient_norm: (E,), of the objective, divided by C * S; converged: (E,), whether it is at most the tolerance.
    iterations: Newton steps of the slowest episode.
    """

    dual: Tensor
    intercept: Tensor
    present: Tensor
    support: Tensor
    scale: Tensor
    norm_eps: float | None
    gradient_norm: Tensor
    converged: Tensor
    iterations: int

    def decision(self, query: Tensor) -> Tensor:
        """Return the logits (E, Q, K), float64, of query rows (E, Q, D).

        They go through the query-support Gram matrix, or through the weights where those are much cheaper: with many
        more rows than classes.
        """
        query = query.to(self.support.dtype)
        scale = row_scale(query, self.norm_eps)
        n_support, n_query, n_way = self.support.shape[1], query.shape[1], self.dual.shape[2]
        if WEIGHTS_GAIN * n_way * (n_support + n_query) < n_query * n_support:
            weights = (self.dual * self.scale.unsqueeze(-1)).to(query.dtype)
            with torch.autocast(query.device.type, enabled=False):
                logits = (query @ (weights.transpose(1, 2) @ self.support).transpose(1, 2)).double()
            logits = logits * scale.unsqueeze(-1)
        else:
            logits = _gram(query, self.support, scale, self.scale) @ self.dual
        logits = logits + self.intercept.unsqueeze(1)
        return logits.masked_fill(~self.present.unsqueeze(1), float("-inf"))

    def probabilities(self, query: Tensor) -> Tensor:
        """Return the class probabilities (E, Q, K)."""
        return self.decision(query).softmax(-1)

    def coef(self) -> Tensor:
        """Return the weights W (E, K, D), which nothing else needs, of the normalised features."""
        return (self.dual * self.scale.unsqueeze(-1)).transpose(1, 2) @ self.support.double()


def row_scale(rows: Tensor, norm_eps: float | None) -> Tensor:
    """Return 1 / (||row|| + norm_eps) in float64, (E, N, D) -> (E, N); ones when norm_eps is None (no normalising).

    No feature is divided by its norm: scaling the small Gram matrix does the same and saves a copy of the features.
    """
    if norm_eps is None:
        return rows.new_ones(rows.shape[:-1], dtype=torch.float64)
    norms = torch.linalg.vector_norm(rows, dim=-1).double() + norm_eps
    return torch.where(norms > 0, 1.0 / norms, 0.0)  # a zero row stays a zero row, also when norm_eps is 0


def _gram(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor) -> Tensor:
    """Return the inner products (E, N, M), float64, of rows that are each to be multiplied by a number."""
    with torch.autocast(left.device.type, enabled=False):
        products = left @ right.transpose(1, 2)
    return products.double() * left_scale.unsqueeze(2) * right_scale.unsqueeze(1)


@torch.no_grad()
def fit_logistic(
    support: Tensor,
    labels: Tensor,
    n_way: int | None = None,
    C: float = 1.0,
    *,
    norm_eps: float | None = None,
    tol: float = 1e-8,
    max_iter: int = 100,
    double_gram: bool = False,
) -> LogisticFit:
    """Fit E episodes: support (E, S, D), labels (E, S) with -1 for padding rows.

    C: weight of the cross-entropy against the penalty (scikit-learn's C of the softmax form, see `fit_sklearn`).
    norm_eps: when given, rows are divided by (L2 norm + norm_eps) first, as STL DeepBDC and Good-Embed do (1e-6).
    tol: largest gradient norm of the objective divided by C * S, per episode.
    double_gram: build the Gram matrices in float64 even from float32 features: slower, and of use only to study the
        solver, since float32 products of normalised rows move the probabilities by less than 1e-6.
    Warns (RuntimeWarning) when an episode is not at `tol` after max_iter steps; `converged` says which.
    """
    n_way = check_episodes(support, labels, support[:, :0], n_way)
    if not C > 0:
        raise ValueError(f"C must be positive, got {C}: it weighs the cross-entropy against the penalty")
    support = drop_padding(support, labels)
    if double_gram:
        support = support.double()
    elif support.dtype in (torch.float16, torch.bfloat16):
        support = support.float()
    scale = row_scale(support, norm_eps) * (labels >= 0)
    target = membership(labels, n_way, torch.float64)
    if bool((labels < 0).any()) or not bool(target.any(1).all()):
        optimum = _solve_trimmed(support, scale, labels, n_way, C, tol, max_iter)
    else:
        optimum = _solve(support, scale, target, C, tol, max_iter)
    converged = optimum.gradient_norm <= tol
    if not bool(converged.all()):
        warnings.warn(
            f"logistic regression: {int((~converged).sum())} of {len(labels)} episodes are not at tol={tol:g} after "
            f"{max_iter} Newton steps (largest gradient {float(optimum.gradient_norm.max()):.1e}): "
            "raise max_iter or tol",
            RuntimeWarning,
            stacklevel=2,
        )
    return LogisticFit(
        dual=optimum.dual,
        intercept=optimum.intercept,
        present=target.sum(1) > 0,
        support=support,
        scale=scale,
        norm_eps=norm_eps,
        gradient_norm=optimum.gradient_norm,
        converged=converged,
        iterations=optimum.iterations,
    )


def _solve(support: Tensor, scale: Tensor, target: Tensor, C: float, tol: float, max_iter: int) -> Optimum:
    gram = _gram(support, support, scale, scale)
    return minimise((gram + gram.transpose(1, 2)) / 2, target, C, tol, max_iter)


def _solve_trimmed(
    support: Tensor, scale: Tensor, labels: Tensor, n_way: int, C: float, tol: float, max_iter: int
) -> Optimum:
    """Solve episodes of unequal size in blocks of like size: a Newton step costs S^3 K, so padding is dear."""
    dual = scale.new_zeros(*labels.shape, n_way)
    intercept, norm = scale.new_zeros(len(labels), n_way), scale.new_zeros(len(labels))
    iterations = 0
    for block in trimmed_blocks(labels, n_way, BLOCK_NUMBERS):
        target = membership(block.labels, block.classes.shape[1], torch.float64)
        part = _solve(block.take(support), block.take(scale), target, C, tol, max_iter)
        block.put(dual, part.dual)
        block.put(intercept, part.intercept)
        norm[block.episodes] = part.gradient_norm
        iterations = max(iterations, part.iterations)
    return Optimum(dual, intercept, norm, iterations)


@torch.no_grad()
def fit_sklearn(
    support: Tensor, labels: Tensor, n_way: int, C: float = 1.0, *, tol: float = 1e-10, max_iter: int = 1000
) -> tuple[Tensor, Tensor]:
    """The same optimum by scikit-learn, one episode after the other: the slow second opinion, also for tests.

    support: (E, S, D) rows as they are fitted (normalise them first); labels (E, S). Returns W (E, K, D) and b (E, K)
    in float64. For two classes scikit-learn fits one row with the penalty of one row: the softmax model with C is
    that model with 2*C, its two rows being plus and minus half of the one row.
    """
    from sklearn.linear_model import LogisticRegression

    coef = support.new_zeros(support.shape[0], n_way, support.shape[2], dtype=torch.float64)
    intercept = support.new_full((support.shape[0], n_way), float("-inf"), dtype=torch.float64)
    for episode in range(support.shape[0]):
        real = labels[episode] >= 0
        y = labels[episode][real]
        classes = y.unique()
        if len(classes) == 1:  # one class: nothing to separate
            intercept[episode, classes] = 0.0
            continue
        binary = len(classes) == 2
        model = LogisticRegression(C=2 * C if binary else C, tol=tol, max_iter=max_iter)
        model.fit(support[episode][real].double().cpu().numpy(), y.cpu().numpy())
        w = torch.as_tensor(model.coef_, dtype=torch.float64, device=support.device)
        b = torch.as_tensor(model.intercept_, dtype=torch.float64, device=support.device)
        coef[episode, classes] = torch.cat([-w / 2, w / 2]) if binary else w
        intercept[episode, classes] = torch.cat([-b / 2, b / 2]) if binary else b - b.mean()
    return coef, intercept
