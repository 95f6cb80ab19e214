"""The table of video backbones: clips (B, 3, T, H, W) -> maps (B, C, t, h, w)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from backbones.errors import UserError, nearest
from backbones.video_vit import VideoViT
from backbones.zoo import create_backbone

# Sizes of VideoMAE.
VIDEO_VITS: dict[str, dict[str, Any]] = {
    "video_vit_small": {"dim": 384, "depth": 12, "heads": 6, "input_size": 112},
    "video_vit_base": {"dim": 768, "depth": 12, "heads": 12, "input_size": 224},
    "video_vit_large": {"dim": 1024, "depth": 24, "heads": 16, "input_size": 224},
    "video_vit_huge": {"dim": 1280, "depth": 32, "heads": 16, "input_size": 224},
    "video_vit_giant": {
        "dim": 1408,
        "depth": 40,
        "heads": 16,
        "mlp_ratio": 48 / 11,
        "patch_size": 14,
        "input_size": 224,
    },
}
FRAMEWISE = "frames"


class FrameByFrame(nn.Module):
    """A 2-D backbone on every frame: clips (B, 3, T, H, W) -> map (B, C, T, h, w).

    backbone: (B, 3, H, W) -> (B, C, h, w), from `create_backbone`. Pool the result over time and space with
    `moments.GlobalAveragePool`, or hand it to a head that aligns frames.
    """

    def __init__(self, backbone: nn.Module, frames: int = 8) -> None:
        super().__init__()
        self.backbone, self.frames = backbone, frames
        self.out_channels, self.input_size = backbone.out_channels, backbone.input_size
        self.mean, self.std = backbone.mean, backbone.std

    def forward(self, clips: Tensor) -> Tensor:
        """Run all frames of all clips as one batch."""
        maps = self.backbone(clips.transpose(1, 2).flatten(0, 1))
        return maps.unflatten(0, (clips.shape[0], clips.shape[2])).transpose(1, 2)


def list_video_backbones() -> list[str]:
    """Return the names that `create_video_backbone` knows; `frames:NAME` stands for any image backbone."""
    return [*VIDEO_VITS, f"{FRAMEWISE}:NAME"]


def create_video_backbone(name: str, **options) -> nn.Module:
    """Build a video backbone, with attributes `out_channels`, `mean`, `std`, `input_size` and `frames`.

    name: a key of `VIDEO_VITS`, or `frames:NAME` for an image backbone of `create_backbone` applied frame by frame.
    options: arguments of `VideoViT`, which win over the table's, or of the image backbone.
    Raises UserError for an unknown name or option.
    """
    kind, _, inner = name.partition(":")
    if kind == FRAMEWISE and inner:
        frames = options.pop("frames", 8)
        return FrameByFrame(create_backbone(inner, **options), frames)
    if name not in VIDEO_VITS:
        raise UserError(f"video backbone '{name}' is unknown{nearest(name, [*VIDEO_VITS, 'frames:resnet18'])}")
    try:
        return VideoViT(**{**VIDEO_VITS[name], **options})
    except (TypeError, ValueError) as error:
        raise UserError(f"video backbone '{name}' does not take these options: {error}") from error
