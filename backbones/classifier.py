"""Image classifiers: a backbone, a pooling layer and one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from moments import GlobalAveragePool


class ImageClassifier(nn.Module):
    """Class logits of images: classifier(dropout(pool(backbone(images)))).

    backbone: (B, 3, H, W) -> map (B, C, h, w), from `create_backbone`; its `mean`, `std`, `input_size` are passed on.
    pool: map -> (B, out_dim) with an attribute `out_dim`; None: average pooling.
    num_classes: outputs.
    dropout: on the pooled vector.

    State dict: `backbone.*`, `pool.*`, `classifier.*`; `backbones.released` reads published files into it.
    """

    def __init__(
        self, backbone: nn.Module, pool: nn.Module | None = None, num_classes: int = 1000, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = GlobalAveragePool(backbone.out_channels) if pool is None else pool
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.pool.out_dim, num_classes)
        self.mean, self.std, self.input_size = backbone.mean, backbone.std, backbone.input_size

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled vectors (B, out_dim), before dropout."""
        return self.pool(self.backbone(images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        return self.classifier(self.dropout(self.features(images)))
