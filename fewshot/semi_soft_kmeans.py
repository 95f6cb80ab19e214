"""Semi-supervised soft k-means (Ren et al., ICLR 2018): prototypes refined by unlabelled items, without distractors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.arguments import at_least, flag, whole
from episodes.class_rows import at_least_float32, check_episodes, class_sums, mask_absent, squared_distances
from fewshot.soft_kmeans import refine
from fewshot.transductive import class_probabilities, real_queries

DISTRACTORS = ("none", "cluster", "mask")
TINY = 1e-12  # below any distance or variance of features that differ


def refine_with_cluster(
    sums: Tensor, counts: Tensor, rows: Tensor, weight: Tensor, steps: int, temperature: float, log_radius: Tensor
) -> Tensor:
    """Refine prototypes (E, K, D) with one more cluster at the origin that takes distractors (section 3.1.2).

    z_jc = softmax_c(-temperature |x_j - p_c|^2 / r_c^2 - log r_c), r_c = 1 for classes and exp(log_radius) for the
    cluster, which stays at the origin. Arguments as in `fewshot.soft_kmeans.refine`.
    """
    present = counts > 0
    prototypes = sums / counts.clamp(min=1).unsqueeze(-1)
    strange = -temperature * rows.square().sum(-1, keepdim=True) * torch.exp(-2 * log_radius) - log_radius
    everyone = torch.cat([present, torch.ones_like(present[:, :1])], 1)
    for _ in range(steps):
        near = torch.cat([-temperature * squared_distances(rows, prototypes), strange], -1)
        soft = class_probabilities(near, everyone)[..., :-1] * weight.unsqueeze(-1)
        mass = torch.where(present, counts + soft.sum(1), 1.0)
        prototypes = (sums + soft.transpose(1, 2) @ rows) / mass.unsqueeze(-1)
    return prototypes


def distance_statistics(normalised: Tensor, weight: Tensor) -> Tensor:
    """Return minimum, maximum, variance, skewness and kurtosis over the real rows: (E, K, 5) of (E, M, K), (E, M)."""
    share = (weight / weight.sum(1, keepdim=True).clamp(min=1)).unsqueeze(-1)
    real = weight.unsqueeze(-1) > 0
    # an episode without a real row has nothing to refine: zeros do for it
    least = normalised.masked_fill(~real, float("inf")).amin(1)
    most = normalised.masked_fill(~real, float("-inf")).amax(1)
    none = ~real.any(1)
    centred = normalised - (share * normalised).sum(1, keepdim=True)
    variance = (share * centred.square()).sum(1)
    scale = variance.clamp(min=TINY)
    skewness = (share * centred**3).sum(1) / scale**1.5
    kurtosis = (share * centred**4).sum(1) / scale**2 - 3
    return torch.stack([least.masked_fill(none, 0.0), most.masked_fill(none, 0.0), variance, skewness, kurtosis], -1)


class DistractorMask(nn.Module):
    """How much an unlabelled item may move each prototype: small where it is far for an item (section 3.1.3).

    m_jc = sigmoid(-gamma_c (d_jc / mean_j d_jc - beta_c)), d the squared distances; a network with one layer of
    `hidden` tanh units reads beta_c and gamma_c from the statistics of the normalised distances to prototype c.
    Untrained it gives beta = 1 and gamma = 5: what is nearer than the average counts.
    """

    def __init__(self, hidden: int = 20):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 2))
        with torch.no_grad():
            self.network[2].weight.zero_()
            self.network[2].bias.copy_(torch.tensor([1.0, 5.0]))

    def forward(self, distances: Tensor, weight: Tensor) -> Tensor:
        """(E, M, K) squared distances and (E, M) weights, 1 or 0 for padding -> masks (E, M, K) in [0, 1]."""
        mean = (weight.unsqueeze(-1) * distances).sum(1, keepdim=True) / weight.sum(1).clamp(min=1)[:, None, None]
        normalised = distances / mean.clamp(min=TINY)
        statistics = distance_statistics(normalised, weight).to(self.network[0].weight.dtype)
        beta, gamma = self.network(statistics).to(distances.dtype).unsqueeze(1).unbind(-1)
        return torch.sigmoid(-gamma * (normalised - beta))


class SemiSoftKMeans(nn.Module):
    """Score a query by minus its squared distance to class means that unlabelled items of the episode have refined.

    The means move by soft assignment of the unlabelled items; without any it is a prototypical network.
    distractors: "none" takes every unlabelled item for one of the episode's classes; "cluster" lets one more cluster
        at the origin, of learnable size, take what fits no class; "mask" lets an item move the prototypes that it is
        near to by a learnable measure. The last two have weights that meta-training on such episodes tunes.
    steps: rounds of k-means, 1 in the paper. temperature: of the assignment, 1 in the paper.
    use_queries: let the queries move the prototypes as well, which makes the head transductive.
    """

    semi_supervised = True

    def __init__(self, distractors: str = "none", steps: int = 1, temperature: float = 1.0, use_queries: bool = False):
        super().__init__()
        if distractors not in DISTRACTORS:
            raise ValueError(f"distractors are dealt with by {', '.join(DISTRACTORS)}, not by '{distractors}'")
        self.distractors, self.steps = distractors, whole("steps", steps)
        self.temperature = at_least("temperature", temperature)
        self.transductive = flag("use_queries", use_queries)
        if distractors == "cluster":
            self.log_radius = nn.Parameter(torch.zeros(()))
        if distractors == "mask":
            self.mask = DistractorMask()

    def forward(
        self,
        support: Tensor,
        support_labels: Tensor,
        query: Tensor,
        n_way: int | None = None,
        query_mask: Tensor | None = None,
        unlabelled: Tensor | None = None,
        unlabelled_mask: Tensor | None = None,
    ) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K); -inf for a class without support.

        unlabelled: (E, M, D), unlabelled_mask: (E, M), True for items that are not padding; default all.
        query_mask: (E, Q), see `fewshot.transductive`; of no use unless the queries are used.
        """
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            rows, weight = query[:, :0], query.new_ones(len(query), 0)
            if unlabelled is not None:
                rows, weight = real_queries(*at_least_float32(unlabelled), unlabelled_mask)
            if self.transductive:
                query, real = real_queries(query, query_mask)
                rows, weight = torch.cat([rows, query], 1), torch.cat([weight, real], 1)
            sums, counts = class_sums(support, support_labels, n_way)
            prototypes = self._refined(sums, counts, rows, weight)
            return mask_absent(-squared_distances(query, prototypes), counts)

    def _refined(self, sums: Tensor, counts: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """Return the prototypes (E, K, D), refined by rows (E, M, D) of weight 1 or 0 (E, M)."""
        if not rows.shape[1]:
            return sums / counts.clamp(min=1).unsqueeze(-1)
        if self.distractors == "cluster":
            radius = self.log_radius.to(rows.dtype)
            return refine_with_cluster(sums, counts, rows, weight, self.steps, self.temperature, radius)
        if self.distractors == "mask":
            distances = squared_distances(rows, sums / counts.clamp(min=1).unsqueeze(-1)).clamp(min=0)
            weight = weight.unsqueeze(-1) * self.mask(distances, weight)
        return refine(sums, counts, rows, weight, self.steps, self.temperature)

    def extra_repr(self) -> str:
        return (
            f"distractors='{self.distractors}', steps={self.steps}, temperature={self.temperature}, "
            f"use_queries={self.transductive}"
        )
