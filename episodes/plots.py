"""Pictures of training and results: curves, confusion, accuracy per class, embedding maps, comparisons of methods.

Every function returns the figure, and writes it where `path` is given. `plot_episode` and `plot_confusion` stand in
files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from . import figures as look
from .confusion_plot import plot_confusion
from .episode_plot import plot_episode
from .errors import UserError
from .names import short_names

__all__ = [
    "plot_comparison", "plot_confusion", "plot_curves", "plot_embedding", "plot_episode", "plot_per_class",
]  # fmt: skip


def plot_curves(history: Sequence[Mapping[str, float]], path: str | Path | None = None, title: str = "") -> Figure:
    """Draw loss and accuracy against the epoch, validation with its interval.

    history: one row an epoch with any of epoch, loss, val_loss, accuracy, val_accuracy, val_interval (fractions).
        A key that a row lacks, or a number that is not finite, leaves a gap. Without 'epoch' rows count from 0.
    """
    if not history:
        raise UserError("there is no epoch to draw: train for one epoch at least")

    def column(key: str) -> np.ndarray:
        values = [row.get(key) for row in history]
        return np.array([np.nan if value is None else float(value) for value in values])

    epochs = np.array([float(row.get("epoch", number)) for number, row in enumerate(history)])
    figure = look.new_figure(8, 3.1, title)
    panels = (("loss", "loss", "val_loss", 1), ("accuracy", "accuracy", "val_accuracy", 100))
    for axes, (name, key, val_key, scale) in zip(figure.subplots(1, 2), panels, strict=True):
        look.style_axes(axes, name)
        for which, colour, label in ((key, look.MUTED, "training"), (val_key, look.RIGHT, "validation")):
            values = scale * column(which)
            if np.isfinite(values).any():
                marker = "o" if len(values) <= 30 else None
                axes.plot(epochs, values, color=colour, marker=marker, markersize=3, linewidth=1.6, label=label)
            if which == "val_accuracy":
                width = scale * column("val_interval")
                axes.fill_between(epochs, values - width, values + width, color=colour, alpha=0.18, linewidth=0)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8, labelcolor=look.INK)
        else:
            axes.text(0.5, 0.5, "not logged", ha="center", va="center", color=look.MUTED, transform=axes.transAxes)
            axes.axis("off")
        axes.set_xlabel("epoch", fontsize=8, color=look.MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if key == "accuracy":
            axes.yaxis.set_major_formatter("{x:g}%")  # ticks may be 2.5 apart
    return look.save_figure(figure, path)


def plot_per_class(per_class: Any, class_names: Sequence[str], path: str | Path | None = None) -> Figure:
    """Draw the accuracy of every class, best first; of more than 40 classes only the best and the worst 20.

    per_class: (K,) fractions; NaN for a class that never was a query, which is left out and counted in the title.
    """
    values, names = look.as_array(per_class).astype(np.float64), [look.cut(name) for name in short_names(class_names)]
    if values.shape != (len(names),):
        raise UserError(f"accuracies of shape {values.shape} do not fit {len(names)} class names")
    order = np.flatnonzero(np.isfinite(values))
    if not len(order):
        raise UserError("no class has a query, so there is no accuracy per class to draw")
    order = order[np.argsort(-values[order], kind="stable")]
    mean, absent, shown = values[order].mean(), len(values) - len(order), order
    y = np.arange(len(order), dtype=np.float64)
    title = f"accuracy of {len(order)} classes, mean {100 * mean:.1f} %"
    if len(order) > look.MOST_CLASSES:
        half = look.MOST_CLASSES // 2
        shown, y = (
            np.concatenate([order[:half], order[-half:]]),
            np.arange(look.MOST_CLASSES) + 1.5 * (np.arange(2 * half) >= half),
        )
        title += f": the best {half} and the worst {half}"
    title += f" ({absent} without a query left out)" if absent else ""
    figure = look.new_figure(7, 0.9 + 0.2 * (y[-1] + 1))
    axes = look.style_axes(figure.subplots(), title, grid="x")
    colours = [look.RIGHT if value >= mean else look.WRONG for value in values[shown]]
    axes.barh(y, 100 * values[shown], height=0.68, color=colours)
    for place, value in zip(y, values[shown], strict=True):
        axes.text(102, place, f"{100 * value:.1f}", va="center", fontsize=7, color=look.MUTED)
    if len(shown) < len(order):
        axes.text(1, half + 0.25, f"… {len(order) - len(shown)} more …", va="center", fontsize=7, color=look.MUTED)
    axes.axvline(100 * mean, color=look.INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yticks(y, [names[i] for i in shown], fontfamily=look.FONTS)
    axes.set(xlim=(0, 108), ylim=(y[-1] + 0.7, -0.7))
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_xticks(range(0, 101, 20))
    return look.save_figure(figure, path)


def plot_embedding(
    features: Any,
    labels: Any,
    class_names: Sequence[str],
    path: str | Path | None = None,
    method: str = "pca",
    seed: int = 0,
) -> Figure:
    """Draw a map of features in two dimensions; every class has a colour and a marker, which the legend names.

    features: (N, D).  labels: (N,) numbers into class_names.  method: 'pca' or 'tsne'.
    Of more than ten classes the ten with the most samples are drawn, as the title says.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    features, labels = look.as_array(features).astype(np.float64), look.as_array(labels)
    if features.ndim != 2 or len(features) != len(labels) or len(labels) < 3 or not np.isfinite(features).all():
        raise UserError(
            f"a map needs finite features (N, D) and labels (N,) with N >= 3, not {features.shape} and {labels.shape}"
        )
    sizes = np.bincount(labels, minlength=len(class_names))
    classes = np.sort(np.argsort(-sizes, kind="stable")[: len(look.PALETTE)])
    classes = classes[sizes[classes] > 0]
    keep = np.isin(labels, classes)
    features, labels, names = features[keep], labels[keep], short_names(class_names)
    if method == "pca":
        model = PCA(2, random_state=seed)
        if features.shape[1] < 2:
            features = np.pad(features, ((0, 0), (0, 1)))
        points = model.fit_transform(features)
        sides = [f"component {i + 1} ({100 * part:.0f} % of the variance)" for i, part in
                 enumerate(np.nan_to_num(model.explained_variance_ratio_))]  # fmt: skip
    elif method == "tsne":
        start = "pca" if features.shape[1] > 1 else "random"
        if min(features.shape) > 50:  # as t-SNE's authors do: the same map for far less time
            features = PCA(50, random_state=seed).fit_transform(features)
        near = min(30.0, (len(features) - 1) / 3)
        points = TSNE(2, perplexity=near, init=start, random_state=seed).fit_transform(features)
        sides = ["", ""]
    else:
        raise UserError(f"there is no embedding map '{method}': choose pca or tsne")
    figure = look.new_figure(6.4, 5.6)
    of = f"{len(classes)} of {int((sizes > 0).sum())} classes" if (sizes > 0).sum() > len(classes) else ""
    kind = {"pca": "principal components", "tsne": "t-SNE"}[method]
    axes = look.style_axes(figure.subplots(), f"{len(points):,} samples, {of + ', ' if of else ''}{kind}", grid="both")
    for number, label in enumerate(classes):
        x, y = points[labels == label].T
        shape = {"color": look.PALETTE[number], "marker": look.MARKERS[number]}
        axes.scatter(x, y, s=18, alpha=0.75, linewidths=0, label=look.cut(names[label]), **shape)
    axes.set_xlabel(sides[0], fontsize=8, color=look.MUTED)
    axes.set_ylabel(sides[1], fontsize=8, color=look.MUTED)
    if method == "tsne":
        axes.tick_params(labelbottom=False, labelleft=False)  # its units mean nothing
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), prop={"family": look.FONTS, "size": 8})
    return look.save_figure(figure, path)


def plot_comparison(rows: Sequence[Mapping[str, Any]], path: str | Path | None = None, title: str = "") -> Figure:
    """Draw mean and interval of every method, one panel a (group, column), all on the same scale.

    rows: dictionaries with row, group, column, mean, interval (fractions), as `tools.table.Table.rows` gives them.
    """
    if not rows:
        raise UserError("there is nothing to compare: no cell was measured")
    methods = list(dict.fromkeys(row["row"] for row in rows))
    panels = list(dict.fromkeys((row["group"], row["column"]) for row in rows))
    groups, columns = (list(dict.fromkeys(part)) for part in zip(*panels, strict=True))
    grid = [panels] if len(panels) <= 4 else [[(group, column) for group in groups] for column in columns]
    down, across = len(grid), len(grid[0])
    figure = look.new_figure(1.6 + 2.6 * across, 0.7 + down * (0.6 + 0.3 * len(methods)), title)
    places = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes, panel in zip(places.flatten(), sum(grid, []), strict=True):
        if panel not in panels:
            axes.axis("off")
            continue
        look.style_axes(axes, " ".join(panel).strip(), grid="both")
        here = [row for row in rows if (row["group"], row["column"]) == panel]
        best = max(row["mean"] for row in here)
        for row in here:
            colour = look.RIGHT if row["mean"] == best and len(here) > 1 else look.MUTED
            x, y, width = 100 * row["mean"], methods.index(row["row"]), 100 * row["interval"]
            axes.plot([x - width, x + width], [y, y], color=colour, alpha=0.35, linewidth=7, solid_capstyle="butt")
            axes.plot(x, y, marker="o", markersize=4.5, color=colour)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.set_yticks(range(len(methods)), methods, fontfamily=look.FONTS)
        axes.set_ylim(len(methods) - 0.5, -0.5)
    return look.save_figure(figure, path)
