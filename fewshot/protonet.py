"""Prototypical networks (Snell et al., NeurIPS 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.arguments import at_least
from episodes.class_rows import (
    at_least_float32,
    check_episodes,
    class_means,
    mask_absent,
    nearest_rule,
    squared_distances,
)

DISTANCES = ("squared_euclidean", "euclidean")


class ProtoNet(nn.Module):
    """Score a query by minus its distance to the mean support vector of every class.

    distance: "squared_euclidean" (default; the paper's equation 1 with its squared Euclidean distance, and what
        DeepBDC's baseline does for every number of shots) or "euclidean", its root, which some toolkits use. Test
        predictions agree, but the softmax of the squared one is far sharper, so training differs.
    eps: added to the squared distance under the root of "euclidean" only, whose derivative at zero is infinite.
    """

    def __init__(self, distance: str = "squared_euclidean", eps: float = 1e-12):
        super().__init__()
        if distance not in DISTANCES:
            raise ValueError(f"unknown distance '{distance}' of ProtoNet; known: {', '.join(DISTANCES)}")
        self.distance = distance
        self.eps = at_least("eps", eps)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            prototypes, counts = class_means(support, support_labels, n_way)
            distances = squared_distances(query, prototypes)
            if self.distance == "euclidean":
                # rounding can leave a distance of zero slightly negative, which the root must not see
                distances = (distances.clamp(min=0) + self.eps).sqrt()
            return mask_absent(-distances, counts)

    def linear(self, support: Tensor, support_labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
        """Return what scores queries faster than the logits do, in their order: see `nearest_rule`."""
        (support,) = at_least_float32(support)
        with torch.autocast(support.device.type, enabled=False):
            return nearest_rule(support, support_labels, n_way)

    def extra_repr(self) -> str:
        return f"distance='{self.distance}'"
