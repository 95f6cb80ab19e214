"""Random episodes of frame features, for the heads that compare frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Episodes:
    """E episodes of unequal shots: support (E, S, t, C), labels (E, S), query (E, Q, t, C)."""

    support: Tensor
    labels: Tensor
    query: Tensor

    def changed(self, **parts: Tensor) -> Episodes:
        return Episodes(**{**vars(self), **parts})

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.support, self.labels, self.query


def random_episodes(
    shots: tuple[int, ...] = (3, 1, 2), n_query: int = 4, frames: int = 5, channels: int = 6, seed: int = 0
) -> Episodes:
    """Two episodes in float64 whose rows stand in another random order in each."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    labels = torch.stack([labels[torch.randperm(len(labels), generator=generator)] for _ in range(2)])
    support = torch.randn(*labels.shape, frames, channels, generator=generator, dtype=torch.float64)
    query = torch.randn(2, n_query, frames, channels, generator=generator, dtype=torch.float64)
    return Episodes(support, labels, query)


def padded(data: Episodes, rows: int = 2) -> Episodes:
    """The same episodes with rows of NaN labelled -1, one in front and the others at the end."""
    junk = torch.full((2, 1, *data.support.shape[2:]), float("nan"), dtype=torch.float64)
    support = torch.cat([junk, data.support, *[junk] * (rows - 1)], dim=1)
    minus = data.labels.new_full((2, 1), -1)
    return data.changed(support=support, labels=torch.cat([minus, data.labels, *[minus] * (rows - 1)], dim=1))


def shuffled(data: Episodes, seed: int) -> Episodes:
    """The same episodes, their supports in another order."""
    order = torch.randperm(data.labels.shape[1], generator=torch.Generator().manual_seed(seed))
    return data.changed(support=data.support[:, order], labels=data.labels[:, order])
