"""Baseline++ (Chen et al., ICLR 2019): a cosine classifier trained by SGD on the support."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.arguments import positive
from episodes.class_rows import at_least_float32, check_episodes, drop_padding, mask_absent, membership
from fewshot.finetuning import Recipe, descend, residual, rows_of, scatter_rows, start_weights
from fewshot.good_embed import normalise

STARTS = ("random", "means")
NORM_EPS = 1e-5  # added to the norm of a feature (released code)


class BaselinePP(nn.Module):
    """Train a cosine classifier on the support of every episode and return its scores of the queries.

    score_c = scale * gain_c * cos(x, v_c), trained in v_c and in gain_c, which starts at the norm of v_c: the weight
    normalisation of the released code.
    scale: 2 in the released code for up to 200 classes.
    start: of v, "random" (default; the usual start of a linear layer, seeded, the same for every episode) or "means",
        the class means of the normalised support, which know no order of the classes.
    passes, batch_size, lr, momentum, dampening, weight_decay, seed: see `fewshot.finetuning.Recipe`.

    The logits carry no gradient: the head is for frozen features, not for meta-training.
    """

    def __init__(
        self,
        scale: float = 2.0,
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
            raise ValueError(f"unknown start '{start}' of BaselinePP; known: {', '.join(STARTS)}")
        self.scale = positive("scale", scale)
        self.recipe = Recipe(passes, batch_size, lr, momentum, dampening, weight_decay, seed)
        self.start = start

    @torch.no_grad()
    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K) in the dtype of the query; -inf for an absent class."""
        n_way = check_episodes(support, support_labels, query, n_way)
        dtype = query.dtype
        support, query = at_least_float32(drop_padding(support, support_labels), query)
        with torch.autocast(support.device.type, enabled=False):
            support, query = normalise(support, NORM_EPS), normalise(query, NORM_EPS)
            weights = start_weights(self.recipe, n_way, support.shape[-1], support)[0]
            weights = None if self.start == "means" else weights
            logits = fit_cosine(support, support_labels, query, n_way, weights, self.scale, self.recipe)
            return mask_absent(logits, membership(support_labels, n_way, torch.float64).sum(1)).to(dtype)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, {self.recipe}, start='{self.start}'"


def fit_cosine(
    support: Tensor, labels: Tensor, query: Tensor, n_way: int, weights: Tensor | None, scale: float, recipe: Recipe
) -> Tensor:
    """Train the cosine classifier on normalised rows (E, S, D) and return the scores (E, Q, K), float64.

    weights: start (K, D) of v; None starts at the class means.
    """
    target = membership(labels, n_way, torch.float64)
    present = target.sum(1) > 0
    gram = (support @ support.transpose(1, 2)).double()
    n_rows = labels.shape[1]

    def norms(coefficients, image, share, own):
        square = (coefficients * image).sum(1) + share * own  # v . v, v = X^T coefficients + share * start
        return torch.where(present, square, 1.0).sqrt()

    def gradient(parameters, rows, weight):
        coefficients, image, share, own, gain = parameters
        norm = norms(coefficients, image, share, own).unsqueeze(1)
        cosine = rows_of(image, rows) / norm
        step = scale * residual(scale * gain.unsqueeze(1) * cosine, rows_of(target, rows), present, weight)
        gain_slope = (step * cosine).sum(1)
        step = step * gain.unsqueeze(1) / norm
        pull = (step * cosine).sum(1) / norm[:, 0]  # the gradient of v is X^T step - pull * v
        return (
            scatter_rows(step, rows, n_rows) - pull.unsqueeze(1) * coefficients,
            rows_of(gram, rows).transpose(1, 2) @ step - pull.unsqueeze(1) * image,
            -pull * share,
            (rows_of(start_image, rows) * step).sum(1) - pull * own,
            gain_slope,
        )

    if weights is None:
        coefficients = target / target.sum(1, keepdim=True).clamp(min=1)
        start_image, share = torch.zeros_like(target), torch.zeros_like(target[:, 0])
        image, own = gram @ coefficients, share
    else:
        coefficients, share = torch.zeros_like(target), torch.ones_like(target[:, 0])
        start_image = (support @ weights.T).double()  # X v_0; `own` is v_0 . v
        image, own = start_image, weights.double().square().sum(-1).expand_as(share)
    gain = norms(coefficients, image, share, own)
    coefficients, image, share, own, gain = descend((coefficients, image, share, own, gain), gradient, labels, recipe)
    scores = (query @ support.transpose(1, 2)).double() @ coefficients
    if weights is not None:
        scores = scores + share.unsqueeze(1) * (query @ weights.T).double()
    return scores * (scale * gain / norms(coefficients, image, share, own)).unsqueeze(1)
