"""Numbers that no script can work with, refused before anything is opened. No heavy import, so that it answers at once.

The tables go by an option's own name; it is looked for in the dataclass of a script and in every group of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

# Option -> its smallest value, of each number where the option is a list; options that are null are left out.
LEAST = {
    "seed": 0,
    "seeds": 0,
    "generations": 0,
    "repeats": 1,
    "n_way": 2,
    "k_shot": 1,
    "n_query": 1,
    "shots": 1,
    "max_way": 5,
    "unknown_ways": 0,
    "unknown_queries": 1,
    "unlabelled": 0,
    "distractor_ways": 0,
    "distractors": 0,
    "episodes": 1,
    "episodes_per_step": 1,
    "size": 1,
    "validate_from": 0,
    "workers": 0,
    "reduce_dim": 1,
    "epochs": 1,
    "batch_size": 1,
    "accumulate": 1,
    "save_steps": 0,
    "threads": 1,
    "cpus_per_job": 1,
    "gpus_per_job": 0,
    "num_nodes": 1,
    "sheets": 0,
    "opset": 18,
    "frames": 1,
    "step": 1,
    "every": 0,
    "count": 1,
    "severities": 1,
    "limit": 1,
    "sequences": 0,
    "difficulty": 1,
    "store": 1,
    "limit_s": 0,
    "warmup_epochs": 0,
    "final_lr": 0,
    "mixup": 0,
    "cutmix": 0,
    "t_max": 1,
    "resize": 1,
    "colour": 0,
    "streams": 1,
    "window": 1,
    "cooldown_epochs": 0,
    "warmup_lr": 0,
    "classifier_decay": 0,
    "weight_decay": 0,
    "top": 1,
    "heat": 0,
    "per_shard": 1,
    "iterations": 1,
    "eta_min": 0,
    "timed_steps": 0,
    "num_classes": 1,
}
POSITIVE = (
    "lr",
    "layer_decay",
    "temperature_lr",
    "clip_norm",
    "distill_temperature",
    "tolerance",
    "query_alpha",
    "timeout_minutes",
    "classifier_factor",
    "gamma",
    "stretch",
    "low",
    "high",
)
BELOW_ONE = ("dropout", "momentum", "unknown_below", "beta2", "mask_ratio", "label_smoothing", "drop_path", "average")
# Probabilities, one included.
SHARES = ("flip", "erasing", "mix_share", "cutmix_share")
NOT_EMPTY = ("test", "k_shot", "methods", "seeds", "sources", "targets", "kinds", "severities", "parts", "names")
# What Lightning Fabric knows, and its short names of the same.
PRECISIONS = (
    "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true",
    "transformer-engine", "transformer-engine-float16", "32", "16", "bf16", "64",
)  # fmt: skip


def check_numbers(config: Any) -> None:
    """Raise a UserError for the first option of a script's dataclass that is out of its range."""
    from backbones.errors import UserError

    if wrong := out_of_range(config):
        raise UserError(wrong)


def out_of_range(config: Any) -> str | None:
    """Say which option of a script's dataclass is out of its range, in one sentence; None if all are fine."""
    found = (_wrong(name, name.split(".")[-1], value) for name, value in _options(config))
    if wrong := next(filter(None, found), None):
        return wrong
    for name, optim in _groups(config):
        if getattr(optim, "name", "") == "sgd" and optim.nesterov and not optim.momentum > 0:
            return f"Nesterov's step needs momentum above 0: raise {name}.momentum, or --{name}.nesterov false"
    from_file = getattr(config, "episode_file", None) is not None  # then the file says which queries are unknown
    return wrong_kind(config.kind, from_file) if hasattr(config, "kind") else None


def wrong_kind(kind: Any, from_file: bool = False) -> str | None:
    """Say which options of a `tools.groups.Kind` do not fit together; None if all do.

    from_file: the episodes come from a file, which may have unknown queries of its own.
    """
    uneven = kind.shots is not None or kind.query_alpha is not None
    if kind.shots is not None and (len(kind.shots) != 2 or not 1 <= kind.shots[0] <= kind.shots[1]):
        return f"kind.shots is {kind.shots}: it must be the fewest and the most supports of a class, such as [1, 5]"
    if uneven and kind.sizes != "imbalanced":
        return "kind.shots and kind.query_alpha are of imbalanced episodes: add kind.sizes imbalanced"
    if kind.sizes == "imbalanced" and not uneven:
        return "imbalanced episodes need kind.shots, kind.query_alpha or both, to say what differs between the classes"
    if kind.max_way != type(kind)().max_way and kind.sizes != "meta_dataset":
        return "kind.max_way is of episodes of the Meta-Dataset rule: add kind.sizes meta_dataset"
    if kind.open_score != "probability" and not (kind.unknown_ways or from_file):
        return "kind.open_score needs kind.unknown_ways, the classes of the queries that it is to tell"
    if kind.unknown_queries is not None and not kind.unknown_ways:
        return "kind.unknown_queries needs kind.unknown_ways, the classes that they are of"
    if kind.distractors is not None and not kind.distractor_ways:
        return "kind.distractors needs kind.distractor_ways, the classes that they are of"
    if kind.distractor_ways and not (kind.unlabelled if kind.distractors is None else kind.distractors):
        return "kind.distractor_ways needs kind.distractors, the pictures of each of these classes"
    return None


def _wrong(name: str, own: str, value: Any) -> str | None:
    """Say what is wrong with one option; `own` is its name without the group."""
    if value is None:
        return None
    if own in NOT_EMPTY and value in ([], {}):
        return f"{name} is {'an empty list' if value == [] else 'empty'}: name at least one"
    least = LEAST.get(own)
    if least is not None and isinstance(value, list) and any(one < least for one in value):
        return f"{name} is {value}: each must be at least {least}"
    if least is not None and isinstance(value, int | float) and value < least:
        return f"{name} must be at least {least}, not {value}"
    if own in POSITIVE and not value > 0:  # this way round, so that NaN is refused as well
        return f"{name} must be above 0, not {value}"
    if own in BELOW_ONE and not 0 <= value < 1:
        return f"{name} must be in [0, 1), not {value}"
    if own in SHARES and not 0 <= value <= 1:
        return f"{name} must be in [0, 1], not {value}"
    if own == "precision" and value not in PRECISIONS:
        return f"{name} must be one of {', '.join(PRECISIONS)}, not {value}"
    return None


def _groups(config: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield field.name, value


def _options(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _options(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value
