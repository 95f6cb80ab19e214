"""CovaMNet (Li et al., AAAI 2019): covariance metric between query descriptors and classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import UserError
from episodes.arguments import at_least, whole
from episodes.class_rows import at_least_float32, check_episodes, class_sums, drop_padding, mask_absent, membership


def class_covariances(support: Tensor, support_labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
    """Covariance (E, K, C, C) of all descriptors of a class, and the support counts (E, K).

    support: (E, S, C, M), maps with their M positions flattened; divided by the number of descriptors - 1.
    """
    n_positions = support.shape[-1]
    sums, counts = class_sums(support.sum(-1), support_labels, n_way)
    number = counts.clamp(min=1) * n_positions
    own_mean = membership(support_labels, n_way, support.dtype) @ (sums / number.unsqueeze(-1))
    centred = support - own_mean.unsqueeze(-1)
    scatter, _ = class_sums(centred @ centred.transpose(-1, -2), support_labels, n_way)
    return scatter / (number - 1).clamp(min=1)[..., None, None], counts


def covariance_metric(query: Tensor, covariances: Tensor) -> Tensor:
    """Quadratic form of every mean-removed query descriptor: (E, Q, C, M), (E, K, C, C) -> (E, Q, K, M)."""
    n_query, n_positions = query.shape[1], query.shape[-1]
    centred = (query - query.mean(-1, keepdim=True)).transpose(2, 3).flatten(1, 2).unsqueeze(1)  # (E, 1, Q*M, C)
    form = ((centred @ covariances) * centred).sum(-1)  # (E, K, Q*M)
    return form.view(*form.shape[:2], n_query, n_positions).transpose(1, 2)


class CovaMNet(nn.Module):
    """Score a query map by the covariance of every class along the query's descriptors.

    LeakyReLU, dropout and a learned filter combine the positions of a query.
    n_positions: with a number M, the filter has a weight for every position, as in the released code, and maps must
        have that many. None (default) shares one weight between the positions (of their mean), so that every map runs.
    slope: of the LeakyReLU; dropout: of the positions, active in train mode.
    """

    near_bytes = 2 << 20  # see `episodes.evaluate`

    def __init__(self, n_positions: int | None = None, slope: float = 0.2, dropout: float = 0.5):
        super().__init__()
        self.n_positions = whole("n_positions", n_positions, 1, optional=True)
        self.slope = at_least("slope", slope)
        self.dropout = nn.Dropout(at_least("dropout", dropout))
        start = 1.0 / (n_positions or 1)  # the mean over positions; a random sign would start inverted
        self.taps = nn.Parameter(torch.full((n_positions or 1,), start))

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, C, H, W), (E, S), (E, Q, C, H, W) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = (x.flatten(3) for x in at_least_float32(drop_padding(support, support_labels), query))
        if query.shape[-1] < 2:
            raise UserError(
                f"CovaMNet takes the mean off a query's descriptors, and maps of one position, {tuple(query.shape)} "
                "(E, Q, C, positions), leave nothing: take larger pictures, or a backbone with a larger map"
            )
        if query.shape[-1] != (self.n_positions or query.shape[-1]):
            raise ValueError(
                f"this CovaMNet head has a weight for each of {self.n_positions} positions and the maps have "
                f"{query.shape[-1]} (CovaMNet(n_positions=None) takes any number)"
            )
        with torch.autocast(support.device.type, enabled=False):
            covariances, counts = class_covariances(support, support_labels, n_way)
            places = self.dropout(F.leaky_relu(covariance_metric(query, covariances), self.slope))
            taps = self.taps if self.n_positions else self.taps.expand(places.shape[-1]) / places.shape[-1]
            return mask_absent(places @ taps, counts)

    def extra_repr(self) -> str:
        return f"n_positions={self.n_positions}, slope={self.slope}"
