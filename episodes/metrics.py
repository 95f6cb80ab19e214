"""Accuracy with its interval, confusion and per-class accuracy of few-shot evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from episodes.errors import UserError


def mean_and_interval(
    accuracies: Sequence[float] | np.ndarray, z: float = 1.96, ddof: int = 0, student: bool = False
) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % interval over episodes.

    accuracies: (E,) one number an episode, in any unit; both results have that unit.
    z, ddof: half-width = z * std / sqrt(E), with the population deviation (ddof 0) as in the DeepBDC protocol.
    student: Student's t with the sample deviation instead, as Good-Embed's own code reports.
    Raises UserError for no episode or a number that is not finite.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise UserError(f"an interval needs finite accuracies of at least one episode, got shape {values.shape}")
    mean = float(values.mean())
    if len(values) == 1:
        return mean, float("inf") if student else 0.0
    if student:
        from scipy.stats import t

        z, ddof = float(t.ppf(0.975, len(values) - 1)), 1
    return mean, z * float(values.std(ddof=ddof)) / math.sqrt(len(values))


def paired_difference(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the mean of a - b and its 95 % half-width; both hold one accuracy for each of the *same* episodes."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise UserError(f"paired differences need the same episodes on both sides, got {len(a)} and {len(b)}")
    return mean_and_interval(a - b)


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Count predictions: (K, K) with row = true class, column = predicted class; both arguments are (N,) class ids."""
    flat = np.bincount(true * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes)


def per_class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return (K,) the share of right predictions of each true class; NaN for a class that never was a query."""
    total = confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, confusion.diagonal() / np.maximum(total, 1), np.nan)


def percent(mean: float, half_width: float) -> str:
    """Print a fraction and its half-width as percent."""
    return f"{100 * mean:.2f} ± {100 * half_width:.2f}"
