"""Open-set recognition: how well the scores of a head tell queries of the episode's classes from all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from episodes.errors import UserError

OPEN_SCORES = ("probability", "logit")


def known_scores(logits: Tensor, by: str = "probability") -> Tensor:
    """Return how surely a query is of a class of its episode: (E, Q) float64 for logits (E, Q, K), higher is surer.

    by: "logit" takes the largest logit. "probability" orders the queries as the largest softmax probability p does, and
        returns minus its odds, 1 - 1 / p: p itself is rounded to 1 for many queries of a sharp head, which would tie.
    Raises UserError for logits that are not a number.
    """
    logits = logits.double()
    largest, chosen = logits.max(dim=-1, keepdim=True)
    if by == "logit":
        scores = largest.squeeze(-1)
    elif by == "probability":
        others = (logits - largest).exp().scatter(-1, chosen, 0.0)
        scores = -others.sum(dim=-1)
    else:
        raise UserError(f"open-set scores go by {' or '.join(OPEN_SCORES)}, not by {by}")
    if torch.isnan(scores).any():
        raise UserError("the head gives logits that are not a number, by which no query can be called unknown")
    return scores


def midranks(values: np.ndarray) -> np.ndarray:
    """Rank every row of (E, W) from 1 up; equal values share the mean of their ranks, and NaN comes last."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    place = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    new = np.ones(values.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    closing = np.ones(values.shape, dtype=bool)
    closing[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(closing, place, values.shape[1])[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=1)
    return ranks


def placements(known: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Return for each unknown query the share of the known ones that score higher, equal scores counted half.

    known: (E, Q) scores, NaN = padding. unknown: (E, U).
    Returns (E, U), the unknown query of the highest score first. The mean of a row is the area under the ROC curve, and
    the row is that curve: the share of the known queries that is accepted while the j-th unknown one comes to be.
    """
    falling = -np.sort(-unknown, axis=1)
    together = midranks(np.concatenate([falling, known], axis=1))[:, : falling.shape[1]]
    count = (~np.isnan(known)).sum(axis=1)[:, None]
    return 1 - (together - midranks(falling)) / count


@dataclass
class OpenSet:
    """What open-set pictures are drawn from, over all episodes of an evaluation.

    known, unknown: scores of all queries, 1-D: the log-odds ln(p / (1 - p)) of the largest probability p, or the
        largest logit. A sharp head gives nearly all queries a p that rounds to 1, whose log-odds still differ.
    curve: (U,) mean over `episodes` of the accepted share of known queries, see `placements`.
    """

    known: np.ndarray
    unknown: np.ndarray
    curve: np.ndarray
    episodes: int

    @staticmethod
    def of(known: np.ndarray, unknown: np.ndarray, curves: np.ndarray, by: str) -> OpenSet:
        """Collect the results of E episodes: scores as `known_scores` gives them (E, Q) and (E, U), curves (E, U)."""
        flat = [scores[~np.isnan(scores)] for scores in (known, unknown)]
        if by == "probability":
            flat = [-np.log(np.maximum(-scores, np.finfo(np.float64).tiny)) for scores in flat]
        return OpenSet(*(scores.astype(np.float32) for scores in flat), curves.mean(axis=0), len(curves))

    @staticmethod
    def merge(parts: list[OpenSet]) -> OpenSet:
        """Put several together; all have the same number of unknown queries an episode."""
        counts = np.array([part.episodes for part in parts])
        curve = (np.stack([part.curve for part in parts]) * counts[:, None]).sum(axis=0) / counts.sum()
        known, unknown = (np.concatenate([getattr(part, side) for part in parts]) for side in ("known", "unknown"))
        return OpenSet(known, unknown, curve, int(counts.sum()))
