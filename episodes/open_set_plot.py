"""A picture of an open-set test: the mean ROC curve, and how the scores of known and unknown queries are spread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from . import figures as look
from .open_set import OpenSet

BINS = 40


def plot_open_set(found: OpenSet, path: str | Path | None = None, by: str = "probability", title: str = "") -> Figure:
    """Draw the ROC curve, averaged over episodes at equal shares of unknown queries, and the histogram of scores.

    found: scores of all queries and the mean curve. by: what the scores are, probability (as log-odds) or logit.
    The outermost bins hold all queries beyond them as well, a thousandth on either side.
    """
    figure = look.new_figure(8, 3.4, title)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
    look.style_axes(left, f"ROC of known queries, mean of {found.episodes:,} episodes", grid="both")
    places = np.linspace(0, 1, len(found.curve) + 1)
    left.stairs(found.curve, places, baseline=None, color=look.RIGHT, linewidth=1.8)
    left.fill_between(places, np.append(found.curve, found.curve[-1]), step="post", color=look.RIGHT, alpha=0.12)
    left.plot([0, 1], [0, 1], color=look.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    left.text(0.97, 0.06, f"area {100 * found.curve.mean():.2f} %", ha="right", fontsize=9, color=look.INK)
    left.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    left.set_xlabel("unknown queries accepted", fontsize=8, color=look.MUTED)
    left.set_ylabel("known queries accepted", fontsize=8, color=look.MUTED)
    word = "largest probability" if by == "probability" else "largest logit"
    look.style_axes(right, f"{word} of {len(found.known):,} known and {len(found.unknown):,} unknown queries")
    ends = np.array([np.quantile(scores, [0.001, 0.999]) for scores in (found.known, found.unknown)])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    for scores, colour, name in ((found.known, look.RIGHT, "known"), (found.unknown, look.WRONG, "unknown")):
        share = 100 * np.histogram(scores.clip(edges[0], edges[-1]), edges)[0] / len(scores)
        right.stairs(share, edges, color=colour, fill=True, alpha=0.25)
        right.stairs(share, edges, color=colour, linewidth=1.4, label=name)
    right.legend(frameon=False, fontsize=8, labelcolor=look.INK)
    if by == "probability":
        word = "log-odds ln(p / (1 - p)) of the largest probability p\n2.2 is 90 %,  4.6 is 99 %,  6.9 is 99.9 %"
    right.set_xlabel(word, fontsize=8, color=look.MUTED)
    right.set_ylabel("% of the queries", fontsize=8, color=look.MUTED)
    return look.save_figure(figure, path)
