"""A backbone with what pools its maps: the same for images and clips."""

from __future__ import annotations

from torch import Tensor, nn


class Encoder(nn.Module):
    """Backbone and pooling: images (B, 3, H, W) or clips (B, 3, T, H, W) -> representations (B, out_dim).

    backbone: gives maps (B, C, H, W) or (B, C, t, h, w). pool: takes them; the identity keeps whole maps.
    State dict: `backbone.*` and `pool.*`.
    """

    def __init__(self, backbone: nn.Module, pool: nn.Module) -> None:
        super().__init__()
        self.backbone, self.pool = backbone, pool

    @property
    def out_dim(self) -> int:
        """Length of a representation (channels, where the pool keeps frames or the map)."""
        return getattr(self.pool, "out_dim", None) or self.backbone.out_channels

    def forward(self, inputs: Tensor) -> Tensor:
        """Represent a batch of images or clips."""
        return self.pool(self.backbone(inputs))
