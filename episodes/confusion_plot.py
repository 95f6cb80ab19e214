"""A picture of a confusion matrix, with the most confused pairs in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from .errors import UserError
from .figures import FONTS, INK, MOST_CLASSES, MUTED, WRONG, as_array, cut, new_figure, save_figure, style_axes
from .names import short_names

_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#9cc9c2", "#12756b", "#06312d"])
UNKNOWN = "unknown"
_LETTER = 0.07  # inches that a letter takes in 8 points, on average
_SHADES = _SHADES.with_extremes(bad="#eeeae2")  # a class that never was a query


def most_confused(confusion: np.ndarray, most: int = 10) -> list[tuple[int, int, float, int]]:
    """Return the (true, predicted, share of the true class, count) with the largest shares off the diagonal."""
    counts = as_array(confusion).astype(np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), counts.shape[1]) for place in order]
    return [(i, j, float(shares[i, j]), int(counts[i, j])) for i, j in pairs if shares[i, j] > 0]


def _neighbours_first(shares: np.ndarray) -> np.ndarray:
    """Order classes so that confused ones stand side by side: leaves of an average-linkage tree."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    alike = np.nan_to_num(shares)
    distance = 1 - (alike + alike.T) / 2
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))


def plot_confusion(confusion: Any, class_names: Sequence[str], path: str | Path | None = None) -> Figure:
    """Draw which class is taken for which, as shares of the true class, with the most confused pairs in words.

    confusion: (K, K) counts, row = true class, column = predicted. A class without queries stays blank. One more
        column, (K, K + 1), counts what was said to be of no class.
    Beyond 40 classes no name fits a tick: the classes are then ordered so that confused ones are neighbours, and the
    pairs in the list are numbered in the picture.
    """
    counts, names = as_array(confusion).astype(np.float64), [cut(name) for name in short_names(class_names)]
    columns = [*names, UNKNOWN] if counts.shape == (len(names), len(names) + 1) else names
    if counts.shape != (len(names), len(columns)):
        raise UserError(f"a confusion matrix of shape {counts.shape} does not fit {len(names)} class names")
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
    many = len(names) > MOST_CLASSES
    order = _neighbours_first(shares[:, : len(names)]) if many else np.arange(len(names))
    across = np.append(order, np.arange(len(names), len(columns)))
    side = 6.0 if many else np.clip(0.22 * len(columns), 2.6, 7.5)
    pairs = most_confused(counts)
    lines = [_pair_line(number, pair, columns) for number, pair in enumerate(pairs, start=1)]
    margin = 0.0 if many else _LETTER * max(map(len, columns))  # of the names on the left of and below the picture
    left, right = side + margin + 1.2, _LETTER * max(36, *map(len, lines), 0)
    figure = new_figure(left + right, max(side + margin + 0.9, 3.2))
    axes, words = figure.subplots(1, 2, width_ratios=[left, right])
    picture = axes.imshow(shares[np.ix_(order, across)], cmap=_SHADES, norm=PowerNorm(0.5, 0, 1), aspect="equal")
    title = "share of each true class (row) predicted as (column)"
    style_axes(axes, fill(title, max(18, int(side / _LETTER))), grid="")  # no wider than the picture
    axes.set_xlabel("predicted", fontsize=8, color=MUTED)
    axes.set_ylabel("true" + (", confused classes side by side" if many else ""), fontsize=8, color=MUTED)
    below = columns[len(names) :] if many else columns  # the column of no class stands last and is always named
    turned = 90 if max(map(len, columns)) > 3 else 0
    axes.set_xticks(range(len(columns) - len(below), len(columns)), below, rotation=turned, fontfamily=FONTS)
    axes.set_yticks([] if many else range(len(names)), [] if many else names, fontfamily=FONTS)
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, pad=0.02, format=PercentFormatter(1, decimals=0))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7, labelcolor=MUTED)
    if len(names) <= 12:
        for i, j in np.argwhere(np.nan_to_num(shares) > 0):
            colour = "white" if shares[i, j] > 0.35 else INK
            axes.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    _list_pairs(words, lines)
    if len(names) > 12:
        _number_pairs(axes, pairs, np.argsort(across), inside=not many)
    return save_figure(figure, path)


def _pair_line(number: int, pair: tuple[int, int, float, int], names: list[str]) -> str:
    i, j, share, count = pair
    return f"{number}.  {cut(names[i], 20)} → {cut(names[j], 20)}   {100 * share:.0f} %  ({count:,})"


def _list_pairs(words: Axes, lines: list[str]) -> None:
    """Write the most confused pairs beside the picture."""
    words.axis("off")
    words.set_title("most confused (true → predicted)", loc="left", fontsize=9, color=INK)
    if not lines:
        words.text(0, 0.96, "nothing was confused", va="top", fontsize=8, color=MUTED)
    for number, text in enumerate(lines, start=1):
        below = (0, 4 - 17 * number)  # points below the upper edge, so that the lines are as close in any picture
        words.annotate(text, (0, 1), below, "axes fraction", "offset points", fontsize=8, color=INK, fontfamily=FONTS)


def _number_pairs(axes: Axes, pairs: list[tuple[int, int, float, int]], place: np.ndarray, inside: bool) -> None:
    """Frame the listed pairs in the picture and write their numbers into the frames, or beside where cells are small.

    place: position of each class, and of no class, in the picture.
    """
    look = {"ha": "center", "va": "center"} if inside else {}
    for number, (i, j, *_) in enumerate(pairs, start=1):
        x, y = place[j], place[i]
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=WRONG, linewidth=1.2))
        font = {"fontsize": 7, "color": WRONG, "fontweight": "bold", **look}
        axes.annotate(str(number), (x, y), (0, 0) if inside else (4, 4), textcoords="offset points", **font)
