"""SimpleShot (Wang et al., 2019): nearest centroid after centring and normalising the features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from episodes.class_rows import (
    at_least_float32,
    check_episodes,
    class_means,
    drop_padding,
    mask_absent,
    squared_distances,
    unit,
)

VARIANTS = ("UN", "L2N", "CL2N")


class SimpleShot(nn.Module):
    """Score a query by minus its squared Euclidean distance to the mean of the transformed support of every class.

    variant: "UN" takes the features as they are, "L2N" (default) divides each by its L2 norm, "CL2N" takes a centre
        off first. The mean of a class is not normalised again.
    centre: of CL2N, (D,): the mean feature of the *base* classes, as in the paper, for instance
        `extract_features(encoder, base_pictures).mean(0)`. None: where no base features are at hand, the mean of the
        episode's class means stands in for it, which uses the support alone and is not the paper's centre.
    """

    def __init__(self, variant: str = "L2N", centre: Tensor | Sequence[float] | None = None):
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant '{variant}' of SimpleShot; known: {', '.join(VARIANTS)}")
        if centre is not None and variant != "CL2N":
            raise ValueError(f"SimpleShot takes a centre with variant CL2N alone, not with {variant}")
        self.variant = variant
        self.register_buffer("centre", None if centre is None else torch.as_tensor(centre), persistent=False)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            support = drop_padding(support, support_labels)
            if self.variant == "CL2N":
                centre = self._centre(support, support_labels, n_way)
                support, query = support - centre, query - centre
            if self.variant != "UN":
                support, query = unit(support), unit(query)
            prototypes, counts = class_means(support, support_labels, n_way)
            return mask_absent(-squared_distances(query, prototypes), counts)

    def _centre(self, support: Tensor, support_labels: Tensor, n_way: int) -> Tensor:
        if self.centre is None:
            means, counts = class_means(support, support_labels, n_way)
            present = (counts > 0).to(means.dtype).unsqueeze(-1)
            return means.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
        if self.centre.shape != support.shape[2:]:
            raise ValueError(
                f"the centre of SimpleShot {tuple(self.centre.shape)} and a feature {tuple(support.shape[2:])} differ: "
                "take the mean of base features of the same encoder"
            )
        return self.centre.to(support)

    @property
    def note(self) -> str | None:
        """What the features are centred on, for logs and tables; None where they are not."""
        if self.variant != "CL2N":
            return None
        return (
            "features centred on the mean of the base classes"
            if self.centre is not None
            else "features centred on the mean of each episode's support: no base classes were given"
        )

    def extra_repr(self) -> str:
        return f"variant='{self.variant}', centre={'support' if self.centre is None else 'given'}"
