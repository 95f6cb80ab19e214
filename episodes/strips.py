"""Clips as film strips: a few frames of each side by side, in the order of time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .errors import UserError
from .figures import FONTS, INK, MUTED, as_array, cut, new_figure, save_figure
from .names import short_names

FRAMES = 6  # of a strip
_GAP = 0.03  # between frames, in heights of a frame


def shown_frames(count: int, most: int = FRAMES) -> np.ndarray:
    """Return which of `count` frames a strip shows, evenly spread with the first and the last among them."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


def strip_width(clips: np.ndarray) -> float:
    """Return the width of a strip of clips (N, 3, T, H, W), in heights of a frame, with the gap around pictures."""
    count, (height, width) = len(shown_frames(clips.shape[2])), clips.shape[3:]
    return 0.88 * (count * width + (count - 1) * _gap(height)) / height + 0.12


def as_strips(images: np.ndarray) -> np.ndarray:
    """Return clips uint8 (N, 3, T, H, W) as strips (N, H, W', 3), white between frames; images just with channels last.

    images: clips, or uint8 (N, 3, H, W).
    """
    if images.ndim == 4:
        return images.transpose(0, 2, 3, 1)
    frames = images[:, :, shown_frames(images.shape[2])].transpose(2, 0, 3, 4, 1)  # (F, N, H, W, 3)
    gap = np.full((len(images), images.shape[3], _gap(images.shape[3]), 3), 255, dtype=np.uint8)
    parts = [part for frame in frames for part in (frame, gap)]
    return np.concatenate(parts[:-1], axis=2)


def _gap(height: int) -> int:
    return max(1, round(_GAP * height))


def plot_strips(
    clips: Any,
    names: Sequence[str],
    path: str | Path | None = None,
    title: str = "",
    columns: int = 2,
    said: Sequence[str] | None = None,
) -> Figure:
    """Draw clips as film strips with a name above each.

    clips: uint8 (N, 3, T, H, W). names: N. said: N, a second text on the right of each name.
    Raises UserError for other shapes.
    """
    clips = as_array(clips)
    if clips.ndim != 5 or clips.shape[1] != 3 or clips.dtype != np.uint8 or len(clips) != len(names) or not len(clips):
        raise UserError(
            f"film strips need clips uint8 (N, 3, T, H, W) and N names, not {clips.dtype} {clips.shape} "
            f"and {len(names)}"
        )
    strips, wide, columns = as_strips(clips), strip_width(clips), min(columns, len(clips))
    rows, pitch, step = -(-len(clips) // columns), 1.42, wide + 0.4
    figure = new_figure(min(14.0, 0.95 * step * columns), 1, title)
    axes = figure.subplots()
    for number, strip in enumerate(strips):
        row, column = divmod(number, columns)
        x, y = column * step, row * pitch
        axes.text(x + 0.06, y - 0.02, cut(short_names(names)[number], 40), ha="left", va="bottom", fontsize=9,
                  color=INK, fontfamily=FONTS)  # fmt: skip
        if said is not None:
            axes.text(x + wide - 0.06, y - 0.02, said[number], ha="right", va="bottom", fontsize=8, color=MUTED,
                      fontfamily=FONTS)  # fmt: skip
        smooth = "nearest" if strip.shape[0] <= 32 else "antialiased"
        axes.imshow(strip, extent=(x + 0.06, x + wide - 0.06, y + 0.94, y + 0.06), interpolation=smooth)
    width = step * columns - 0.4
    axes.set(xlim=(0, width), ylim=(rows * pitch - 0.4, -0.35), aspect="equal")
    axes.axis("off")
    inches = figure.get_size_inches()[0]
    figure.set_size_inches(inches, inches * (rows * pitch + 0.05) / width + 0.45)
    return save_figure(figure, path)
