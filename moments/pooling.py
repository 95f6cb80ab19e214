"""First-order pooling, the plain counterpart of the second-order layers."""

from __future__ import annotations

from torch import Tensor, nn


class GlobalAveragePool(nn.Module):
    """Spatial mean: (B, C, H, W) or (B, C, M) -> (B, C)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_dim = in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Average over all positions."""
        return x.flatten(2).mean(dim=2)
