"""Meta-Baseline (Chen et al., ICCV 2021): nearest class mean by cosine, with a learned temperature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.arguments import positive
from episodes.class_rows import (
    at_least_float32,
    check_episodes,
    class_means,
    inner_products,
    inverse_length,
    mask_absent,
    unit,
)


class MetaBaseline(nn.Module):
    """Score a query by the cosine to the mean support vector of every class, times a learned temperature.

    temperature: its start; 10 in the paper. The mean is taken over the vectors as they are, then normalised.
    """

    def __init__(self, temperature: float = 10.0):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(float(positive("temperature", temperature))))

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            prototypes, counts = class_means(support, support_labels, n_way)
            cosines = inner_products(query, unit(prototypes)) * inverse_length(query)  # no copy of the queries
            return mask_absent(cosines * self.temperature, counts)

    def linear(self, support: Tensor, support_labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
        """Return weights (E, K, D) and biases (E, K) of scores in the order of the logits."""
        (support,) = at_least_float32(support)
        with torch.autocast(support.device.type, enabled=False):
            prototypes, counts = class_means(support, support_labels, n_way)
            bias = torch.zeros_like(counts).masked_fill(counts == 0, float("-inf"))
            return unit(prototypes) * self.temperature, bias
