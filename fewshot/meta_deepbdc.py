"""Meta DeepBDC (Xie et al., CVPR 2022): prototypes of BDC vectors, learned on episodes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from episodes.arguments import flag, whole
from episodes.class_rows import (
    at_least_float32,
    check_episodes,
    class_means,
    inner_products,
    mask_absent,
    nearest_rule,
    squared_distances,
)

SIMILARITIES = ("inner", "squared", "auto")


def trace_weights(length: int, like: Tensor) -> Tensor:
    """Return (D,): how often the trace tr(A^T B) counts every entry of an upper triangle, diagonal 1, others 2.

    length: D = d(d+1)/2 of a row-major upper triangle with its diagonal; like: gives dtype and device.
    """
    size = (math.isqrt(8 * length + 1) - 1) // 2
    if size * (size + 1) // 2 != length:
        raise ValueError(
            f"features of length {length} are not the upper triangle of a square matrix (length d(d+1)/2): "
            "exact_trace needs vectorised BDC features"
        )
    row = torch.arange(size, device=like.device)
    weights = like.new_full((length,), 2.0)
    weights[row * (2 * size - row + 1) // 2] = 1.0
    return weights


class MetaDeepBDC(nn.Module):
    """Score a query by its similarity to the mean support BDC vector of every class (paper, section 3.3).

    k_shot: the shot number the head is meant for, which decides the similarity (not the data do):
        1 -> "inner", the inner product of the two vectors; more -> "squared", minus their squared Euclidean distance.
    similarity: states the rule outright and wins over k_shot. "auto" decides episode by episode, from the largest
        number of supports of a class; it is the rule when neither argument is given.
    exact_trace: count every off-diagonal pair twice, as the paper's tr(A^T B) does. The released code and the
        published numbers take the plain inner product of the upper triangles, so the default is False.
    """

    def __init__(self, k_shot: int | None = None, similarity: str | None = None, exact_trace: bool = False):
        super().__init__()
        whole("k_shot", k_shot, 1, optional=True)
        if similarity is None:
            similarity = "auto" if k_shot is None else "inner" if k_shot == 1 else "squared"
        if similarity not in SIMILARITIES:
            raise ValueError(f"unknown similarity '{similarity}' of MetaDeepBDC; known: {', '.join(SIMILARITIES)}")
        self.similarity = similarity
        self.exact_trace = flag("exact_trace", exact_trace)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            prototypes, counts = class_means(support, support_labels, n_way)
            if self.exact_trace:
                root = trace_weights(query.shape[-1], query).sqrt()
                prototypes, query = prototypes * root, query * root
            return mask_absent(self._similarity(query, prototypes, counts), counts)

    def _similarity(self, query: Tensor, prototypes: Tensor, counts: Tensor) -> Tensor:
        one_shot = counts.amax(-1) <= 1  # per episode, so that batching episodes changes nothing
        traced = torch.compiler.is_compiling()  # an exported program can't look at the counts: it does both
        inner = self.similarity == "inner" or (self.similarity == "auto" and not traced and bool(one_shot.all()))
        if inner:
            return inner_products(query, prototypes)
        scores = -squared_distances(query, prototypes)
        if self.similarity == "auto" and (traced or bool(one_shot.any())):
            scores = torch.where(one_shot[:, None, None], inner_products(query, prototypes), scores)
        return scores

    def linear(self, support: Tensor, support_labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
        """Return what scores queries faster than the logits do, in their order: see `nearest_rule`."""
        (support,) = at_least_float32(support)
        root = trace_weights(support.shape[-1], support).sqrt() if self.exact_trace else None
        with torch.autocast(support.device.type, enabled=False):
            support = support if root is None else support * root
            prototypes, counts = class_means(support, support_labels, n_way)
            weight, bias = prototypes, torch.zeros_like(counts).masked_fill(counts == 0, float("-inf"))
            inner = counts.amax(-1) <= 1 if self.similarity == "auto" else counts.new_tensor(self.similarity == "inner")
            inner = inner.bool().expand(len(counts))
            if not bool(inner.all()):
                near, near_bias = nearest_rule(support, support_labels, n_way)
                weight = torch.where(inner[:, None, None], weight, near)
                bias = torch.where(inner[:, None], bias, near_bias)
            return weight if root is None else weight * root, bias

    def extra_repr(self) -> str:
        return f"similarity='{self.similarity}', exact_trace={self.exact_trace}"
