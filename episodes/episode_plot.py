"""A picture of one episode: the supports of each class on the left, its queries with the predictions on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .errors import UserError
from .figures import FONTS, INK, MUTED, RIGHT, RULE, WRONG, as_array, cut, new_figure, save_figure
from .names import short_names

_CELL = 1.34  # height of a row over that of a picture: leaves room for the name of a wrong prediction


def plot_episode(
    support_images: Any,
    support_labels: Any,
    query_images: Any,
    query_labels: Any,
    predictions: Any,
    class_names: Sequence[str],
    path: str | Path | None = None,
    title: str = "",
) -> Figure:
    """Draw one row a class: right queries in a thin teal frame, wrong ones in a thick dashed one with their wrong name.

    support_images (S, 3, H, W), query_images (Q, 3, H, W): uint8.  support_labels (S,), query_labels (Q,),
    predictions (Q,): numbers into class_names; label -1 marks padding, which is not drawn.
    Supports and queries may come in any order, and classes may have different numbers of them.
    """
    support, query = _pictures(support_images, "support"), _pictures(query_images, "query")
    support_labels, query_labels, predictions = map(as_array, (support_labels, query_labels, predictions))
    if len(support) != len(support_labels) or not len(query) == len(query_labels) == len(predictions):
        raise UserError(
            f"{len(support)} support images with {len(support_labels)} labels and {len(query)} query images with "
            f"{len(query_labels)} labels and {len(predictions)} predictions are no episode"
        )
    names, n_way = short_names(class_names), len(class_names)
    most = [
        np.bincount(labels[labels >= 0], minlength=n_way).max(initial=1) for labels in (support_labels, query_labels)
    ]
    margin = 0.45 + 0.2 * max(len(cut(name, 18)) for name in names)
    width, height = most[0] + most[1] + 0.6 + margin, _CELL * n_way
    scale = float(np.clip(13 / width, 0.32, 0.8))
    real = query_labels >= 0
    right = int((predictions[real] == query_labels[real]).sum())
    score = f"{right} of {real.sum()} right ({100 * right / max(real.sum(), 1):.1f} %)"
    figure = new_figure(
        max(scale * width, 3) + 0.2, scale * (height + 0.5) + 0.5, f"{title}  ·  {score}" if title else score
    )
    axes = figure.subplots()
    for row in range(n_way):
        top = row * _CELL
        axes.text(
            -0.15, top + 0.5, cut(names[row], 18), ha="right", va="center", fontsize=10, color=INK, fontfamily=FONTS
        )
        for column, image in enumerate(support[support_labels == row]):
            _draw(axes, image, column, top)
        left = most[0] + 0.6
        for column, number in enumerate(np.flatnonzero(query_labels == row)):
            said, x = int(predictions[number]), left + column
            _draw(axes, query[number], x, top)
            _frame(axes, x, top, said == row)
            if said != row:
                label = cut(names[said], 9) if 0 <= said < n_way else "?"
                axes.text(x + 0.5, top + 0.99, f"✗ {label}", ha="center", va="top", fontsize=7.5, color=WRONG,
                          fontfamily=FONTS)  # fmt: skip
    axes.axvline(most[0] + 0.3, color=RULE, linewidth=1)
    for x, word in ((0, "support"), (most[0] + 0.6, "queries")):
        axes.text(x + 0.04, -0.12, word, ha="left", va="bottom", fontsize=8, color=MUTED)
    axes.set(xlim=(-margin, most[0] + most[1] + 0.6), ylim=(height, -0.5), aspect="equal")
    axes.axis("off")
    return save_figure(figure, path)


def _pictures(images: Any, which: str) -> np.ndarray:
    """Check images and put their channels last: (N, H, W, 3)."""
    images = as_array(images)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise UserError(
            f"{which} images must be uint8 (N, 3, H, W), not {images.dtype} {images.shape}: "
            "draw them as they are before normalisation"
        )
    return images.transpose(0, 2, 3, 1)


def _draw(axes, image: np.ndarray, x: float, top: float) -> None:
    smooth = "nearest" if max(image.shape[:2]) <= 32 else "antialiased"
    axes.imshow(image, extent=(x + 0.06, x + 0.94, top + 0.94, top + 0.06), interpolation=smooth)


def _frame(axes, x: float, top: float, right: bool) -> None:
    look = (
        {"edgecolor": RIGHT, "linewidth": 1.2}
        if right
        else {"edgecolor": WRONG, "linewidth": 2, "linestyle": (0, (2, 1.2))}
    )
    axes.add_patch(Rectangle((x + 0.06, top + 0.06), 0.88, 0.88, facecolor="none", **look))
