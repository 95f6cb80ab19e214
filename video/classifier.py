"""The supervised source stage: a video transformer, the average of its tokens, a norm and a linear layer."""

from __future__ import annotations

from timm.layers import trunc_normal_
from torch import Tensor, nn


class VideoClassifier(nn.Module):
    """Clips (B, 3, T, H, W) -> class logits (B, num_classes).

    backbone: anything that gives maps (B, C, ...) and has `out_channels`.
    init_scale: factor on the start weights of the linear layer, 0.001 in VideoMAE.
    State dict: `backbone.*`, `fc_norm.*`, `head.*`.
    """

    def __init__(
        self, backbone: nn.Module, num_classes: int, norm_eps: float = 1e-6, init_scale: float = 0.001
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc_norm = nn.LayerNorm(backbone.out_channels, eps=norm_eps)
        self.head = nn.Linear(backbone.out_channels, num_classes)
        trunc_normal_(self.head.weight, std=0.02)
        self.head.weight.data.mul_(init_scale)
        nn.init.zeros_(self.head.bias)

    def features(self, clips: Tensor) -> Tensor:
        """Return normalised averages (B, C)."""
        return self.fc_norm(self.backbone(clips).flatten(2).mean(2))

    def forward(self, clips: Tensor) -> Tensor:
        """Classify clips."""
        return self.head(self.features(clips))
