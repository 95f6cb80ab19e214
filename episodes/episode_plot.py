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
from .strips import as_strips, strip_width

_CELL = 1.34  # height of a row over that of a picture: leaves room for the name of a wrong prediction
_SHAPE = 1.5  # wanted width over height, where clips may be put side by side or below one another


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

    support_images (S, 3, H, W), query_images (Q, 3, H, W): uint8; or clips (S, 3, T, H, W), drawn as strips of `FRAMES`
        frames.  support_labels (S,), query_labels (Q,), predictions (Q,): numbers into class_names; label -1 marks
        padding, which is not drawn.
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
    longest = [_most(labels, n_way) for labels in (support_labels, query_labels)]
    if len(further):
        longest.insert(1, max(_most(truth, n_way), 2))
    wide = strip_width(support) if support.ndim == 5 else 1.0
    support, further, query, unknown = map(as_strips, (support, further, query, unknown))
    lines = 1 if wide == 1 else _lines(longest, n_way, wide)
    columns = [-(-count // lines) for count in longest]
    pitch = lines * _CELL + (0.3 if lines > 1 else 0.0)
    starts = np.cumsum([0.0, *(count * wide + 0.6 for count in columns)])
    others = max(-(-int((truth == -2).sum()) // columns[1]), -(-len(unknown) // columns[-1]))
    margin = 0.45 + 0.2 * max(len(cut(name, 18)) for name in [*names, "other classes" if others else ""])
    width, height = starts[-1] - 0.6 + margin, pitch * n_way + _CELL * others
    scale = float(np.clip(13 / width, 0.32, 0.8))
    score = _score(predictions, query_labels, len(unknown))
    figure = new_figure(
        max(scale * width, 3) + 0.2, scale * (height + 0.5) + 0.5, f"{title}  ·  {score}" if title else score
    )
    axes = figure.subplots()

    def place(section: int, number: int, top: float, count: int = 0) -> tuple[float, float]:
        """Return where a picture stands; a section of `count` that needs fewer lines than others is centred."""
        line, column = divmod(number, columns[section])
        unused = lines - -(-count // columns[section]) if count else 0
        return starts[section] + column * wide, top + (line + unused / 2) * _CELL

    for row in range(n_way):
        top = row * pitch
        _name_row(axes, names[row], top + (lines - 1) * _CELL / 2)
        if lines > 1 and row:
            axes.axhline(top - 0.2, color=RULE, linewidth=0.7)
        for section, (images, labels) in enumerate(((support, support_labels), (further, truth))):
            own = images[labels == row]
            for number, image in enumerate(own):
                _draw(axes, image, *place(section, number, top, len(own)), wide)
        asked = np.flatnonzero(query_labels == row)
        for number, item in enumerate(asked):
            said, (x, y) = int(predictions[item]), place(len(columns) - 1, number, top, len(asked))
            _draw(axes, query[item], x, y, wide)
            _frame(axes, x, y, wide, said == row)
            if said != row:
                _name_below(axes, f"✗ {_class(names, said, wide)}", x + wide / 2, y, WRONG)
    if others:
        top = n_way * pitch
        _name_row(axes, "other classes", top)
        for number, image in enumerate(further[truth == -2]):
            _draw(axes, image, *place(1, number, top), wide)
        for number, image in enumerate(unknown):
            x, y = place(len(columns) - 1, number, top)
            _draw(axes, image, x, y, wide)
            _name_below(axes, f"→ {_class(names, int(said_unknown[number]), wide)}", x + wide / 2, y, MUTED)
        axes.axhline(top - 0.17, color=RULE, linewidth=1)
    words = ["support", "unlabelled", "queries"] if len(columns) == 3 else ["support", "queries"]
    for start, word in zip(starts, words, strict=False):
        if start:
            axes.axvline(start - 0.3, color=RULE, linewidth=1)
        axes.text(start + 0.04, -0.12, word, ha="left", va="bottom", fontsize=8, color=MUTED)
    axes.set(xlim=(-margin, starts[-1] - 0.6), ylim=(height, -0.5), aspect="equal")
    axes.axis("off")
    return save_figure(figure, path)


def _lines(longest: Sequence[int], n_way: int, wide: float) -> int:
    """Return in how many lines the clips of a class stand so that the picture has about the wanted shape."""

    def off(lines: int) -> float:
        return abs(np.log(sum(-(-count // lines) for count in longest) * wide / (n_way * lines * _CELL) / _SHAPE))

    return min(range(1, max(longest) + 1), key=off)


def _score(predictions: np.ndarray, labels: np.ndarray, n_unknown: int) -> str:
    real = labels >= 0
    right = int((predictions[real] == labels[real]).sum())
    unknown = f", and {n_unknown} unknown ones" if n_unknown else ""
    queries = "1 query" if real.sum() == 1 else f"{real.sum()} queries"
    return f"{queries} shown, {right} right ({100 * right / max(real.sum(), 1):.1f} %){unknown}"


def _most(labels: np.ndarray, n_way: int) -> int:
    """Return the number of pictures in the longest row, 1 at least."""
    return int(np.bincount(labels[labels >= 0], minlength=n_way).max(initial=1))


def _further(images: Any, numbers: Any, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Check the pictures of a section that an episode may lack, and a number for each of them."""
    if images is None:
        return np.empty((0, 3, 1, 1), dtype=np.uint8), np.empty(0, dtype=np.int64)
    images, numbers = _pictures(images, which), as_array(numbers)
    if len(images) != len(numbers):
        raise UserError(f"{len(images)} {which} images with {len(numbers)} labels or predictions are no episode")
    return images, numbers


def _class(names: Sequence[str], label: int, wide: float = 1.0) -> str:
    return cut(names[label], int(9 * wide)) if 0 <= label < len(names) else "?"


def _name_row(axes, name: str, top: float) -> None:
    axes.text(-0.15, top + 0.5, cut(name, 18), ha="right", va="center", fontsize=10, color=INK, fontfamily=FONTS)


def _name_below(axes, text: str, x: float, top: float, colour: str) -> None:
    axes.text(x, top + 0.99, text, ha="center", va="top", fontsize=7.5, color=colour, fontfamily=FONTS)


def _pictures(images: Any, which: str) -> np.ndarray:
    """Check images (N, 3, H, W) or clips (N, 3, T, H, W)."""
    images = as_array(images)
    if images.ndim not in (4, 5) or images.shape[1] != 3 or images.dtype != np.uint8:
        raise UserError(
            f"{which} images must be uint8 (N, 3, H, W), or clips (N, 3, T, H, W), not {images.dtype} {images.shape}: "
            "draw them as they are before normalisation"
        )
    return images


def _draw(axes, image: np.ndarray, x: float, top: float, wide: float = 1.0) -> None:
    smooth = "nearest" if image.shape[0] <= 32 else "antialiased"
    axes.imshow(image, extent=(x + 0.06, x + wide - 0.06, top + 0.94, top + 0.06), interpolation=smooth)


def _frame(axes, x: float, top: float, wide: float, right: bool) -> None:
    look = (
        {"edgecolor": RIGHT, "linewidth": 1.2}
        if right
        else {"edgecolor": WRONG, "linewidth": 2, "linestyle": (0, (2, 1.2))}
    )
    axes.add_patch(Rectangle((x + 0.06, top + 0.06), wide - 0.12, 0.88, facecolor="none", **look))
