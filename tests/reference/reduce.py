"""Shorten a quantity the way its stored array was shortened (`conventions.reduce`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tests.reference.fill import draw

STATS = {
    "mean": np.mean,
    "std": np.std,
    "l2": lambda x: np.sqrt(np.sum(x * x)),
    "min": np.min,
    "max": np.max,
    "sum": np.sum,
    "max_abs": lambda x: np.max(np.abs(x)),
    "count": np.size,
}
PROBES = 64
PROJECTION_SEED = 990001
LISTS = ("l2_list", "stats_rows")  # made of several quantities, named by `order`


def reduce_value(value: np.ndarray, spec: Mapping, stored: np.ndarray, stats_fields: Sequence[str]) -> np.ndarray:
    """Return `value` shortened as `spec` says; `stored` gives the length where the rule is 'as many as are stored'."""
    how = spec.get("reduce")
    flat = value.reshape(-1)
    match how:
        case None:
            return value
        case "head":
            return flat[: stored.size]
        case "probe":
            return flat[np.linspace(0, flat.size - 1, PROBES).astype(np.int64)]
        case "stats":
            return stats(value, stats_fields)
        case "shape":
            return np.asarray(value.shape)
        case "l2":
            return STATS["l2"](value.astype(np.float64))
        case "proj":
            return np.sum(value.astype(np.float64) * draw(PROJECTION_SEED, value.shape))
        case "slice":
            return value[tuple(slice(None) if s is None else slice(*s) for s in spec["slices"])]
        case "take":
            start, stop = spec["columns"]
            return value[list(spec["rows"])][:, start:stop]
        case "channel_mean_std":
            wide = value.astype(np.float64)
            return np.concatenate([wide.mean((0, 1)), wide.std((0, 1))])
        case "summary":
            wide = flat.astype(np.float64)
            return np.concatenate([stats(value, ("mean", "std", "l2")), wide[: stored.size - 3]])
    raise ValueError(f"unknown reduction '{how}'")


def reduce_list(values: Sequence[np.ndarray], how: str, stats_fields: Sequence[str]) -> np.ndarray:
    """Return one number (l2_list) or one row of statistics (stats_rows) for every quantity."""
    if how == "l2_list":
        return np.asarray([STATS["l2"](v.astype(np.float64)) for v in values])
    return np.stack([stats(v, stats_fields) for v in values])


def stats(value: np.ndarray, fields: Sequence[str]) -> np.ndarray:
    wide = value.astype(np.float64)
    return np.asarray([STATS[field](wide) for field in fields], dtype=np.float64)
