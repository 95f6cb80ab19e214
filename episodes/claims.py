"""What the header of an episode file claims of its episodes: read it, and say where an episode is otherwise."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from episodes.errors import UserError
from episodes.extras import Extras
from episodes.sizes import RULES, FixedSizes, ImbalancedSizes, MetaDatasetSizes

Sizes = FixedSizes | MetaDatasetSizes | ImbalancedSizes


def claimed(header: dict[str, Any], where: str) -> tuple[Sizes | None, Extras]:
    """Return the rule of sizes (None where there is none) and the extras that a header names.

    where: file and line, for messages. Raises UserError for a rule or a number that cannot be.
    """
    sizes, extras = header.get("sizes"), header.get("extras")
    try:
        rule = None
        if sizes is not None:
            given = {key: tuple(v) if isinstance(v, list) else v for key, v in sizes.items() if key != "rule"}
            rule = RULES[sizes["rule"]](**given)
            _check_whole(rule)
        extras = extras if extras is not None else {}
        for name, value in extras.items():
            if name in Extras.__dataclass_fields__ and not (type(value) is int and value >= 0):
                raise UserError(f"extras.{name} is {value!r}: it must be a whole number from 0 on")
        return rule, Extras(**extras)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: the header names sizes or extras that are not known") from error


def _check_whole(rule: Sizes) -> None:
    """Raise a TypeError for a number of a rule that is not a whole one above 0."""
    values = [getattr(rule, field.name) for field in fields(rule) if field.name != "query_alpha"]
    flat = [number for value in values for number in (value if isinstance(value, tuple) else [value])]
    sound = all(type(number) is int and number > 0 for number in flat) and rule.n_way > 1
    alpha = getattr(rule, "query_alpha", None)
    if not sound or not (alpha is None or (type(alpha) in (int, float) and 0 < alpha < float("inf"))):
        raise TypeError("the numbers of a rule of sizes must be whole ones above 0")


def contradiction(
    sizes: Sizes | None,
    extras: Extras,
    shots: np.ndarray,
    queries: np.ndarray,
    unlabelled: np.ndarray,
    unknown: np.ndarray,
    distractors: np.ndarray,
) -> str | None:
    """Say in what an episode is not as the header claims; None where it is.

    shots, queries, unlabelled: (N,) items of each class. unknown, distractors: the class of each such item.
    """
    claims = [
        ("unknown queries", len(unknown), extras.unknown_ways * extras.unknown_queries),
        ("classes of unknown queries", len(np.unique(unknown)), extras.unknown_ways),
        ("distractors", len(distractors), extras.distractor_ways * extras.distractors),
        ("classes of distractors", len(np.unique(distractors)), extras.distractor_ways),
    ]
    for what, found, claim in claims:
        if found != claim:
            return f"has {found} {what} and the header's extras name {claim}"
    # a class that the supports and queries nearly use up gives what is left; without a rule that may be so, too
    short = sizes is None or sizes.greedy
    if (unlabelled > extras.unlabelled).any() or (not short and (unlabelled != extras.unlabelled).any()):
        return f"has {unlabelled.tolist()} unlabelled items of its classes and the header's extras {extras.unlabelled}"
    if isinstance(sizes, MetaDatasetSizes):
        fits = sizes.min_way <= len(shots) <= sizes.max_way and shots.sum() <= sizes.max_support
        fits = fits and (queries == queries[0]).all() and queries[0] <= sizes.max_query
    elif isinstance(sizes, ImbalancedSizes):
        fits = len(shots) == sizes.n_way and sizes.shots[0] <= shots.min() and shots.max() <= sizes.shots[1]
        even = (queries == sizes.n_query).all()
        fits = fits and (even if sizes.query_alpha is None else queries.sum() == sizes.n_way * sizes.n_query)
    elif sizes is not None:
        fits = shots.tolist() == list(sizes.shots) and (queries == sizes.n_query).all()
    else:
        fits = True
    if fits:
        return None
    return f"has {shots.tolist()} supports and {queries.tolist()} queries of its classes and the header says: {sizes}"
