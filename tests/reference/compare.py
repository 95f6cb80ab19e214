"""Decide whether a value agrees with the stored one (`conventions.tolerance`)."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from numbers import Number

import numpy as np


def tolerance_for(tolerance: Mapping, *names: str) -> dict:
    """Return the numbers that hold for an array: the first matching exception, else the general ones.

    names: the npz array and the quantity; an exception may be listed under either, or under a pattern with *.
    """
    base = {key: value for key, value in tolerance.items() if key not in ("arrays", "applies_to")}
    for pattern, numbers in (tolerance.get("arrays") or {}).items():
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            return {**base, **numbers}
    return base


def compare(
    name: str,
    mine: np.ndarray,
    stored: np.ndarray,
    tolerance: Mapping,
    unreduced: np.ndarray | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Raise AssertionError unless |mine - stored| <= atol + rtol * scale everywhere (NaN equals NaN).

    unreduced: the value before it was shortened, for relative_to = norm; arrays: for the positions named by `where`.
    """
    mine, stored = np.asarray(mine), np.asarray(stored)
    assert mine.size == stored.size, f"{name}: shape {mine.shape}, stored {stored.shape}"
    mine = mine.reshape(stored.shape).astype(np.float64)
    stored = stored.astype(np.float64)
    keep = np.ones(stored.shape, dtype=bool)
    if tolerance.get("where"):
        where = tolerance["where"]
        keep = np.asarray(arrays[where["array"]]).reshape(stored.shape) > where["above"]
    scale = _scale(stored, tolerance.get("relative_to", "max"), unreduced)
    limit = np.broadcast_to(tolerance.get("atol", 0.0) + tolerance.get("rtol", 0.0) * scale, stored.shape)
    with np.errstate(invalid="ignore"):
        error = np.abs(mine - stored)
    same = (mine == stored) | (np.isnan(mine) & np.isnan(stored))
    error = np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
    bad = keep & (error > limit)
    if bad.any():
        place = np.unravel_index(int(np.argmax(np.where(bad, error, -1.0))), stored.shape)
        raise AssertionError(
            f"{name}: {int(bad.sum())} of {stored.size} values differ, most at {tuple(map(int, place))}: "
            f"{mine[place]!r}, stored {stored[place]!r}, error {error[place]:.3e}, allowed {limit[place]:.3e}"
        )
    if "max_differing_fraction" in tolerance:
        share = float((keep & (error > 0)).mean()) if stored.size else 0.0
        allowed = tolerance["max_differing_fraction"]
        assert share <= allowed, f"{name}: {share:.4f} of the values differ, allowed {allowed}"


def _scale(stored: np.ndarray, relative_to: str, unreduced: np.ndarray | None):
    match relative_to:
        case "max":
            finite = np.abs(stored[np.isfinite(stored)])
            return finite.max() if finite.size else 0.0
        case "elementwise":
            return np.where(np.isfinite(stored), np.abs(stored), 0.0)
        case "norm":
            return float(np.linalg.norm(np.asarray(unreduced, dtype=np.float64)))
    raise ValueError(f"unknown relative_to '{relative_to}' in a tolerance")


def compare_literal(name: str, mine, expected, tolerance: Mapping) -> None:
    """Compare with a literal of the JSON file: integers, strings and lists must be equal, floats within tolerance."""
    mine = _plain(mine)
    if isinstance(expected, Mapping):
        assert isinstance(mine, Mapping), f"{name}: {type(mine).__name__}, expected a mapping"
        assert set(mine) == set(expected), f"{name}: keys differ: {sorted(set(mine) ^ set(expected))[:8]}"
        for key in expected:
            compare_literal(f"{name}[{key!r}]", mine[key], expected[key], tolerance)
    elif _numbers(expected) and _any_float(expected):
        compare(name, np.asarray(mine, dtype=np.float64), np.asarray(expected, dtype=np.float64), tolerance)
    elif isinstance(expected, Sequence) and not isinstance(expected, str):
        assert isinstance(mine, Sequence) and not isinstance(mine, str), f"{name}: {mine!r}, expected a list"
        assert len(mine) == len(expected), f"{name}: {len(mine)} entries, expected {len(expected)}"
        for place, (a, b) in enumerate(zip(mine, expected, strict=True)):
            compare_literal(f"{name}[{place}]", a, b, tolerance)
    else:
        assert mine == expected, f"{name}: {mine!r}, expected {expected!r}"


def _plain(value):
    """Return arrays and tensors as nested lists or numbers."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def _numbers(value) -> bool:
    """Whether the value is a number or a rectangular nested list of numbers."""
    if isinstance(value, bool) or not isinstance(value, Number | list):
        return False
    if isinstance(value, list):
        if not value or not all(_numbers(v) for v in value):
            return False
        lengths = {len(v) if isinstance(v, list) else -1 for v in value}
        return len(lengths) == 1
    return True


def _any_float(value) -> bool:
    return any(map(_any_float, value)) if isinstance(value, list) else isinstance(value, float)
