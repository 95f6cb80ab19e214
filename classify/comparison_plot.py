"""A comparison as a picture: accuracies with intervals and seeds, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from classify.comparison import Rival
from episodes import figures as look


def plot_comparison(rivals: Sequence[Rival], path: str | Path | None = None, title: str = "") -> Figure:
    """Draw accuracy (mean, 95 % interval, a dot each seed), and accuracy against the time of a step where it is known.

    Without times the second panel shows parameters.
    """
    timed = all(rival.step_s is not None for rival in rivals)
    figure = look.new_figure(11, 1.2 + 0.34 * len(rivals), title)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    look.style_axes(left, "accuracy on the test pictures, %", grid="x")
    look.style_axes(right, "accuracy against " + ("a training step, ms" if timed else "parameters, M"), grid="both")
    for place, rival in enumerate(rivals):
        colour, marker = look.PALETTE[place % len(look.PALETTE)], look.MARKERS[place % len(look.MARKERS)]
        mean, width = (100 * value for value in rival.accuracy)
        seeds = [100 * value for value in rival.by_seed]
        left.plot([mean - width, mean + width], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        left.plot([mean], [place], marker, color=colour, markersize=6)
        left.plot(seeds, [place + 0.28] * len(seeds), ".", color=colour, markersize=4)
        cost = 1000 * rival.step_s if timed else rival.parameters / 1e6
        right.plot([cost], [mean], marker, color=colour, markersize=7, label=rival.name)
    left.set_yticks(range(len(rivals)), [rival.name for rival in rivals])
    left.tick_params(axis="y", labelcolor=look.INK)
    left.set_ylim(len(rivals) - 0.4, -0.6)
    right.margins(0.1)
    return look.save_figure(figure, path)
