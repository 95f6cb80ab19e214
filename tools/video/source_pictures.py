"""Pictures of a source training: clips, reconstructions, confusion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from backbones.video_mae import MaskedAutoencoder
from backbones.video_vit import Grid
from episodes.confusion_plot import plot_confusion
from episodes.strips import plot_strips
from tools.video.validation import ClassValidator
from video.clips import Clips
from video.pretraining import OrderedClips, SourceBatches
from video.reconstruction_plot import plain_clips, plot_reconstruction


def draw_clips(batches: SourceBatches, path: Path, augment: str, most: int = 8) -> None:
    """Draw the first training clips as the network sees them."""
    clips, labels = batches.first(most)
    names = [batches.pictures.dataset.class_names[label] for label in labels]
    pixels = plain_clips(clips, batches.pictures.mean, batches.pictures.std)
    plot_strips(pixels, names, path, f"training clips, augmentation {augment}")


def draw_reconstruction(
    model: MaskedAutoencoder, clips: Clips, grid: Grid, mask_ratio: float, path: Path, most: int = 4
) -> None:
    """Draw what the model makes of some masked clips, spread over the data set."""
    items = np.unique(np.linspace(0, len(clips.dataset) - 1, most).round().astype(int))
    batches = OrderedClips(clips, 1, grid=grid, mask_ratio=mask_ratio)
    parts = [batches[int(item)] for item in items]
    shown, mask = (torch.cat([part[key] for part in parts]) for key in ("images", "mask"))
    plot_reconstruction(model.eval(), shown, mask, path, "masked clips and their reconstruction")


def draw_confusion(model: nn.Module, validate: ClassValidator, path: Path, main: bool = True) -> None:
    """Draw which class the model takes for which, on the validation videos; all processes call it."""
    validate(model.eval())
    if main:
        plot_confusion(validate.confusion, validate.class_names, path)
