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
    *,
    unknown_images: Any = None,
    unknown_predictions: Any = (),
    unlabelled_images: Any = None,
    unlabelled_labels: Any = (),
) -> Figure:
    """Draw one row a class: right queries in a thin teal frame, wrong ones in a thick dashed one with their wrong name.

    support_images (S, 3, H, W), query_images (Q, 3, H, W): uint8.  support_labels (S,), query_labels (Q,),
    predictions (Q,): numbers into class_names; label -1 marks padding, which is not drawn.
    Supports and queries may come in any order, and classes may have different numbers of them.
    unlabelled_images (M, 3, H, W), unlabelled_labels (M,): a section between support and queries; label -2 marks
        distractors, which stand in rows of their own below the classes.
    unknown_images (U, 3, H, W), unknown_predictions (U,): queries of other classes, in rows below, with what was said.
    """
    support, query = _pictures(support_images, "support"), _pictures(query_images, "query")
    support_labels, query_labels, predictions = map(as_array, (support_labels, query_labels, predictions))
    if len(support) != len(support_labels) or not len(query) == len(query_labels) == len(predictions):
        raise UserError(
            f"{len(support)} support images with {len(support_labels)} labels and {len(query)} query images with "
            f"{len(query_labels)} labels and {len(predictions)} predictions are no episode"
        )
    names, n_way = short_names(class_names), len(class_names)
    further, truth = _further(unlabelled_images, unlabelled_labels, "unlabelled")
    unknown, said_unknown = _further(unknown_images, unknown_predictions, "unknown")
    widths = [_most(labels, n_way) for labels in (support_labels, query_labels)]
    if len(further):
        widths.insert(1, max(_most(truth, n_way), 2))
    starts = np.cumsum([0.0, *(width + 0.6 for width in widths)])
    others = max(-(-int((truth == -2).sum()) // widths[1]), -(-len(unknown) // widths[-1]))
    margin = 0.45 + 0.2 * max(len(cut(name, 18)) for name in [*names, "other classes" if others else ""])
    width, height = starts[-1] - 0.6 + margin, _CELL * (n_way + others)
    scale = float(np.clip(13 / width, 0.32, 0.8))
    score = _score(predictions, query_labels, len(unknown))
    figure = new_figure(
        max(scale * width, 3) + 0.2, scale * (height + 0.5) + 0.5, f"{title}  ·  {score}" if title else score
    )
    axes = figure.subplots()
    for row in range(n_way):
        top = row * _CELL
        _name_row(axes, names[row], top)
        for section, (images, labels) in enumerate(((support, support_labels), (further, truth))):
            for column, image in enumerate(images[labels == row]):
                _draw(axes, image, starts[section] + column, top)
        for column, number in enumerate(np.flatnonzero(query_labels == row)):
            said, x = int(predictions[number]), starts[len(widths) - 1] + column
            _draw(axes, query[number], x, top)
            _frame(axes, x, top, said == row)
            if said != row:
                _name_below(axes, f"✗ {_class(names, said)}", x, top, WRONG)
    if others:
        top = n_way * _CELL
        _name_row(axes, "other classes", top)
        for place, image in enumerate(further[truth == -2]):
            _draw(axes, image, starts[1] + place % widths[1], top + place // widths[1] * _CELL)
        for place, image in enumerate(unknown):
            x, y = starts[len(widths) - 1] + place % widths[-1], top + place // widths[-1] * _CELL
            _draw(axes, image, x, y)
            _name_below(axes, f"→ {_class(names, int(said_unknown[place]))}", x, y, MUTED)
        axes.axhline(top - 0.17, color=RULE, linewidth=1)
    words = ["support", "unlabelled", "queries"] if len(widths) == 3 else ["support", "queries"]
    for start, word in zip(starts, words, strict=False):
        if start:
            axes.axvline(start - 0.3, color=RULE, linewidth=1)
        axes.text(start + 0.04, -0.12, word, ha="left", va="bottom", fontsize=8, color=MUTED)
    axes.set(xlim=(-margin, starts[-1] - 0.6), ylim=(height, -0.5), aspect="equal")
    axes.axis("off")
    return save_figure(figure, path)


def _score(predictions: np.ndarray, labels: np.ndarray, n_unknown: int) -> str:
    real = labels >= 0
    right = int((predictions[real] == labels[real]).sum())
    unknown = f", and {n_unknown} unknown ones" if n_unknown else ""
    return f"{right} of the {real.sum()} queries shown right ({100 * right / max(real.sum(), 1):.1f} %){unknown}"


def _most(labels: np.ndarray, n_way: int) -> int:
    """Return the number of pictures in the longest row, 1 at least."""
    return int(np.bincount(labels[labels >= 0], minlength=n_way).max(initial=1))


def _further(images: Any, numbers: Any, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Check the pictures of a section that an episode may lack, and a number for each of them."""
    if images is None:
        return np.empty((0, 1, 1, 3), dtype=np.uint8), np.empty(0, dtype=np.int64)
    images, numbers = _pictures(images, which), as_array(numbers)
    if len(images) != len(numbers):
        raise UserError(f"{len(images)} {which} images with {len(numbers)} labels or predictions are no episode")
    return images, numbers


def _class(names: Sequence[str], label: int) -> str:
    return cut(names[label], 9) if 0 <= label < len(names) else "?"


def _name_row(axes, name: str, top: float) -> None:
    axes.text(-0.15, top + 0.5, cut(name, 18), ha="right", va="center", fontsize=10, color=INK, fontfamily=FONTS)


def _name_below(axes, text: str, x: float, top: float, colour: str) -> None:
    axes.text(x + 0.5, top + 0.99, text, ha="center", va="top", fontsize=7.5, color=colour, fontfamily=FONTS)


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
