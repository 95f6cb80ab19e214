"""ADM (Li et al., IJCAI 2020): asymmetric distribution measure on local descriptors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones import UserError
from episodes.arguments import positive, whole
from episodes.class_rows import (
    at_least_float32,
    check_episodes,
    class_sums,
    drop_padding,
    group_by_class,
    mask_absent,
    membership,
    unit,
)

MOST_SPREAD = 1e5  # total variance over ridge that float32 holds: beyond it rounding reaches the ridge


def gaussian_kl(
    support: Tensor, support_labels: Tensor, query: Tensor, n_way: int, ridge: float = 0.01
) -> tuple[Tensor, Tensor]:
    """KL divergence of every query's Gaussian from every class's, and the support counts (E, K).

    support (E, S, C, M), query (E, Q, C, M): maps with their M positions flattened. A query's Gaussian comes from its
    M descriptors, a class's from the descriptors of all its supports: covariance divided by (number - 1), plus
    ridge * I, which keeps it invertible when C exceeds the number of descriptors. M = 1 is refused for a query.
    Features that vary by far more than the ridge (tokens of a ViT, say) are computed in float64: in float32 their
    covariances are not positive definite.
    Returns KL(q || c) (E, Q, K) = 0.5 [tr(S_c^-1 S_q) + (m_q-m_c)^T S_c^-1 (m_q-m_c) - C + logdet S_c - logdet S_q].
    """
    n_channels, n_positions = query.shape[-2:]
    if n_positions < 2:
        raise UserError(
            f"ADM needs maps of at least two positions for a covariance, got {tuple(query.shape)} (E, Q, C, positions)"
            ": take larger pictures, or a backbone with a larger map"
        )
    if query.dtype != torch.float64 and (
        torch.compiler.is_compiling() or _spread(support, query) > MOST_SPREAD * ridge
    ):
        kl, counts = gaussian_kl(support.double(), support_labels, query.double(), n_way, ridge)
        return kl.to(query.dtype), counts.to(query.dtype)
    eye = ridge * torch.eye(n_channels, dtype=query.dtype, device=query.device)
    sums, counts = class_sums(support.sum(-1), support_labels, n_way)
    number = counts.clamp(min=1) * n_positions
    class_mean = sums / number.unsqueeze(-1)
    # centre every support on the mean of its own class, then add up the scatter matrices of each class
    own_mean = membership(support_labels, n_way, support.dtype) @ class_mean
    centred = support - own_mean.unsqueeze(-1)
    scatter, _ = class_sums(centred @ centred.transpose(-1, -2), support_labels, n_way)
    class_cov = scatter / (number - 1)[..., None, None] + eye

    query_mean = query.mean(-1)
    centred = query - query_mean.unsqueeze(-1)
    query_cov = centred @ centred.transpose(-1, -2) / (n_positions - 1) + eye

    class_root = torch.linalg.cholesky(class_cov)
    precision = torch.cholesky_inverse(class_root)
    trace = query_cov.flatten(2) @ precision.flatten(2).transpose(1, 2)
    shift = query_mean.unsqueeze(2) - class_mean.unsqueeze(1)  # (E, Q, K, C)
    distance = ((shift.transpose(1, 2) @ precision) * shift.transpose(1, 2)).sum(-1).transpose(1, 2)
    class_logdet = 2 * class_root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    query_logdet = 2 * torch.linalg.cholesky(query_cov).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    volume = class_logdet.unsqueeze(1) - query_logdet.unsqueeze(2)
    return 0.5 * (trace + distance - n_channels + volume), counts


@torch.no_grad()
def _spread(support: Tensor, query: Tensor) -> float:
    """Return the largest total variance of the descriptors of a map; of a class, up to the shift between its maps."""
    return max(float(x.var(-1).sum(-1).max()) if x.numel() else 0.0 for x in (support, query))


def image_to_class(support: Tensor, support_labels: Tensor, query: Tensor, n_way: int, top_k: int = 3) -> Tensor:
    """Sum over the query's positions of its top_k cosines to the descriptors of every class (E, Q, K).

    support (E, S, C, M), query (E, Q, C, M). A class with fewer than top_k descriptors contributes those it has.
    """
    n_episodes, n_query, n_channels, n_positions = query.shape
    rows, mask = group_by_class(unit(support, dim=2), support_labels, n_way)  # (E, K, R, C, M)
    per_class = rows.shape[2] * n_positions
    pool = rows.permute(0, 3, 1, 2, 4).reshape(n_episodes, n_channels, n_way * per_class)
    places = unit(query, dim=2).transpose(2, 3).reshape(n_episodes, n_query * n_positions, n_channels)
    cosines = (places @ pool).view(n_episodes, n_query, n_positions, n_way, per_class)
    real = mask.repeat_interleave(n_positions, -1)[:, None, None]  # (E, 1, 1, K, R*M)
    best = cosines.masked_fill(~real, float("-inf")).topk(min(top_k, per_class), -1).values
    return best.masked_fill(best == float("-inf"), 0.0).sum((-1, 2))


class ADM(nn.Module):
    """Fuse minus the Gaussian KL divergence and the image-to-class measure by batch norm and a two-tap filter.

    score_c = w0 * norm(-KL)_c + w1 * norm(i2c)_c, the filter without bias.
    n_way: with a number, every one of the 2 * n_way columns has its own batch-norm statistics and weights, as in the
        released code, and episodes must have that many classes. None (default) shares the two norms between the
        classes, so that any number of ways runs and the order of the classes carries no meaning.
    top_k: neighbours of the image-to-class measure; ridge: added to the diagonal of the covariances.
    """

    near_bytes = 2 << 20  # see `episodes.evaluate`

    def __init__(self, n_way: int | None = None, top_k: int = 3, ridge: float = 0.01):
        super().__init__()
        self.n_way = whole("n_way", n_way, 1, optional=True)
        self.top_k = whole("top_k", top_k, 1)
        self.ridge = positive("ridge", ridge)
        self.norm = nn.BatchNorm1d(2 * (n_way or 1))
        self.taps = nn.Parameter(torch.full((2,), 0.5))  # a random sign would start inverted

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, C, H, W), (E, S), (E, Q, C, H, W) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        if self.n_way is not None and n_way != self.n_way:
            raise ValueError(
                f"this ADM head was built for {self.n_way}-way episodes and got {n_way}-way ones: "
                "its batch norm has a column for every class (ADM(n_way=None) takes any number)"
            )
        support, query = (x.flatten(3) for x in at_least_float32(drop_padding(support, support_labels), query))
        with torch.autocast(support.device.type, enabled=False):
            kl, counts = gaussian_kl(support, support_labels, query, n_way, self.ridge)
            local = image_to_class(support, support_labels, query, n_way, self.top_k)
            columns = torch.stack([-kl, local], -1)  # (E, Q, K, 2)
            if self.n_way is None:
                columns = self.norm(columns.reshape(-1, 2)).view(columns.shape)
            else:  # column order of the released code: all KL columns, then all image-to-class columns
                columns = self.norm(columns.transpose(2, 3).reshape(-1, 2 * n_way))
                columns = columns.view(*kl.shape[:2], 2, n_way).transpose(2, 3)
            return mask_absent(columns @ self.taps, counts)

    def extra_repr(self) -> str:
        return f"n_way={self.n_way}, top_k={self.top_k}, ridge={self.ridge}"
