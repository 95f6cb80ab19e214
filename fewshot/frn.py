"""FRN (Wertheimer et al., CVPR 2021): feature map reconstruction by ridge regression."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.arguments import positive
from episodes.class_rows import (
    at_least_float32,
    check_episodes,
    class_sums,
    group_by_class,
    mask_absent,
    membership,
)

RIDGE_FLOOR = 1e-6  # keeps lambda positive however small exp(alpha) becomes (released code)


def reconstruction(
    support: Tensor, support_labels: Tensor, n_way: int, alpha: Tensor, form: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Return the matrix (E, K, C, C) that rebuilds a descriptor from a class, and the support counts (E, K).

    support: (E, S, M, C) descriptors. With X (k*M, C) all descriptors of a class, lambda = k*M/C * exp(alpha) + 1e-6,
    the two equal forms are X^T (X X^T + lambda I)^-1 X ("rows", a k*M system) and (X^T X + lambda I)^-1 X^T X
    ("channels", a C system); "auto" takes the smaller system. A row vector of descriptors is multiplied from the left.
    """
    n_positions, n_channels = support.shape[-2:]
    counts = membership(support_labels, n_way, support.dtype).sum(1)
    ridge = (counts * n_positions / n_channels * alpha.exp() + RIDGE_FLOOR)[..., None, None]
    if form == "auto" and torch.compiler.is_compiling():  # an exported program can't count the supports
        form = "channels"
    if form == "auto":
        form = "rows" if int(counts.max()) * n_positions < n_channels else "channels"
    if form == "rows":
        pool = group_by_class(support, support_labels, n_way).rows.flatten(2, 3)  # zero rows change nothing
        eye = torch.eye(pool.shape[2], dtype=pool.dtype, device=pool.device)
        return pool.transpose(2, 3) @ torch.linalg.solve(pool @ pool.transpose(2, 3) + ridge * eye, pool), counts
    gram, _ = class_sums(support.transpose(2, 3) @ support, support_labels, n_way)
    eye = torch.eye(n_channels, dtype=support.dtype, device=support.device)
    return torch.linalg.solve(gram + ridge * eye, gram), counts


def frn_scores(
    support: Tensor, support_labels: Tensor, query: Tensor, n_way: int, alpha: Tensor, beta: Tensor, scale: Tensor
) -> Tensor:
    """Return scale * minus the mean over positions of the squared reconstruction error, (E, Q, K).

    support (E, S, M, C) and query (E, Q, M, C) descriptors; the reconstruction is multiplied by exp(beta).
    """
    rebuild, counts = reconstruction(support, support_labels, n_way, alpha)
    return mask_absent(-scale * reconstruction_error(query, rebuild, beta), counts)


def reconstruction_error(query: Tensor, rebuild: Tensor, beta: Tensor) -> Tensor:
    """Return the mean over positions of the squared error, (E, Q, M, C) and (E, K, C, C) -> (E, Q, K).

    b q W - q is q (b W - I): the identity is taken off the small matrix, once a class, which leaves one product and one
    sum over what it makes, (E, K, Q*M, C). Gram matrices of the queries would make less, but lose the digits of a
    residual that is small beside its query.
    """
    n_episodes, n_query, n_positions, n_channels = query.shape
    flat = query.reshape(n_episodes, 1, n_query * n_positions, n_channels)
    eye = torch.eye(n_channels, dtype=rebuild.dtype, device=rebuild.device)
    residual = flat @ (beta.exp() * rebuild - eye)
    per_query = residual.view(n_episodes, rebuild.shape[1], n_query, n_positions * n_channels)
    return torch.linalg.vector_norm(per_query, dim=-1).square().transpose(1, 2) / n_positions


class FRN(nn.Module):
    """Score a query map by how well the pooled support descriptors of every class rebuild it.

    Learned: alpha and beta (0 at the start; strength of the ridge and of the reconstruction) and scale (1).
    divisor: features are divided by it first; the released code uses sqrt(640) with ResNet-12 and 1 with Conv-4.
    """

    near_bytes = 2 << 20  # see `episodes.evaluate`

    def __init__(self, divisor: float = 1.0):
        super().__init__()
        self.divisor = positive("divisor", divisor)
        self.alpha = nn.Parameter(torch.zeros(()))
        self.beta = nn.Parameter(torch.zeros(()))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, C, H, W), (E, S), (E, Q, C, H, W) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            support, query = (x.flatten(3).transpose(2, 3) / self.divisor for x in (support, query))
            return frn_scores(support, support_labels, query, n_way, self.alpha, self.beta, self.scale)

    def extra_repr(self) -> str:
        return f"divisor={self.divisor:g}"
