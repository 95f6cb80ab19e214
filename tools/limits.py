"""Numbers that no script can work with, refused before anything is opened."""

from __future__ import annotations

from typing import Any

# Option -> its smallest value; options that a script lacks, and those that are null, are left out.
LEAST = {
    "seed": 0,
    "generations": 0,
    "repeats": 1,
    "episodes": 1,
    "episodes_per_step": 1,
    "size": 1,
    "validate_from": 0,
    "data.size": 1,
    "data.workers": 0,
    "model.reduce_dim": 1,
    "optim.epochs": 1,
    "optim.batch_size": 1,
    "optim.accumulate": 1,
    "optim.save_steps": 0,
    "machine.threads": 1,
    "machine.num_nodes": 1,
}
POSITIVE = ("optim.lr", "optim.temperature_lr", "optim.clip_norm", "distill_temperature")
NOT_EMPTY = ("test", "k_shot", "methods", "seeds")


def check_numbers(config: Any) -> None:
    """Raise a UserError for the first option of a script's dataclass that is out of its range."""
    from backbones.errors import UserError

    for name, least in LEAST.items():
        value = _option(config, name)
        if isinstance(value, int) and value < least:
            raise UserError(f"{name} must be at least {least}, not {value}")
    for name in POSITIVE:
        value = _option(config, name)
        if value is not None and not value > 0:  # this way round, so that NaN is refused as well
            raise UserError(f"{name} must be above 0, not {value}")
    for name in NOT_EMPTY:
        if _option(config, name) == []:
            raise UserError(f"{name} is an empty list: name at least one")
    dropout = _option(config, "model.dropout")
    if dropout is not None and not 0 <= dropout < 1:
        raise UserError(f"model.dropout must be in [0, 1), not {dropout}")
    optim = _option(config, "optim")
    if optim is not None and optim.name == "sgd" and optim.nesterov and not optim.momentum > 0:
        raise UserError("Nesterov's step needs momentum above 0: raise optim.momentum, or --optim.nesterov false")


def _option(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part, None)
    return config
