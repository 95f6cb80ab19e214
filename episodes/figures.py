"""What all pictures share: colours, a bare axes style, saving. Works without a screen and without global state."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from .errors import UserError

INK, MUTED, RULE = "#22262b", "#6a6f76", "#dcd8cf"
RIGHT, WRONG = "#12756b", "#c4491d"  # teal and vermilion: told apart with any kind of colour vision
# Okabe and Ito's palette without its yellow, which is too light on paper, filled up to ten.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#22262b", "#8c6d31", "#7b5ea7", "#8a8f96",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", "*")
FONTS = ["DejaVu Sans", "STIXGeneral"]  # both come with matplotlib; the second has characters that the first lacks
MOST_CLASSES = 40  # as many names as can be read along one side of a picture
FORMATS = (".png", ".svg", ".pdf")


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Make an empty figure, sizes in inches; it belongs to nobody but the caller."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK, fontfamily=FONTS)
    return figure


def style_axes(axes: Axes, title: str = "", grid: str = "y") -> Axes:
    """Take the box away, leave light lines along `grid` ('x', 'y', 'both' or '')."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    if grid:
        axes.grid(axis=grid, color=RULE, linewidth=0.7)
        axes.set_axisbelow(True)
    if title:
        axes.set_title(title, loc="left", fontsize=9, color=INK, fontfamily=FONTS)
    return axes


def save_figure(figure: Figure, path: str | Path | None) -> Figure:
    """Write the figure whole or not at all, if there is a path; the suffix (.png, .svg, .pdf) says as what.

    The file holds no date, so that the same figure gives the same file. Characters that matplotlib's own fonts lack
    are drawn in an installed font that has them; where there is none they become boxes, without a warning for each.
    Raises UserError for another suffix.
    """
    if path is None:
        return figure
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"cannot draw to '{path}': its name must end in one of {', '.join(FORMATS)}")
    from backbones.checkpoint import write_atomically

    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    options = {"format": suffix[1:], "dpi": 150, "metadata": metadata, "bbox_inches": "tight"}
    _use_fonts_that_fit(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        write_atomically(path, lambda name: figure.savefig(name, **options))
    return figure


def _use_fonts_that_fit(figure: Figure) -> None:
    """Give the texts of a figure the installed fonts that have the characters which FONTS lack."""
    texts = figure.findobj(Text)
    letters = {letter for text in texts for letter in text.get_text() if ord(letter) > 127 and letter.isprintable()}
    more = fonts_with("".join(sorted(letters)))
    if more:
        for text in texts:
            text.set_fontfamily([*FONTS, *more])


@lru_cache(maxsize=256)
def fonts_with(letters: str) -> tuple[str, ...]:
    """Names of installed fonts that have those of the letters which FONTS lack, few fonts for many letters first."""
    own = {entry.fname for entry in fontManager.ttflist if entry.name in FONTS}
    missing = {ord(letter) for letter in letters}.difference(*map(_characters, own))
    others = {} if not missing else {
        entry.name: _characters(entry.fname) & missing
        for entry in sorted(fontManager.ttflist, key=lambda entry: entry.name, reverse=True)
        if entry.style == "normal" and entry.weight in (400, "normal", "regular")
        and not entry.name.startswith("Last Resort")  # has boxes for everything
    }  # fmt: skip
    chosen: list[str] = []
    while missing and others:
        best = max(sorted(others), key=lambda name: len(others[name] & missing))
        if not others[best] & missing:
            break
        chosen.append(best)
        missing -= others.pop(best)
    return tuple(chosen)


def _characters(file: str) -> set[int]:
    """Code points that a font file can draw; none for one that matplotlib cannot use, such as colour bitmaps."""
    try:
        font = FT2Font(file)
        font.set_size(8, 72)
    except (OSError, RuntimeError):
        return set()
    return set(font.get_charmap())


def as_array(values: Any) -> np.ndarray:
    """Give a tensor, on any device, or a sequence as an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def cut(text: str, most: int = 22) -> str:
    """Shorten a name to `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
