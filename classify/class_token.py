"""The plain head of a vision transformer, beside the second-order ones."""

from __future__ import annotations

from torch import Tensor, nn


class ClassTokenHead(nn.Module):
    """Logits from the class token alone: tokens (B, 1 + N, C), class token first -> (B, num_classes)."""

    class_token = True

    def __init__(self, dim: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout, self.cls_fc = nn.Dropout(dropout), nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.cls_fc.weight, std=0.02)
        nn.init.zeros_(self.cls_fc.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        return self.cls_fc(self.dropout(tokens[:, 0]))
