"""What the report of `tools.gcp_study` says: one section a part, with what was found and what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from classify.probing import compare_landscapes
from classify.study_plots import (
    plot_corruptions,
    plot_curvature,
    plot_landscapes,
    plot_perturbations,
    plot_schedules,
)
from classify.study_published import PUBLISHED_ROBUSTNESS, PUBLISHED_TOP1
from tools.study_page import PlainTable, Section
from tools.study_parts import SEEN

LEARNT = 0.5  # share of the first schedule's accuracy below which a gap tells of the training's start alone


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _with_spread(value: float | None, spread: float | None, digits: int = 1, sign: str = "") -> str:
    if value is None or spread is None:
        return "–" if value is None else f"{value:{sign}.{digits}f}"
    return f"{value:{sign}.{digits}f} ± {spread:.{digits}f}"


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _mean(values: Sequence[float], scale: float = 1.0) -> float:
    return scale * sum(values) / len(values)


def landscape_section(probes: Mapping[str, Sequence[Mapping]], folder: Path) -> tuple[Section, dict[str, float]]:
    """Return the section of loss landscape, gradient predictiveness and smoothness, and the comparison's figures."""
    file = folder / "landscapes.png"
    plot_landscapes(probes, file)
    found = compare_landscapes(probes["GAP"], probes["GCP"])
    rows = [
        [name, *(f"{found[f'{key}_{which}']:.4g}" for which in ("first", "second")), f"{100 * found[share]:.0f} %"]
        for name, key, share in (
            ("width of the loss band", "loss_width", "loss_width_narrower"),
            ("width of the gradient band", "distance_width", "distance_width_narrower"),
            ("effective smoothness", "smoothness", "smoothness_lower"),
        )
    ]
    first = probes["GAP"][0]
    words = [
        f"{found['probes']} probes of each training, on the batch of a step, with the weights before it. From the map "
        f"y behind the stem one goes along its gradient g, y + ηg, in {len(first['etas'])} steps η from "
        f"{first['etas'][0]:g} to {first['etas'][-1]:g}. The loss band spans the losses on the way, the gradient band "
        "the distances of the gradients from g. Smoothness is the largest distance over the length of the way. "
        "Published: with GCP both bands are narrower and lower."
    ]
    table = PlainTable("Means over the probes.", ["", "GAP", "GCP", "probes at which GCP's is smaller"], rows)
    return Section(
        "Loss landscape and gradient predictiveness", words, [table], [("Bands against the step", file)]
    ), found


def schedule_section(
    rates: Mapping[str, Sequence[float]],
    reached: Mapping[str, Mapping[str, Sequence[float]]],
    lost: Mapping[str, Mapping[str, Mapping]],
    parameters: Mapping[str, int],
    folder: Path,
) -> Section:
    """Return the section of the fast schedules, with the table of gaps.

    rates: schedule -> rate of every epoch. reached: network -> schedule -> accuracies. lost: as `study_parts.gaps`.
    """
    file = folder / "schedules.png"
    plot_schedules(rates, reached, file)
    names, first = list(rates), next(iter(rates))
    seeds = len(next(iter(reached.values()))[first])
    rows = []
    for network, by_schedule in reached.items():
        own = [_number(_mean(by_schedule[name], 100), 2) for name in names]
        missing = [lost[name][network] for name in names[1:]]
        gap = [_with_spread(one["mean"], one["spread"], 2, "+") for one in missing]
        rows.append([network, f"{parameters[network]:,}", *own, *gap])
    columns = ["", "parameters", *names, *(f"{first} less {name}" for name in names[1:])]
    words = [
        f"Epochs: {', '.join(f'{name} {len(values)}' for name, values in rates.items())}. Top-1 in percent on the "
        f"validation pictures after the last epoch, {f'mean of {seeds} seeds' if seeds > 1 else 'one seed'}; what a "
        f"schedule loses is in points{', with its standard deviation over the seeds' if seeds > 1 else ''}.",
        *_verdicts(first, names[1:], reached, lost),
    ]
    tables = [PlainTable("Accuracy and gaps.", columns, rows)]
    if names == ["LRnorm", "LRfast", "LRadju"]:
        tables.append(_published_gaps())
    return Section("Fast schedules", words, tables, [("Schedules, and what was reached with them", file)])


def _verdicts(first: str, names: Sequence[str], reached: Mapping, lost: Mapping) -> list[str]:
    """Say of every schedule which network loses less, and where a training was too short to tell."""
    words = []
    for name in names:
        gap, gcp = (lost[name][network] for network in ("GAP", "GCP"))
        less = [theirs > own for theirs, own in zip(gap["seeds"], gcp["seeds"], strict=True)]
        seeds = f"less with {sum(less)} of {len(less)} seeds"
        if len(less) == 1:
            seeds = "less, with one seed" if less[0] else "no less, with one seed"
        there = "for all networks" if name == "LRfast" else "for all but MobileNetV2 and ResNet-101"
        words.append(
            f"{name}: GAP loses {gap['mean']:.2f} points, GCP {gcp['mean']:.2f}; GCP loses "
            f"{seeds}. Published: less, {there}."
        )
        share = {net: _mean(by[name]) / max(_mean(by[first]), 1e-12) for net, by in reached.items()}
        short = [network for network, value in share.items() if value < LEARNT]
        if short:
            words.append(
                f"{' and '.join(short)} reached less than half by {name} of what {first} gives: this training is too "
                "short for a comparison with what was published. Raise schedules.stretch or schedules.lr, or take the "
                "schedules of another schedules.family (shufflenet's fall most slowly)."
            )
    return words


def _published_gaps() -> PlainTable:
    rows = [
        [f"{base}, {head}", *(f"{value:.2f}" for value in values), *(f"{values[0] - v:+.2f}" for v in values[1:])]
        for base, pair in PUBLISHED_TOP1.items()
        for head, values in zip(("GAP", "GCP"), pair, strict=True)
    ]
    columns = ["", "LRnorm", "LRfast", "LRadju", "LRnorm less LRfast", "LRnorm less LRadju"]
    return PlainTable("Published, ImageNet, top-1 in percent.", columns, rows)


def robust_section(found: Mapping, folder: Path) -> Section:
    """Return the section of robustness; found: from `study_parts.robustness`."""
    scores = found["networks"]
    errors = {name: one["errors"] for name, one in scores.items()}
    file = folder / "corruptions.png"
    plot_corruptions(errors, {name: one["clean_error"] for name, one in scores.items()}, file)
    figures = [("Errors on corrupted pictures; dashed: on clean ones", file)]
    if found["generated"]:
        figures.append(("Two of the pictures under every corruption, as the networks see them", folder / SEEN))
    if found["sequences"]:
        figures.append(("Flips and top-5 distances of perturbation sequences", folder / "perturbations.png"))
        plot_perturbations(scores, folder / "perturbations.png")
    own, given = found["own_baseline"], found["baseline"]
    columns = ["", "clean error", "mean error", "mCE", "relative mCE", "mFP", "mFR", "mT5D"]
    tables = []
    for key, name in (("given", given), ("own", own)):
        rows = [
            [
                network,
                _with_spread(100 * one["clean_error"], _percent(one["spread"]["clean_error"])),
                *(
                    _with_spread(one[key][figure], one["spread"][key][figure], 2 if figure == "mFP" else 1)
                    for figure in ("mean_error", "mCE", "relative_mCE", "mFP", "mFR", "mT5D")
                ),
            ]
            for network, one in scores.items()
        ]
        tables.append(PlainTable(f"In percent; 100 is {name}. Mean error and mFP are not divided.", columns, rows))
    rows = [
        [name.replace("_", " "), *(_number(100 * _mean(table[name])) for table in errors.values())]
        for name in next(iter(errors.values()))
    ]
    tables.append(PlainTable("Mean error over the severities, in percent.", ["", *errors], rows))
    rows = [
        [f"{base}, {head}", *(_number(value) for value in values)]
        for base, pair in PUBLISHED_ROBUSTNESS.items()
        for head, values in zip(("GAP", "GCP"), pair, strict=True)
    ]
    columns = ["", "mCE", "relative mCE", "mFR", "mT5D"]
    tables.append(PlainTable("Published, ImageNet-C and -P, against AlexNet.", columns, rows))
    made = "Pictures are corrupted here (generated, not the official files)"
    made = made if found["generated"] else "Corrupted pictures come from a folder"
    words = [
        f"{made}: {found['pictures']} pictures, "
        f"{len(found['counted'])} corruptions; sequences of {found['sequences']} pictures. Frost: {found['frost']}. "
        "Sequences are not compressed as videos."
        + (f" Means of {found['seeds']} seeds, with standard deviations." if found["seeds"] > 1 else ""),
        f"Errors divided by those of {given} say little about another data set than its own; the second table divides "
        f"by {own}, so that GCP below 100 is more robust. AlexNet's flip rates are from memory of the published table, "
        "its top-5 distances are not known; give robust.baseline for others. – stands where the "
        "baseline has no such number, or where it is zero, or no higher than its error on clean pictures.",
    ]
    return Section("Robustness", words, tables, figures)


def curvature_section(found: Mapping, folder: Path) -> Section:
    """Return the section of the link to second-order optimisation; found: from `study_parts.measure_curvature`."""
    file = folder / "curvature.png"
    plot_curvature(found, file)
    exact = found["cosines"]["exact"]
    words = [
        f"{found['pictures']} validation pictures in the GCP network. The covariance of all positions has condition "
        f"{found['condition']:.3g}; that of one picture has rank {found['rank']:.1f} on average.",
        "The root divides a gradient by sums of square roots of eigenvalues, as P^(-1/2) / 2 would. Cosines compare "
        "gradients of a layer in front of the pooling: the GCP gradient with that of average pooling, plain and under "
        "K-FAC, whose classifier is fitted to these features; and, at the features, with the gradient of covariance "
        "pooling without a root, plain and times P^(-1/2) / 2.",
        f"With the exact root the GCP gradient has a cosine of {exact['plain']:.3f} with the plain one and of "
        f"{exact['kfac']:.3f} with K-FAC's; as a stand-in for K-FAC the latter would be the larger one.",
    ]
    rows = [
        [steps, *(f"{row[key]:.3f}" for key in ("plain", "kfac_input", "kfac", "covariance", "preconditioned"))]
        for steps, row in found["cosines"].items()
    ]
    columns = ["steps", "GAP", "GAP, K-FAC (input)", "GAP, K-FAC", "no root", "no root × P^(-1/2) / 2"]
    return Section(
        "Link to second-order optimisation",
        words,
        [PlainTable("Cosines.", columns, rows)],
        [("Spectrum and cosines", file)],
    )
