"""CovNet (Wertheimer and Hariharan, CVPR 2019): prototypes of local second moments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.arguments import at_least
from episodes.class_rows import at_least_float32, check_episodes, class_means, mask_absent, squared_distances


def second_moment_root(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Return the signed root of the second moment between channels, flattened: (..., C, H, W) -> (..., C*C).

    P = F F^T / M over the M = H*W positions, without mean removal; then sign(P) * sqrt(|P| + eps).
    eps: bounds the derivative of the root where two channels do not interact; such an entry stays exactly zero.
    """
    rows = maps.flatten(-2)
    moment = rows @ rows.transpose(-1, -2) / rows.shape[-1]
    return (moment.sign() * (moment.abs() + eps).sqrt()).flatten(-2)


class CovNet(nn.Module):
    """Score a query map by minus the squared Euclidean distance between its and the class's mean second moments.

    eps: inside the root of `second_moment_root`.
    """

    near_bytes = 2 << 20  # see `episodes.evaluate`

    def __init__(self, eps: float = 1e-5):
        super().__init__()
        self.eps = at_least("eps", eps)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, C, H, W), (E, S), (E, Q, C, H, W) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            prototypes, counts = class_means(second_moment_root(support, self.eps), support_labels, n_way)
            return mask_absent(-squared_distances(second_moment_root(query, self.eps), prototypes), counts)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"
