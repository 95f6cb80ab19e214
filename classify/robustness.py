"""Robustness to common corruptions and to perturbations (Hendrycks and Dietterich, ICLR 2019): what is counted.

Errors and rates go in as fractions; results are in percent, as such tables print them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from backbones.errors import UserError

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
# For choosing hyper-parameters; no part of mCE.
VALIDATION_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
PERTURBATIONS = (
    "gaussian_noise",
    "shot_noise",
    "motion_blur",
    "zoom_blur",
    "snow",
    "brightness",
    "translate",
    "rotate",
    "tilt",
    "scale",
)
NOISE_PERTURBATIONS = ("gaussian_noise", "shot_noise")
TOP = 5


@dataclass(frozen=True)
class Baseline:
    """The network whose errors are 1: for the corruptions, mean error over the severities and clean error; for the
    perturbations, flip rates and top-5 distances. `name` is told beside every number that it divides.
    """

    name: str
    clean_error: float | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    flips: Mapping[str, float] = field(default_factory=dict)
    top5: Mapping[str, float] = field(default_factory=dict)


# AlexNet on ImageNet-C: means over five severities. The four validation corruptions and the flip rates are from memory
# of the published tables, unlike the fifteen, which several public code bases share.
ALEXNET = Baseline(
    "AlexNet on ImageNet",
    0.4348,
    {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
        "speckle_noise": 0.845388,
        "gaussian_blur": 0.787108,
        "spatter": 0.717512,
        "saturate": 0.658248,
    },
    dict(
        zip(
            PERTURBATIONS,
            (0.2365, 0.3006, 0.0930, 0.0594, 0.1193, 0.0489, 0.1101, 0.1310, 0.0705, 0.2353),
            strict=True,
        )
    ),
)


def _named(table: Mapping[str, float], names: Sequence[str], what: str) -> list[float]:
    missing = [name for name in names if name not in table]
    if missing:
        raise UserError(f"{what} has no value for {', '.join(missing)}: leave these out, or add them")
    return [table[name] for name in names]


def corruption_scores(
    errors: Mapping[str, Sequence[float]], clean_error: float, baseline: Baseline = ALEXNET
) -> dict[str, float | dict[str, float] | None]:
    """Return mean_error, mCE and relative_mCE, and CE and relative_CE of every corruption, in percent.

    errors: corruption -> errors at its severities. The means are over the corruptions given.
    A corruption that did not raise the baseline's error has no relative CE: nan, and so is the mean.
    Raises UserError when the baseline lacks one of the corruptions, and without any.
    """
    if not errors:
        raise UserError("no corruption was scored: name at least one")
    names = list(errors)
    mean = np.array([float(np.mean(errors[name])) for name in names])
    reference = np.array(_named(baseline.errors, names, f"baseline '{baseline.name}'"))
    with np.errstate(divide="ignore", invalid="ignore"):
        ce = mean / reference
        relative = (mean - clean_error) / (reference - (baseline.clean_error or 0.0))
    if baseline.clean_error is None:
        relative = np.full_like(ce, np.nan)
    relative[~np.isfinite(relative)] = np.nan
    return {
        "mean_error": 100 * float(mean.mean()),
        "mCE": 100 * float(ce.mean()),
        "relative_mCE": 100 * float(relative.mean()),
        "CE": dict(zip(names, (100 * ce).tolist(), strict=True)),
        "relative_CE": dict(zip(names, (100 * relative).tolist(), strict=True)),
    }


def ranking(logits: np.ndarray) -> np.ndarray:
    """Return the ranks, from 0, of the classes (..., K) in falling order of their scores; ties by class number."""
    order = np.argsort(-np.asarray(logits), axis=-1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[-1]), order.shape), axis=-1)
    return ranks


def _pairs(ranks: np.ndarray, noise: bool, difficulty: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the second frames (V, pairs, K) that are compared."""
    if ranks.ndim != 3 or ranks.shape[1] < 2:
        raise ValueError(
            f"scores of videos have shape (videos, frames, classes) with two frames or more: {ranks.shape}"
        )
    if difficulty < 1 or (not noise and difficulty >= ranks.shape[1]):
        raise ValueError(f"difficulty {difficulty} of sequences of {ranks.shape[1]} frames: use 1, 2 or 3")
    if noise:
        return np.broadcast_to(ranks[:, :1], ranks[:, 1:].shape), ranks[:, 1:]
    return ranks[:, :-difficulty], ranks[:, difficulty:]


def flip_probability(ranks: np.ndarray, noise: bool = False, difficulty: int = 1) -> float:
    """Return how often the predicted class changes, a fraction.

    ranks: (V, F, K) from `ranking`. noise: compare every frame with the first, else frames `difficulty` apart.
    """
    first, second = _pairs(ranks, noise, difficulty)
    return float((first.argmin(-1) != second.argmin(-1)).mean(1).mean())


def top5_distance(ranks: np.ndarray, noise: bool = False, difficulty: int = 1) -> float:
    """Return the mean distance, 0 to 15, of the five best classes of the two frames; arguments as for flips."""
    first, second = _pairs(ranks, noise, difficulty)
    moved = np.abs(np.minimum(first, TOP) - np.minimum(second, TOP))
    return float(np.where(first < TOP, moved, 0).sum(-1).mean(1).mean())


def zipf_distance(ranks: np.ndarray, noise: bool = False, difficulty: int = 1) -> float:
    """Return the mean of sum |1/i - 1/sigma(i)| / i over all classes; arguments as for flips."""
    first, second = (frames + 1.0 for frames in _pairs(ranks, noise, difficulty))
    return float((np.abs(1 / first - 1 / second) / first).sum(-1).mean(1).mean())


def perturbation_scores(
    flips: Mapping[str, float], top5: Mapping[str, float] | None = None, baseline: Baseline = ALEXNET
) -> dict[str, float | None]:
    """Return mFP, mFR and mT5D in percent; a rate whose baseline is not known is None.

    flips, top5: perturbation -> flip probability and top-5 distance. The means are over the perturbations given.
    Raises UserError when the baseline knows only some of them, and without any.
    """
    if not flips:
        raise UserError("no perturbation was scored: name at least one")

    def divided(mine: Mapping[str, float], theirs: Mapping[str, float]) -> float | None:
        if not theirs:
            return None
        reference = np.array(_named(theirs, list(mine), f"baseline '{baseline.name}'"))
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = np.array(list(mine.values())) / reference
        return 100 * float(rates.mean()) if np.isfinite(rates).all() else None

    return {
        "mFP": 100 * float(np.mean(list(flips.values()))),
        "mFR": divided(flips, baseline.flips),
        "mT5D": divided(top5, baseline.top5) if top5 else None,
    }


def baseline_of(
    name: str,
    clean_error: float,
    errors: Mapping[str, Sequence[float]],
    flips: Mapping[str, float] | None = None,
    top5: Mapping[str, float] | None = None,
) -> Baseline:
    """Make a baseline of the errors, flip probabilities and top-5 distances of any network."""
    means = {corruption: float(np.mean(values)) for corruption, values in errors.items()}
    return Baseline(name, float(clean_error), means, dict(flips or {}), dict(top5 or {}))


def read_baseline(content: Mapping) -> Baseline:
    """Return a baseline from the content of a JSON file, as `write_baseline` gives it.

    Raises UserError for unknown or missing fields, and for numbers that are none.
    """
    known = set(Baseline.__dataclass_fields__)
    if not isinstance(content, Mapping) or set(content) - known or "name" not in content:
        given = sorted(content) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"a baseline has the fields {', '.join(sorted(known))}; this one has {given}")
    try:
        tables = {
            key: {k: float(v) for k, v in (content.get(key) or {}).items()} for key in ("errors", "flips", "top5")
        }
        clean = content.get("clean_error")
        return Baseline(str(content["name"]), None if clean is None else float(clean), **tables)
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"a baseline has tables of numbers, {{corruption: error}}: {error}") from error


def write_baseline(baseline: Baseline) -> dict:
    """Return a baseline as plain values for a JSON file."""
    return asdict(baseline)
