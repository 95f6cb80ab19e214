"""A sheet of predictions: what is known of every class on top, then each picture or clip with its likeliest classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

from .errors import UserError
from .figures import FONTS, INK, MUTED, RIGHT, RULE, WRONG, as_array, new_figure, save_figure
from .names import short_names
from .strips import as_strips

WIDTH = 16.0  # of a page, in pictures
BARS = 3  # classes shown beside a query
INCH = 0.78  # side of a picture


@dataclass(frozen=True)
class Layout:
    """How a page is filled; lengths in pictures.

    columns, rows: of queries. side, pitch: height of a query, and from one to the next. shown, support: how many
    supports of a class, and their height.
    """

    columns: int
    rows: int
    side: float
    pitch: float
    shown: int
    support: float

    @property
    def on_page(self) -> int:
        """Queries on a page."""
        return self.columns * self.rows

    def pages(self, n_queries: int) -> int:
        """Return the number of pages of that many queries, one at least."""
        return max(1, -(-n_queries // self.on_page))


PICTURES = Layout(4, 6, 1.35, 1.75, 5, 0.95)
CLIPS = Layout(2, 7, 0.95, 1.6, 2, 0.62)  # film strips of `episodes.strips`


@dataclass(frozen=True)
class Predicted:
    """Query pictures, or clips, and what a classifier says of them.

    images (Q, 3, H, W) or (Q, 3, T, H, W): uint8. names: Q, of the files. probabilities: (Q, K).
    known: (Q,) bool, False where the classifier knows no answer. truth: (Q,) labels, -1 where unknown; None: nowhere.
    """

    images: Any
    names: Sequence[str]
    probabilities: np.ndarray
    known: np.ndarray
    truth: np.ndarray | None = None


def plot_sheet(
    support_images: Any | None,
    support_labels: Any | None,
    class_names: Sequence[str],
    queries: Predicted,
    path: str | Path | None = None,
    title: str = "",
    counts: Sequence[int] | None = None,
) -> Figure:
    """Draw one page: a few supports of each class, and queries (see `PICTURES`, `CLIPS`) with their likeliest classes.

    support_images (S, 3, H, W), or clips (S, 3, T, H, W): uint8. support_labels (S,): numbers into class_names. None
        leaves the supports out, for the later pages of many classes.
    counts: supports of each class, where more are known than given here.
    A query whose truth is known has a teal frame for a right answer and a dashed vermilion one, with the true class,
    for a wrong one; a legend says so.
    """
    names, asked = short_names(class_names), as_array(queries.images)
    layout = CLIPS if asked.ndim == 5 else PICTURES
    if any(as_array(x).dtype != np.uint8 for x in (support_images, queries.images) if x is not None):
        raise UserError("the pictures of a sheet must be uint8: draw them as they are before normalisation")
    if len(queries.names) > layout.on_page:
        raise UserError(f"a page holds {layout.on_page} queries, not {len(queries.names)}: draw several pages")
    figure = new_figure(1, 1, title)
    axes = figure.subplots()
    top = 0.0
    if support_images is not None:
        labels = as_array(support_labels)
        counts = np.bincount(labels, minlength=len(names)) if counts is None else counts
        top = _heading(axes, top, "what the classes look like (supports)")
        top = _supports(axes, top, as_strips(as_array(support_images)), labels, names, counts, layout) + 0.35
    if queries.truth is not None and (np.asarray(queries.truth) >= 0).any():
        _legend(axes, top)
    what = "pictures" if layout is PICTURES else "videos"
    top = _heading(axes, top, f"what the {what} are said to be (queries)")
    strips = as_strips(asked)
    for number in range(len(queries.names)):
        row, column = divmod(number, layout.columns)
        left, above = column * (WIDTH / layout.columns), top + row * layout.pitch
        _query(axes, left, above, strips[number], queries, number, names, layout)
    height = top + -(-len(queries.names) // layout.columns) * layout.pitch
    axes.set(xlim=(0, WIDTH), ylim=(height, -0.3), aspect="equal")
    axes.axis("off")
    figure.set_size_inches(WIDTH * INCH, (height + 0.3) * INCH + 0.5)
    return save_figure(figure, path)


def _look(right: bool) -> dict[str, Any]:
    """Return how the frame of a right or a wrong answer is drawn: they differ by more than their colour."""
    if right:
        return {"facecolor": "none", "edgecolor": RIGHT, "linewidth": 1.6}
    return {"facecolor": "none", "edgecolor": WRONG, "linewidth": 2.2, "linestyle": (0, (2, 1.2))}


def _legend(axes, top: float) -> None:
    """Say at the right end of a heading what the frames are."""
    for left, right, text in ((WIDTH - 5.0, True, "right"), (WIDTH - 3.6, False, "wrong, with the true class")):
        axes.plot([left, left + 0.4], [top + 0.08] * 2, color=RIGHT if right else WRONG, linewidth=2.2,
                  linestyle="-" if right else (0, (2, 1.2)))  # fmt: skip
        axes.text(left + 0.5, top + 0.2, text, ha="left", va="bottom", fontsize=9, color=MUTED, fontfamily=FONTS)


@lru_cache(maxsize=4096)
def _width(text: str, size: float, weight: str) -> float:
    """Return how wide a text of one line is, in pictures."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        shape = TextPath((0, 0), text, size=size, prop=FontProperties(family=FONTS, weight=weight))
    # the margins of the figure leave a picture a little less than its inches
    return 1.1 * float(shape.get_extents().width) / 72 / INCH if len(shape.vertices) else 0.0


def fitting(text: str, room: float, size: float, weight: str = "normal", tail: bool = False) -> str:
    """Return the text, or as much of its start (or its tail) as goes into `room` pictures, with an ellipsis."""
    for kept in range(len(text), 0, -1):
        shown = text if kept == len(text) else "…" + text[-kept:] if tail else text[:kept] + "…"
        shown = shown.replace("$", r"\$")  # a dollar sign begins no formula here
        if kept == 1 or _width(shown, size, weight) <= room:
            return shown
    return text


def _heading(axes, top: float, text: str) -> float:
    axes.plot([0, WIDTH], [top + 0.3, top + 0.3], color=RULE, linewidth=0.8)
    axes.text(0, top + 0.2, text, ha="left", va="bottom", fontsize=9, color=MUTED, fontfamily=FONTS)
    return top + 0.45


def _supports(
    axes, top: float, images: np.ndarray, labels: np.ndarray, names: list[str], counts, layout: Layout
) -> float:
    """Draw the classes as blocks, as many side by side as fit; returns where the next part begins."""
    most = min(layout.shown, max(int(np.bincount(labels, minlength=len(names)).max()), 2))
    wide, pitch = layout.support * _shape(images) + 0.05, layout.support + 0.55
    across = max(1, int((WIDTH + 0.3) // (most * wide + 0.3)))
    step = WIDTH / across if len(names) >= across else most * wide + 0.6
    for number, name in enumerate(names):
        row, column = divmod(number, across)
        left, above = column * step, top + row * pitch
        more = int(counts[number])
        label = fitting(name, step - 0.2, 9.5, "bold")
        axes.text(left, above + 0.32, label, ha="left", va="bottom", fontsize=9.5, color=INK, fontfamily=FONTS,
                  fontweight="bold")  # fmt: skip
        shown = np.flatnonzero(labels == number)[: layout.shown]
        for place, item in enumerate(shown):
            _draw(axes, images[item], left + place * wide, above + 0.38, layout.support)
        if more > len(shown):
            axes.text(left + len(shown) * wide - 0.08, above + layout.support + 0.33, f"+{more - len(shown)}",
                      ha="right", va="bottom", fontsize=7.5, color="white", fontfamily=FONTS,
                      bbox={"facecolor": INK, "edgecolor": "none", "pad": 1.2, "alpha": 0.75})  # fmt: skip
    return top + -(-len(names) // across) * pitch


def _shape(images: np.ndarray) -> float:
    """Width over height of pictures (N, H, W, 3)."""
    return images.shape[2] / images.shape[1]


def _query(
    axes, left: float, top: float, image: np.ndarray, queries: Predicted, number: int, names: list[str], layout: Layout
) -> None:
    """Draw one query: the picture, its file below, and bars of its likeliest classes beside it."""
    shares, side, width = queries.probabilities[number], layout.side, WIDTH / layout.columns
    best, across = int(shares.argmax()), side * _shape(image[None])
    _draw(axes, image, left, top, side)
    start, room, wide = left + across + 0.15, width - across - 0.45, width - 0.3  # wide: of the name of the file
    truth = -1 if queries.truth is None else int(queries.truth[number])
    if truth >= 0:
        right = truth == best and bool(queries.known[number])
        axes.add_patch(Rectangle((left, top), across, side, **_look(right)))
        if not right:
            below = top + max(side, 1.23) + 0.03
            axes.text(start, below, fitting(f"is {names[truth]}", room, 7.5, "bold"), ha="left", va="top", fontsize=7.5,
                      color=WRONG, fontweight="bold", fontfamily=FONTS)  # fmt: skip
            wide = across + 0.05
    axes.text(left, top + side + 0.05, fitting(queries.names[number], wide, 6.5, tail=True), ha="left", va="top",
              fontsize=6.5, color=MUTED, fontfamily=FONTS)  # fmt: skip
    if not queries.known[number]:
        axes.text(start, top + 0.24, "unknown", ha="left", va="bottom", fontsize=9, color=WRONG, fontweight="bold",
                  fontfamily=FONTS)  # fmt: skip
        top += 0.3
    for place, label in enumerate(np.argsort(-shares, kind="stable")[: BARS - (not queries.known[number])]):
        line = top + 0.44 * place
        first = place == 0 and bool(queries.known[number])
        look = {"color": INK if first else MUTED, "va": "bottom", "fontfamily": FONTS}
        share, size, weight = _percent(shares[label]), 9 if first else 7.5, "bold" if first else "normal"
        name = fitting(names[label], room - _width(share, 7.5, "normal") - 0.04, size, weight)
        axes.text(start, line + 0.24, name, ha="left", fontsize=size, fontweight=weight, **look)
        axes.text(start + room, line + 0.24, share, ha="right", fontsize=7.5, **look)
        axes.add_patch(Rectangle((start, line + 0.27), room, 0.08, facecolor=RULE, edgecolor="none"))
        axes.add_patch(
            Rectangle((start, line + 0.27), room * float(shares[label]), 0.08, facecolor=RIGHT if first else MUTED,
                      edgecolor="none")
        )  # fmt: skip


def _percent(share: float) -> str:
    """Print a probability; one that only rounds to certainty says so."""
    text = f"{100 * share:.0f} %"
    return {"100 %": "> 99 %", "0 %": "< 1 %"}.get(text, text)


def _draw(axes, image: np.ndarray, left: float, top: float, side: float) -> None:
    smooth, across = "nearest" if image.shape[0] <= 32 else "antialiased", side * _shape(image[None])
    axes.imshow(image, extent=(left, left + across, top + side, top), interpolation=smooth)
