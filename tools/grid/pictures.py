"""Pictures of a grid: heat map of means, paired differences, and the diagram of average ranks.

Every function returns the figure, and writes it where `path` is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from episodes import figures as look
from tools.grid.methods import method_of, title_of
from tools.grid.results import Found
from tools.grid.statistics import Difference, Ranks, cliques

SHADES = LinearSegmentedColormap.from_list("accuracy", ["#f7f4ee", "#8fc3bc", "#12756b", "#06332f"])
GREY = "#8a8f96"  # of what is shown and not compared
CROSS = {"marker": "x", "color": look.WRONG, "markersize": 4.5, "linestyle": ""}  # of what has no result


def plot_heatmap(found: Found, path: str | Path | None = None) -> Figure:
    """Draw means of sources x targets: one panel a method (across) and a view of the grid (down), see `Found.views`.

    Colours have one scale in a row of panels, since shots, kinds and measures differ more than methods do.
    """
    sources, targets = list(map(str, found.config.sources)), list(map(str, found.config.targets))
    titles, views = found.titles(), found.views
    turned = max(len(look.cut(name, 16)) for name in targets) > 8
    wide = max(1.0, 0.62 * len(targets)) + 0.25
    high = max(0.42 * len(sources), 0.7) + (0.95 if turned else 0.6)
    figure = look.new_figure(1.3 + wide * len(titles), 0.8 + high * len(views), measured(found) + ", %")
    grid = figure.subplots(len(views), len(titles), squeeze=False)
    for number, (row, view) in enumerate(zip(grid, views, strict=True)):
        top_row, bottom_row = number == 0, number == len(views) - 1
        values = np.full((len(titles), len(sources), len(targets)), np.nan)
        for m, method in enumerate(titles):
            for i, source in enumerate(sources):
                for j, target in enumerate(targets):
                    pooled = found.pooled(source, target, method, *view)
                    values[m, i, j] = np.nan if pooled is None else 100 * pooled.mean()
        low, top = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0, 100)
        for m, (axes, title) in enumerate(zip(row, titles.values(), strict=True)):
            look.style_axes(axes, title if top_row else "", grid="")
            axes.imshow(np.ma.masked_invalid(values[m]), cmap=SHADES, vmin=low, vmax=max(top, low + 1), aspect="auto")
            _numbers(axes, values[m], low, top)
            axes.set_xticks(range(len(targets)), [look.cut(name, 16) for name in targets] if bottom_row else [],
                            fontfamily=look.FONTS, **({"rotation": 40, "ha": "right"} if turned else {}))  # fmt: skip
            axes.set_yticks(range(len(sources)), [look.cut(name, 16) for name in sources] if m == 0 else [],
                            fontfamily=look.FONTS)  # fmt: skip
            if m == 0:
                heading = found.view_title(view).replace(", ", ",\n")
                axes.set_ylabel(heading, fontsize=9, color=look.INK, fontfamily=look.FONTS)
    words = "down: trained on, across: tested on; each row of panels has its own scale of colours; × no result"
    figure.supxlabel(words, x=0.01, ha="left", fontsize=8, color=look.MUTED, fontfamily=look.FONTS)
    return look.save_figure(figure, path)


def measured(found: Found) -> str:
    """Say what the views of a grid show."""
    return "Accuracy and AUROC of unknown queries" if any(what == "auroc" for _, what in found.views) else "Accuracy"


def _numbers(axes, values: np.ndarray, low: float, top: float) -> None:
    """Write the means into a panel of the heat map, light on dark; a place without one is crossed out."""
    for (i, j), value in np.ndenumerate(values):
        dark = np.isfinite(value) and value - low > 0.5 * max(top - low, 1)
        text, colour = (f"{value:.1f}", "white" if dark else look.INK) if np.isfinite(value) else ("×", look.WRONG)
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)


def plot_differences(found: Found, rows: Sequence[Difference], path: str | Path | None = None) -> Figure | None:
    """Draw method minus reference with its paired interval: a panel a target and view, a mark a source.

    A filled mark is an interval without zero; what does not compare is grey, hollow and dashed; a cross has no result.
    Returns None, without a file, where there is nothing to compare.
    """
    if not rows:
        return None
    reference = found.config.reference or found.config.methods[0]
    methods = [method for method in found.titles() if method != reference]
    sources, targets, views = list(map(str, found.config.sources)), list(map(str, found.config.targets)), found.views
    height = max(0.34, 0.17 * len(sources)) * len(methods) + 0.62
    title = f"{measured(found)}: minus {title_of(reference)}, points, on the same episodes"
    figure = look.new_figure(1.7 + 2.2 * len(targets), 1.15 + height * len(views), title)
    grid = figure.subplots(len(views), len(targets), sharex=True, squeeze=False)
    shift = np.linspace(-0.26, 0.26, len(sources)) if len(sources) > 1 else [0.0]
    places = {(row.source, row.target, row.view, row.method): row for row in rows}
    for axes_row, view in zip(grid, views, strict=True):
        for axes, target in zip(axes_row, targets, strict=True):
            look.style_axes(axes, f"{look.cut(target)}, {found.view_title(view)}", grid="x")
            axes.axvline(0, color=look.INK, linewidth=0.8)
            for s, source in enumerate(sources):
                for m, method in enumerate(methods):
                    row = places.get((source, target, view, method))
                    if row is None:
                        axes.plot(0.02, m + shift[s], transform=axes.get_yaxis_transform(), **CROSS)
                    else:
                        _difference(axes, row, m + shift[s], s)
            names = [title_of(method) for method in methods] if axes is axes_row[0] else []
            axes.set_yticks(range(len(methods)), names, fontfamily=look.FONTS)
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.tick_params(labelbottom=True)
    crossed = len(rows) < len(sources) * len(targets) * len(views) * len(methods)
    figure.legend(handles=_legend(reference, sources, rows, crossed),
                  loc="outside lower left", ncols=3, frameon=False,
                  prop={"family": look.FONTS, "size": 8})  # fmt: skip
    return look.save_figure(figure, path)


def _difference(axes, row: Difference, y: float, number: int) -> None:
    """Draw one difference; `number` is that of its source."""
    mean, width = 100 * row.mean, 100 * row.interval
    colour = GREY if row.apart else look.PALETTE[number % len(look.PALETTE)]
    filled = abs(mean) > width and not row.apart
    _, _, bars = axes.errorbar(
        mean, y, xerr=width, color=colour, linewidth=1.4, capsize=2, marker=look.MARKERS[number % len(look.MARKERS)],
        markersize=4.5, markerfacecolor=colour if filled else "white", markeredgecolor=colour,
    )  # fmt: skip
    if row.apart:
        bars[0].set_linestyle((0, (2, 1.5)))


def _legend(reference: str, sources: Sequence[str], rows: Sequence[Difference], crossed: bool) -> list[Line2D]:
    """Return what the marks of the differences mean, of those that are drawn."""
    marks = {f"trained on {source}": {"marker": look.MARKERS[s % len(look.MARKERS)],
                                      "color": look.PALETTE[s % len(look.PALETTE)]}
             for s, source in enumerate(sources)}  # fmt: skip
    marks["filled: the 95 % interval excludes zero"] = {"marker": "o", "color": look.INK}
    marks["hollow: it does not"] = {"marker": "o", "color": look.INK, "markerfacecolor": "white"}
    if any(row.apart for row in rows):
        other = "not transductive" if method_of(reference).transductive else "transductive"
        marks[f"grey, dashed: {other}, not compared"] = {
            "marker": "o", "color": GREY, "markerfacecolor": "white", "linestyle": (0, (2, 1.5))
        }  # fmt: skip
    if crossed:
        marks["no result"] = CROSS
    return [Line2D([], [], **{"linestyle": "", "markersize": 5, **style}, label=label)
            for label, style in marks.items()]  # fmt: skip


def plot_ranks(ranks: Ranks, path: str | Path | None = None) -> Figure:
    """Draw the critical-difference diagram: methods on the line of average ranks, bars join those not told apart."""
    count, order = len(ranks.methods), np.argsort(ranks.average, kind="stable")
    half = -(-count // 2)
    groups = cliques(ranks.average, ranks.critical)
    first = 0.55 + 0.22 * len(groups)  # where the names begin, below the bars
    depth = first + 0.34 * half
    sure = f"Friedman p = {ranks.p_value:.2g}" if ranks.p_value >= 1e-4 else "Friedman p < 0.0001"
    figure = look.new_figure(7.4, 0.95 + 0.62 * (depth + 0.6), "Average rank, 1 = best")
    axes = figure.subplots()
    axes.axis("off")
    margin = 0.34 * (count - 1) + 0.5  # room for the names on both sides, in ranks
    axes.set_xlim(1 - margin, count + margin)
    axes.set_ylim(depth, -1.25)
    axes.plot([1, count], [0, 0], color=look.INK, linewidth=1)
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [-0.1, 0], color=look.INK, linewidth=1)
        axes.text(tick, -0.18, str(tick), ha="center", va="bottom", fontsize=8, color=look.MUTED)
    axes.plot([1, 1 + ranks.critical], [-0.85, -0.85], color=look.WRONG, linewidth=2, solid_capstyle="butt")
    words = f"critical difference {ranks.critical:.2f} (Nemenyi, 0.05); {ranks.blocks} blocks; {sure}"
    axes.text(1, -0.95, words, va="bottom", fontsize=8, color=look.MUTED)
    for place, number in enumerate(order):
        x, left = ranks.average[number], place < half
        y = first + 0.34 * (place if left else count - 1 - place) + 0.1
        end = 1 - 0.12 if left else count + 0.12
        axes.plot([x, x, end], [0, y, y], color=look.MUTED, linewidth=0.9)
        axes.plot(x, 0, marker="o", markersize=4, color=look.RIGHT)
        text = f"{title_of(ranks.methods[number])}  {x:.2f}" if left else f"{x:.2f}  {title_of(ranks.methods[number])}"
        axes.text(end + (-0.05 if left else 0.05), y, text, va="center", ha="right" if left else "left", fontsize=9,
                  color=look.INK, fontfamily=look.FONTS)  # fmt: skip
    ordered = ranks.average[order]
    for level, (start, stop) in enumerate(groups):
        y = 0.3 + 0.22 * level
        axes.plot([ordered[start] - 0.04, ordered[stop] + 0.04], [y, y], color=look.INK, linewidth=3.2,
                  solid_capstyle="butt")  # fmt: skip
    return look.save_figure(figure, path)
