"""Figures of the study: bands of loss and gradient, schedules, robustness, curvature. Each returns its figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from episodes import figures as look

COLOURS = {"GAP": look.PALETTE[1], "GCP": look.PALETTE[0]}


def _colour(name: str, number: int) -> str:
    return COLOURS.get(name, look.PALETTE[(number + 2) % len(look.PALETTE)])


def _label(axes, name: str) -> None:
    axes.set_xlabel(name, fontsize=8, color=look.MUTED)


def _legend(axes) -> None:
    axes.legend(frameon=False, fontsize=8, labelcolor=look.INK)


def plot_landscapes(probes: Mapping[str, Sequence[Mapping]], path: str | Path | None = None, title: str = "") -> Figure:
    """Draw the bands from smallest to largest loss and gradient distance against the step, and the smoothness.

    probes: name of the run ("GAP", "GCP") -> records of its probes (`landscapes.jsonl`).
    """
    figure = look.new_figure(11, 3.2, title)
    panels = figure.subplots(1, 3)
    names = ("loss landscape", "gradient predictiveness", "effective smoothness β")
    for axes, name in zip(panels, names, strict=True):
        look.style_axes(axes, name)
        _label(axes, "training step")
    for number, (name, lines) in enumerate(probes.items()):
        steps, colour = [line["step"] for line in lines], _colour(name, number)
        for axes, key in zip(panels, ("loss_band", "distance_band"), strict=False):
            low, high = np.array([line[key] for line in lines]).T
            axes.fill_between(steps, low, high, color=colour, alpha=0.35, linewidth=0, label=name)
            axes.plot(steps, low, color=colour, linewidth=0.6)
            axes.plot(steps, high, color=colour, linewidth=0.6)
        panels[2].plot(steps, [line["smoothness"] for line in lines], color=colour, linewidth=1.2, label=name)
    smooth = [line["smoothness"] for lines in probes.values() for line in lines]
    if 0 < min(smooth) < max(smooth) / 10:
        panels[2].set_yscale("log")
    _legend(panels[0])
    return look.save_figure(figure, path)


def plot_schedules(
    rates: Mapping[str, Sequence[float]], accuracies: Mapping[str, Mapping[str, Sequence[float]]],
    path: str | Path | None = None, title: str = "",
) -> Figure:  # fmt: skip
    """Draw the learning rates of the schedules, and what each network reached with each of them.

    rates: schedule -> rate of every epoch. accuracies: network -> schedule -> accuracy of every seed, fractions.
    """
    figure = look.new_figure(8.5, 3.1, title)
    left, right = figure.subplots(1, 2)
    look.style_axes(left, "learning rate")
    look.style_axes(right, "top-1 accuracy, %")
    for number, (name, values) in enumerate(rates.items()):
        left.step(range(1, len(values) + 1), values, where="mid", color=look.PALETTE[number + 2], label=name)
    left.set_yscale("log")
    _label(left, "epoch")
    _legend(left)
    names = list(rates)
    for number, (network, by_schedule) in enumerate(accuracies.items()):
        shown = [name for name in names if by_schedule.get(name)]
        places = [names.index(name) + 0.1 * (number - 0.5) for name in shown]
        means = [100 * np.mean(by_schedule[name]) for name in shown]
        colour = _colour(network, number)
        for place, name in zip(places, shown, strict=True):
            values = 100 * np.array(by_schedule[name])
            right.plot([place] * len(values), values, ".", color=colour, alpha=0.5, markersize=4)
        right.plot(places, means, "o-", color=colour, linewidth=1.4, markersize=5, label=network)
    right.set_xticks(range(len(names)), names)
    _legend(right)
    return look.save_figure(figure, path)


def plot_corruptions(
    errors: Mapping[str, Mapping[str, Sequence[float]]], clean: Mapping[str, float],
    path: str | Path | None = None, title: str = "",
) -> Figure:  # fmt: skip
    """Draw the mean error of every corruption, networks side by side, and the error against the severity.

    errors: network -> corruption -> error at the severities, fractions. clean: network -> error.
    """
    figure = look.new_figure(11, 3.6, title)
    left, right = figure.subplots(1, 2, width_ratios=(2.4, 1))
    look.style_axes(left, "mean error over the severities, %")
    look.style_axes(right, "mean error over the corruptions, %")
    width = 0.8 / max(len(errors), 1)
    for number, (network, table) in enumerate(errors.items()):
        colour, names = _colour(network, number), list(table)
        places = np.arange(len(names)) + (number - (len(errors) - 1) / 2) * width
        left.bar(places, [100 * np.mean(table[name]) for name in names], width, color=colour, label=network)
        left.axhline(100 * clean[network], color=colour, linewidth=0.8, linestyle="--")
        curve = 100 * np.mean([table[name] for name in names], axis=0)
        curve = [100 * clean[network], *curve]
        right.plot(range(len(curve)), curve, "o-", color=colour, label=network, markersize=4)
        left.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=40, ha="right")
    _label(right, "severity (0: clean)")
    right.set_ylim(bottom=0)
    _legend(right)
    return look.save_figure(figure, path)


def plot_perturbations(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], path: str | Path | None = None, title: str = ""
) -> Figure:
    """Draw flip probabilities and top-5 distances of every perturbation; scores: network -> {"flips", "top5"}."""
    figure = look.new_figure(11, 3.4, title)
    for axes, (key, name, factor) in zip(
        figure.subplots(1, 2), (("flips", "flip probability, %", 100), ("top5", "top-5 distance", 1)), strict=True
    ):
        look.style_axes(axes, name)
        width = 0.8 / max(len(scores), 1)
        for number, (network, tables) in enumerate(scores.items()):
            names = list(tables[key])
            places = np.arange(len(names)) + (number - (len(scores) - 1) / 2) * width
            values = [factor * tables[key][name] for name in names]
            axes.bar(places, values, width, color=_colour(network, number), label=network)
            axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=40, ha="right")
        _legend(axes)
    return look.save_figure(figure, path)


CURVES = {
    "plain": "average pooling",
    "kfac_input": "average pooling, K-FAC (input)",
    "kfac": "average pooling, K-FAC",
    "covariance": "covariance without root",
    "preconditioned": "the same times P^(-1/2) / 2",
}


def plot_curvature(found: Mapping, path: str | Path | None = None, title: str = "") -> Figure:
    """Draw the spectrum of the features' covariance, and the cosines against the Newton-Schulz steps.

    found: from `classify.curvature.curvature`.
    """
    figure = look.new_figure(9.5, 3.3, title)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    look.style_axes(left, "mean eigenvalues of the covariance")
    values = np.array(found["eigenvalues"])
    left.plot(range(1, len(values) + 1), np.maximum(values, values.max() * 1e-12), color=look.INK, linewidth=1.4)
    left.set_yscale("log")
    _label(left, "number")
    look.style_axes(right, "cosine with the gradient of covariance pooling")
    steps = list(found["cosines"])
    for number, (key, name) in enumerate(CURVES.items()):
        cosines = [found["cosines"][step][key] for step in steps]
        right.plot(
            range(len(steps)), cosines, "o-", color=look.PALETTE[number], markersize=3, linewidth=1.2, label=name
        )
    right.set_xticks(range(len(steps)), steps)
    _label(right, "Newton-Schulz steps")
    _legend(right)
    return look.save_figure(figure, path)
