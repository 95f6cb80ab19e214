"""The models of few-shot training: an image encoder, with a linear classifier or with an episode head."""

from __future__ import annotations

from torch import Tensor, nn

from backbones.encoder import Encoder
from fewshot.losses import cross_entropy


def _keep_frozen(model: nn.Module) -> None:
    """Put a backbone that does not train back into eval mode, so that its batch norm keeps its statistics."""
    if not any(parameter.requires_grad for parameter in model.backbone.parameters()):
        model.backbone.eval()


class PretrainModel(nn.Module):
    """Encoder, dropout and a linear classifier over the base classes (DeepBDC, section 3.3).

    State dict: `backbone.*`, `pool.*`, `classifier.*`. The encoder's parts are shared, not copied.
    """

    def __init__(self, encoder: Encoder, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone, self.pool = encoder.backbone, encoder.pool
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.out_dim, num_classes)
        nn.init.zeros_(self.classifier.bias)

    def train(self, mode: bool = True) -> PretrainModel:
        """Switch the mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        _keep_frozen(self)
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return representations (B, D), before dropout."""
        return self.pool(self.backbone(images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> class logits (B, num_classes). Whole maps are averaged for the classifier."""
        features = self.features(images)
        if features.dim() > 2:
            features = features.flatten(2).mean(2)
        return self.classifier(self.dropout(features))


class EpisodeModel(nn.Module):
    """Encoder and head on whole episodes.

    All images of a step, support and query of every episode in it, pass the encoder as *one* batch, so that in train
    mode batch norm mixes them, as in the published training.
    A head that adapts the network (`fewshot.maml`) gets the images instead, episode by episode.
    State dict: `backbone.*`, `pool.*`, and `head.*` where the head learns.
    """

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.pool, self.head = encoder.backbone, encoder.pool, head

    def train(self, mode: bool = True) -> EpisodeModel:
        """Switch the mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        _keep_frozen(self)
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return representations (B, ...) of images (B, 3, H, W)."""
        return self.pool(self.backbone(images))

    def forward(
        self,
        images: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        query_mask: Tensor | None = None,
        unlabelled_mask: Tensor | None = None,
    ) -> Tensor:
        """Score episodes.

        images: (E, S + Q + M, 3, H, W), the support first, unlabelled images last. support_labels: (E, S), -1 for
            padding. query_mask: (E, Q), False for padding; for transductive heads alone.
        unlabelled_mask: (E, M), False for padding; None where M is 0. Heads that are not semi-supervised do without.
        Returns logits (E, Q, K).
        """
        shots, further = support_labels.shape[1], 0 if unlabelled_mask is None else unlabelled_mask.shape[1]
        if further and not getattr(self.head, "semi_supervised", False):
            images, further = images[:, :-further], 0
        if getattr(self.head, "adapts", False):  # the network passes its images anew after every inner step
            encoder, support, query = Encoder(self.backbone, self.pool), images[:, :shots], images[:, shots:]
            return self.head(encoder, support, support_labels, query, n_way=n_way, query_mask=query_mask)
        features = self.features(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        extra = {"query_mask": query_mask} if getattr(self.head, "transductive", False) else {}
        support, query, unlabelled = features.split([shots, features.shape[1] - shots - further, further], dim=1)
        if further:
            extra |= {"unlabelled": unlabelled, "unlabelled_mask": unlabelled_mask}
        return self.head(support, support_labels, query, n_way=n_way, **extra)


def episode_step(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss and accuracy of a batch of episodes (see `episodes.loaders.EpisodeImages`)."""
    query_labels = batch["query_labels"]
    masks = {"query_mask": query_labels >= 0, "unlabelled_mask": batch.get("unlabelled_mask")}
    logits = model(batch["images"], batch["support_labels"], **masks)
    return _loss_and_accuracy(logits, query_labels)


def classification_step(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss and accuracy of a batch of labelled images (see `episodes.loaders.BatchImages`)."""
    return _loss_and_accuracy(model(batch["images"]), batch["labels"])


def _loss_and_accuracy(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    counted = labels >= 0
    right = (logits.detach().argmax(-1) == labels) & counted
    return {"loss": cross_entropy(logits, labels), "accuracy": right.sum() / counted.sum()}
