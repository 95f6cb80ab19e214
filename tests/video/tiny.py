"""Networks small enough for tests, in float64."""

from __future__ import annotations

import torch

from backbones.video_vit import VideoViT
from video import TamtModel, create_tamt


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tiny_vit(seed: int = 0, **options) -> VideoViT:
    torch.manual_seed(seed)
    defaults = {"dim": 24, "depth": 3, "heads": 3, "patch_size": 4, "input_size": 8, "frames": 8}
    return VideoViT(**{**defaults, **options}).double()


def tiny_tamt(seed: int = 0, vit: VideoViT | None = None, **options) -> TamtModel:
    vit = vit or tiny_vit(seed)
    torch.manual_seed(seed + 1)
    options.setdefault("head", {"groups": 2})
    return create_tamt(vit, **options).double()
