"""Pictures beside their heat maps, with the likeliest classes in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from episodes.figures import FONTS, INK, MUTED, cut, new_figure, save_figure

COLUMNS = 3
ON_PAGE = 18


def plot_heat(
    pixels: np.ndarray,
    heat: np.ndarray,
    files: Sequence[str],
    answers: Sequence[Sequence[tuple[str, float]]],
    path: str | Path | None = None,
    title: str = "",
) -> Figure:
    """Draw one page.

    pixels: (N, H, W, 3) uint8. heat: (N, H, W) from 0 to 1. answers: N lists of (class, probability), likeliest first.
    """
    rows = -(-len(pixels) // COLUMNS)
    figure = new_figure(4.6 * COLUMNS, 1.9 * rows + 0.4, title)
    grid = figure.subplots(rows, 3 * COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for number, (image, warm, file, said) in enumerate(zip(pixels, heat, files, answers, strict=True)):
        row, column = divmod(number, COLUMNS)
        plain, shown, words = grid[row, 3 * column : 3 * column + 3]
        plain.imshow(image)
        plain.set_title(cut(file, 24), fontsize=7, color=MUTED, fontfamily=FONTS, pad=2, loc="left")
        shown.imshow(image.mean(2), cmap="gray", vmin=0, vmax=255)
        shown.imshow(warm, cmap="inferno", alpha=0.25 + 0.5 * warm, vmin=0, vmax=1)
        shown.set_title(f"for {cut(said[0][0], 18)}", fontsize=7, color=MUTED, fontfamily=FONTS, pad=2, loc="left")
        for line, (name, share) in enumerate(said[:5]):
            look = {"weight": "bold", "color": INK} if line == 0 else {"color": MUTED}
            text = f"{100 * share:3.0f} %  {cut(name, 20)}".replace("$", r"\$")
            words.text(0, 0.95 - 0.17 * line, text, va="top", fontsize=8, fontfamily=FONTS, **look)
    return save_figure(figure, path)
