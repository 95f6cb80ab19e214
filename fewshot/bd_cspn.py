"""BD-CSPN (Liu et al., ECCV 2020): prototypes rectified by pseudo-labelled queries (transductive)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.arguments import flag, positive, whole
from episodes.class_rows import (
    at_least_float32,
    check_episodes,
    class_means,
    drop_padding,
    mask_absent,
    membership,
    unit,
)
from fewshot.transductive import class_probabilities, real_queries


def shifted(support: Tensor, labels: Tensor, query: Tensor, weight: Tensor) -> Tensor:
    """Move the queries (E, Q, D) by mean support row - mean query: the cross-class bias that both sides share."""
    real = (labels >= 0).to(query.dtype)
    support_mean = (real.unsqueeze(1) @ support) / real.sum(1).clamp(min=1)[:, None, None]
    query_mean = (weight.unsqueeze(1) @ query) / weight.sum(1).clamp(min=1)[:, None, None]
    return query + support_mean - query_mean


def pseudo_members(cosines: Tensor, present: Tensor, weight: Tensor, temperature: float, top: int | None) -> Tensor:
    """Return (E, Q, K), True where a query is one of the `top` surest (None: all) of those that chose the class.

    cosines: (E, Q, K) to the prototypes; sure is a query of high softmax probability of its nearest class.
    """
    probability = class_probabilities(temperature * cosines, present)
    chosen = probability.argmax(-1, keepdim=True) == torch.arange(cosines.shape[-1], device=cosines.device)
    chosen = chosen & (weight > 0).unsqueeze(-1)
    if top is None:
        return chosen
    order = probability.masked_fill(~chosen, -1.0).argsort(dim=1, descending=True, stable=True)
    return chosen & (order.argsort(1) < top)


def rectified(
    support: Tensor,
    labels: Tensor,
    query: Tensor,
    weight: Tensor,
    n_way: int,
    temperature: float = 10.0,
    top: int | None = 8,
) -> tuple[Tensor, Tensor]:
    """Return the rectified prototypes (E, K, D) and the support counts (E, K).

    A prototype is the mean of its support rows and its pseudo-labelled queries x, weighted by the softmax over these
    rows of temperature * cos(x, mean of the support rows). query: already `shifted`.
    """
    means, counts = class_means(support, labels, n_way)
    rows = torch.cat([drop_padding(support, labels), query], 1)
    cosines = unit(rows) @ unit(means).transpose(1, 2)  # (E, S + Q, K)
    n_support = support.shape[1]
    votes = pseudo_members(cosines[:, n_support:].detach(), counts > 0, weight, temperature, top)
    member = torch.cat([membership(labels, n_way, torch.bool), votes], 1)
    # a class without rows would be a softmax of nothing: it takes all rows, and its score is masked later
    member = member | (counts == 0).unsqueeze(1)
    share = (temperature * cosines).masked_fill(~member, float("-inf")).softmax(1)
    return share.transpose(1, 2) @ rows, counts


class BDCSPN(nn.Module):
    """Score a query by the cosine to prototypes that pseudo-labelled queries have rectified.

    Transductive. Features are L2-normalised, the queries are shifted onto the support, the surest queries of every
    class join its support, and the shifted queries are compared with the weighted mean of all.
    temperature: of the weights and of the logits (epsilon in the paper). top: pseudo-labelled queries a class (Z in
    the paper); None takes all. normalise: False takes the features as they are.
    """

    transductive = True

    def __init__(self, temperature: float = 10.0, top: int | None = 8, normalise: bool = True):
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.top = whole("top", top, optional=True)
        self.normalise = flag("normalise", normalise)

    def forward(
        self,
        support: Tensor,
        support_labels: Tensor,
        query: Tensor,
        n_way: int | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K); -inf for a class without support; see `transductive`."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = at_least_float32(drop_padding(support, support_labels), query)
        query, weight = real_queries(query, query_mask)
        with torch.autocast(support.device.type, enabled=False):
            if self.normalise:
                support, query = unit(support), unit(query)
            query = shifted(support, support_labels, query, weight)
            prototypes, counts = rectified(support, support_labels, query, weight, n_way, self.temperature, self.top)
            cosines = unit(query) @ unit(prototypes).transpose(1, 2)
            return mask_absent(self.temperature * cosines, counts)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, top={self.top}, normalise={self.normalise}"
