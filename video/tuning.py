"""Target tuning: which classes an episode has, as the released code draws them."""

from __future__ import annotations

import torch
from torch import Tensor


def random_classes(n_classes: int, n_way: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw the class numbers (n_way,) of one episode: the beginning of a random permutation of all classes.

    The released code's draw, for replaying its episodes from torch's generator; `episodes.EpisodeSampler` draws the
    episodes of this toolkit. Raises ValueError when there are too few classes.
    """
    if not 0 < n_way <= n_classes:
        raise ValueError(f"{n_way} classes can't be drawn from {n_classes}: lower n_way")
    return torch.randperm(n_classes, generator=generator)[:n_way]
