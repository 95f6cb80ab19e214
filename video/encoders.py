"""Clips to representations in two steps: what is frozen (`stem`, the same for every target) and what follows it.

Every encoder of videos has `backbone` and `pool`, as those of images have, and `stem`. With a deterministic view the
stem's output can be stored once; `AfterStem` is the same encoder on what was stored, sharing every weight.
"""

from __future__ import annotations

from torch import Tensor, nn

from backbones.encoder import Encoder
from video.tamt import TamtBackbone, TamtModel


class Channels(nn.Module):
    """Maps as they are stored, (B, t, h, w, C), to maps as networks have them, (B, C, t, h, w): a view."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.out_channels = like.out_channels

    def forward(self, stored: Tensor) -> Tensor:
        """Move the channels."""
        return stored.movedim(-1, 1)


class Tuned(nn.Module):
    """The adapted blocks of a `TamtBackbone` on stored tokens (B, t, h, w, C)."""

    def __init__(self, backbone: TamtBackbone) -> None:
        super().__init__()
        self.backbone, self.out_channels = backbone, backbone.out_channels

    def forward(self, stored: Tensor):
        """Run what is tuned; returns `Moments`."""
        return self.backbone.tune(stored.flatten(1, 3), tuple(stored.shape[1:4]))


def stem(encoder: TamtModel | Encoder, clips: Tensor) -> Tensor:
    """Return what the part in front of everything tuned says of clips: (B, t, h, w, C).

    For TAMT the tokens before the first adapted block, otherwise the whole backbone's.
    """
    if isinstance(encoder, TamtModel):
        return encoder.backbone.stem(clips).unflatten(1, encoder.backbone.vit.grid(clips))
    return encoder.backbone(clips).movedim(1, -1)


class AfterStem(nn.Module):
    """An encoder on what `stem` gave: (B, t, h, w, C) -> representations; shares the weights of `encoder`."""

    def __init__(self, encoder: TamtModel | Encoder) -> None:
        super().__init__()
        tamt = isinstance(encoder, TamtModel)
        self.backbone = Tuned(encoder.backbone) if tamt else Channels(encoder.backbone)
        self.pool, self.out_dim = encoder.pool, encoder.out_dim

    def forward(self, stored: Tensor) -> Tensor:
        """Represent what was stored."""
        return self.pool(self.backbone(stored))


def freeze_for(encoder: TamtModel | Encoder, tune: str) -> None:
    """Say what of an encoder is trained: 'adapters' and 'head' freeze the network, 'all' trains everything."""
    network = encoder.backbone.vit if isinstance(encoder, TamtModel) else encoder.backbone
    encoder.requires_grad_(True)
    network.requires_grad_(tune == "all")
    if isinstance(encoder, TamtModel) and tune == "head":
        encoder.backbone.adapters.requires_grad_(False)
