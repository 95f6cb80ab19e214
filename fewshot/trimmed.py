"""Episodes of unequal size, cut into blocks of about equal size: what each block holds is real, hardly any padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """B episodes of a batch, with the first s rows and k classes of each when the real ones are put in front.

    episodes: (B,) numbers in the batch; rows: (B, s) and classes (B, k), positions in the batch's rows and classes;
    labels: (B, s), in 0..k-1, -1 for the padding that is left where episodes of the block differ.
    """

    episodes: Tensor
    rows: Tensor
    classes: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> Tensor:
        """Return the block's rows (B, s, ...) of `rows` (E, S, ...)."""
        return rows[self.episodes.unsqueeze(1), self.rows]

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write `part` (B, s, k) or (B, k) where it belongs in `whole`, (E, S, K) or (E, K)."""
        if part.dim() == 2:
            whole[self.episodes.unsqueeze(1), self.classes] = part
        else:
            whole[self.episodes[:, None, None], self.rows.unsqueeze(2), self.classes.unsqueeze(1)] = part


def trimmed_blocks(labels: Tensor, n_way: int, numbers: int) -> list[Block]:
    """Cut E episodes, labels (E, S) with -1 for padding, into blocks of like size.

    numbers: the largest B * s^2 * k of a block; a single episode may be larger. The sum over all blocks of what
    padding costs stays near that as well, since the episodes are sorted by their rows first.
    """
    real = labels >= 0
    present = (labels.unsqueeze(-1) == torch.arange(n_way, device=labels.device)).any(1)  # (E, K)
    row_order = (~real).long().argsort(dim=1, stable=True)
    class_order = (~present).long().argsort(dim=1, stable=True)
    rank = present.cumsum(1) - 1
    renumbered = torch.where(real, rank.gather(1, labels.clamp(min=0).long()), -1)

    n_rows, n_classes = real.sum(1).clamp(min=1), present.sum(1).clamp(min=1)
    order = (n_rows * (n_way + 1) + n_classes).argsort(descending=True, stable=True)
    sizes = torch.stack([n_rows, n_classes], 1)[order].cpu()  # the only wait for the device
    blocks, start = [], 0
    while start < len(order):
        width = int(sizes[start, 0])  # the widest comes first
        most_classes = sizes[start:, 1].cummax(0).values
        costs = torch.arange(1, len(most_classes) + 1) * width**2 * most_classes
        count = max(1, int((costs <= numbers).sum()))
        episodes = order[start : start + count]
        rows = row_order[episodes, :width]
        blocks.append(
            Block(
                episodes,
                rows,
                class_order[episodes, : int(most_classes[count - 1])],
                renumbered[episodes.unsqueeze(1), rows],
            )
        )
        start += count
    return blocks
