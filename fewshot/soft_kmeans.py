"""Soft k-means (Ren et al., ICLR 2018): prototypes refined by unlabelled rows, here the queries (transductive)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.arguments import at_least, whole
from episodes.class_rows import at_least_float32, check_episodes, class_sums, mask_absent, squared_distances
from fewshot.transductive import class_probabilities, real_queries


def refine(sums: Tensor, counts: Tensor, rows: Tensor, weight: Tensor, steps: int, temperature: float) -> Tensor:
    """Return prototypes (E, K, D) after `steps` rounds: support rows count fully, others by their soft assignment.

    sums (E, K, D), counts (E, K): of the support. rows (E, Q, D), weight (E, Q): unlabelled rows, weight 0 = padding; a
    weight (E, Q, K) says how much a row counts for each class.
    p_c = (sum of support_c + sum_j z_jc x_j) / (count_c + sum_j z_jc), z_j = softmax_c(-temperature |x_j - p_c|^2).
    """
    present = counts > 0
    prototypes = sums / counts.clamp(min=1).unsqueeze(-1)
    weight = weight.unsqueeze(-1) if weight.dim() == 2 else weight
    for _ in range(steps):
        soft = class_probabilities(-temperature * squared_distances(rows, prototypes), present) * weight
        mass = torch.where(present, counts + soft.sum(1), 1.0)
        prototypes = (sums + soft.transpose(1, 2) @ rows) / mass.unsqueeze(-1)
    return prototypes


class SoftKMeans(nn.Module):
    """Score a query by minus its squared distance to class means that the queries of the episode have refined.

    Transductive: every query moves the prototypes that the others are compared with.
    steps: rounds of k-means; 1 in the paper's training. temperature: of the assignment, 1 in the paper.
    """

    transductive = True

    def __init__(self, steps: int = 1, temperature: float = 1.0):
        super().__init__()
        self.steps = whole("steps", steps)
        self.temperature = at_least("temperature", temperature)

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
        support, query = at_least_float32(support, query)
        query, weight = real_queries(query, query_mask)
        with torch.autocast(support.device.type, enabled=False):
            sums, counts = class_sums(support, support_labels, n_way)
            prototypes = refine(sums, counts, query, weight, self.steps, self.temperature)
            return mask_absent(-squared_distances(query, prototypes), counts)

    def extra_repr(self) -> str:
        return f"steps={self.steps}, temperature={self.temperature}"
