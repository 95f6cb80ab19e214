"""What a masked auto-encoder sees, and what it makes of it, as film strips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from backbones.video_mae import MaskedAutoencoder
from backbones.video_vit import TubeletEmbed
from episodes.strips import plot_strips

GREY = 0.5  # of what is hidden


def plain_clips(clips: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Undo the normalisation of clips (N, 3, T, H, W): uint8."""
    shape = (-1, 1, 1, 1)
    return as_bytes(clips.cpu() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape))


def as_bytes(pixels: Tensor) -> np.ndarray:
    """Return pixels 0..1 as uint8."""
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8).numpy()


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, clips: Tensor, mask: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Return what is visible of clips and what the model makes of the rest: both (N, 3, T, H, W), pixels 0..1.

    clips: (N, 3, T, H, W), normalised. mask: (N, tokens), True = hidden.
    The model predicts tubelets without their mean and deviation, which are given back from the true ones: without
    them there is nothing to look at.
    """
    embed, shape = model.encoder.patch_embed, (3, *model.encoder.patch_embed.size)
    predicted = model.predict(clips, mask)[0].float().unflatten(2, (-1, 3)).transpose(2, 3)  # (N, n, 3, pixels)
    scale, shift = (clips.new_tensor(values).view(3, 1) for values in (model.std, model.mean))
    tubes = embed.tubes(clips).flatten(3) * scale + shift
    hidden = tubes[mask]
    made = predicted.flatten(0, 1) * (hidden.std(2, keepdim=True) + eps) + hidden.mean(2, keepdim=True)
    whole, seen = tubes.clone(), tubes.clone()
    whole[mask], seen[mask] = made, GREY
    return tuple(join_tubes(one.unflatten(3, shape[1:]), embed, clips.shape) for one in (seen, whole))


def join_tubes(tubes: Tensor, embed: TubeletEmbed, shape: Sequence[int]) -> Tensor:
    """Put tubelets (N, n, 3, t, p, p) together to clips of `shape` (N, 3, T, H, W): undoes `TubeletEmbed.tubes`."""
    grid = embed.grid(torch.empty(shape, device="meta"))
    return tubes.unflatten(1, grid).permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(shape)


def plot_reconstruction(
    model: MaskedAutoencoder, clips: Tensor, mask: Tensor, path: str | Path | None = None, title: str = ""
) -> Figure:
    """Draw clips in rows of three strips: the clip, what is left of it, what the model makes of that."""
    device = next(model.parameters()).device
    seen, made = reconstruct(model, clips.to(device), mask.to(device))
    true = plain_clips(clips, model.mean, model.std)
    rows = np.stack([true, as_bytes(seen.cpu()), as_bytes(made.cpu())], axis=1)
    names = ["clip", f"visible ({100 * (~mask).float().mean():.0f} %)", "reconstructed"] * len(rows)
    return plot_strips(rows.reshape(-1, *rows.shape[2:]), names, path, title, columns=3)
