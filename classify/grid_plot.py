"""Pictures side by side with a name above each: what the network sees in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from episodes.figures import FONTS, INK, cut, new_figure, save_figure
from episodes.names import short_names


def to_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Undo the normalisation: (N, 3, H, W) float -> (N, H, W, 3) uint8."""
    centre, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    pixels = (images.detach().float().cpu() * scale + centre).clamp(0, 1)
    return (255 * pixels).round().byte().permute(0, 2, 3, 1).numpy()


def plot_grid(
    pixels: np.ndarray, names: Sequence[str], path: str | Path | None = None, title: str = "", columns: int = 8
) -> Figure:
    """Draw pictures (N, H, W, 3) uint8, each with a name."""
    rows = -(-len(pixels) // columns)
    figure = new_figure(1.25 * columns, 1.45 * rows + 0.4, title)
    for axes, image, name in zip(
        figure.subplots(rows, columns, squeeze=False).flat, pixels, short_names(names), strict=False
    ):
        axes.imshow(image, interpolation="nearest" if len(image) <= 32 else "antialiased")
        axes.set_title(cut(name, 18), fontsize=7, color=INK, fontfamily=FONTS, pad=2)
    for axes in figure.axes:
        axes.axis("off")
    return save_figure(figure, path)
