"""DropBlock: dropout of whole squares of a feature map (Ghiasi et al., NeurIPS 2018), as few-shot ResNets use it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block_mask(seeds: Tensor, block_size: int) -> Tensor:
    """Grow every seed into a dropped square.

    seeds: (B, C, H-b+1, W-b+1), non-zero where a b x b square starts (its top left corner).
    Returns (B, C, H, W) in the dtype of `seeds`: 0 inside a square, 1 elsewhere.
    """
    padded = F.pad(seeds, [block_size - 1] * 4)
    return 1 - F.max_pool2d(padded, kernel_size=block_size, stride=1)


def drop_blocks(x: Tensor, seeds: Tensor, block_size: int) -> Tensor:
    """Zero the squares that start at `seeds` and scale the rest by size / survivors; shapes as in `block_mask`."""
    mask = block_mask(seeds, block_size)
    return x * mask * (mask.numel() / mask.sum().clamp(min=1))  # nothing may be left of a tiny map


class DropBlock(nn.Module):
    """DropBlock whose strength grows with the number of training steps; the identity in eval mode.

    drop_rate: final share p of dropped cells. The keep rate after n calls is max(1 - p n / ramp_steps, 1 - p).
    block_size: side of the square in cells, reduced to the map's shorter side where that is smaller.
    ramp_steps: calls until the full rate.
    count_eval: also count calls in eval mode, as the official code does.

    The released few-shot code drops fewer cells whenever the number of seeds shares a factor with block_size^2
    (deepbdc specification, section 4.1); here every seed drops its whole square.
    """

    calls: Tensor

    def __init__(
        self, drop_rate: float, block_size: int = 5, ramp_steps: int = 40_000, count_eval: bool = False
    ) -> None:
        super().__init__()
        self.drop_rate, self.block_size, self.ramp_steps, self.count_eval = (
            drop_rate,
            block_size,
            ramp_steps,
            count_eval,
        )
        # Kept in checkpoints: a resumed run must go on with the same rate.
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Drop squares of x (B, C, H, W), each channel with its own."""
        if self.training or self.count_eval:
            self.calls += 1
        if not self.training or self.drop_rate == 0:
            return x
        height, width = x.shape[-2:]
        side = min(self.block_size, height, width)
        dropped = (self.drop_rate * self.calls / self.ramp_steps).clamp(max=self.drop_rate)
        gamma = dropped / side**2 * height**2 / (height - side + 1) ** 2
        seeds = torch.rand(*x.shape[:2], height - side + 1, width - side + 1, device=x.device) < gamma
        return drop_blocks(x, seeds.to(x.dtype), side)

    def extra_repr(self) -> str:
        """Show the settings in printed models."""
        return f"drop_rate={self.drop_rate}, block_size={self.block_size}, ramp_steps={self.ramp_steps}"
