"""Baseline (Chen et al., ICLR 2019): a linear classifier trained by SGD on the support."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.class_rows import at_least_float32, check_episodes, drop_padding, mask_absent, membership
from fewshot.finetuning import Recipe, descend, residual, rows_of, scatter_rows, start_weights

STARTS = ("random", "zeros")


class Baseline(nn.Module):
    """Train a linear layer on the support of every episode with cross-entropy and return its scores of the queries.

    start: "random" (default; the usual start of a linear layer, seeded, the same for every episode) or "zeros", which
        knows no order of the classes.
    passes, batch_size, lr, momentum, dampening, weight_decay, seed: see `fewshot.finetuning.Recipe`.

    The logits carry no gradient: the head is for frozen features, not for meta-training.
    """

    def __init__(
        self,
        passes: int = 100,
        batch_size: int | None = 4,
        lr: float = 0.01,
        momentum: float = 0.9,
        dampening: float = 0.9,
        weight_decay: float = 0.001,
        seed: int = 0,
        start: str = "random",
    ):
        super().__init__()
        if start not in STARTS:
            raise ValueError(f"unknown start '{start}' of Baseline; known: {', '.join(STARTS)}")
        self.recipe = Recipe(passes, batch_size, lr, momentum, dampening, weight_decay, seed)
        self.start = start

    @torch.no_grad()
    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K) in the dtype of the query; -inf for an absent class."""
        n_way = check_episodes(support, support_labels, query, n_way)
        dtype = query.dtype
        support, query = at_least_float32(drop_padding(support, support_labels), query)
        with torch.autocast(support.device.type, enabled=False):
            weights, bias = start_weights(self.recipe, n_way, support.shape[-1], support)
            if self.start == "zeros":
                weights, bias = torch.zeros_like(weights), torch.zeros_like(bias)
            logits = fit_linear(support, support_labels, query, weights, bias, self.recipe)
            return mask_absent(logits, membership(support_labels, n_way, torch.float64).sum(1)).to(dtype)

    def extra_repr(self) -> str:
        return f"{self.recipe}, start='{self.start}'"


def fit_linear(support: Tensor, labels: Tensor, query: Tensor, weights: Tensor, bias: Tensor, recipe: Recipe) -> Tensor:
    """Train W x + b from weights (K, D) and bias (K,) on support (E, S, D); return the scores (E, Q, K), float64."""
    n_way = len(weights)
    target = membership(labels, n_way, torch.float64)
    present = target.sum(1) > 0
    gram = (support @ support.transpose(1, 2)).double()

    def gradient(parameters, rows, weight):
        _, image, offset, share = parameters
        step = residual(rows_of(image, rows) + offset.unsqueeze(1), rows_of(target, rows), present, weight)
        moved = rows_of(gram, rows).transpose(1, 2) @ step
        return scatter_rows(step, rows, labels.shape[1]), moved, step.sum(1), torch.zeros_like(share)

    # W = share * (its start) + coefficients^T X, where only the weight decay moves the share
    share = torch.ones_like(target[:, :1, 0])
    start = torch.zeros_like(target), (support @ weights.T).double(), bias.double().expand(len(support), -1), share
    coefficients, _, offset, share = descend(start, gradient, labels, recipe)
    gram = (query @ support.transpose(1, 2)).double()
    return gram @ coefficients + share.unsqueeze(1) * (query @ weights.T).double() + offset.unsqueeze(1)
