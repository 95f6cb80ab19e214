"""Learning rates of the classification recipes, in every step of the optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.optim.lr_scheduler import LambdaLR

from backbones.errors import UserError, nearest
from classify import study_schedules

# Rate at (epoch, counted from 0; step within it; steps in an epoch). Most change between epochs only.
Rate = Callable[[int, int, int], float]
SCHEDULES = ("step", "exponential", "log", "linear", "cosine", "constant", *study_schedules.SCHEDULES)


def make_rate(
    name: str,
    lr: float,
    epochs: int,
    *,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    log: Sequence[float] = (),
    final_lr: float = 0.0,
    warmup_epochs: int = 0,
    warmup_lr: float = 0.0,
    cooldown_epochs: int = 0,
    family: str = "resnet",
) -> Rate:
    """Return the rate of a schedule.

    step: times gamma at every milestone (an epoch number) that is reached. exponential: lr * gamma^epoch.
    log: 10^a to 10^b over the epochs, evenly in the exponent; log=(a, b), without regard to lr.
    linear: to 0, in every step. cosine: half a wave to final_lr, which the `cooldown_epochs` at the end keep.
    LRnorm, LRfast, LRadju: those of the study for a family (resnet, mobilenet, shufflenet), stretched to the epochs.
    warmup_epochs: these rise linearly from warmup_lr towards lr, epoch by epoch, in the place of the schedule's own
        first epochs (timm's rule: the schedule is not shifted).
    Raises UserError for an unknown schedule, or without what it needs.
    """
    if name not in SCHEDULES:
        raise UserError(f"schedule '{name}' is unknown{nearest(name, SCHEDULES)}")
    if epochs <= warmup_epochs + cooldown_epochs > 0:
        raise UserError(
            f"{warmup_epochs} epochs of warm-up and {cooldown_epochs} of cool-down leave none of {epochs} epochs: "
            "lower optim.warmup_epochs or optim.cooldown_epochs"
        )
    if name == "log" and len(log) != 2:
        raise UserError("the schedule log needs optim.log, the exponents of the first and the last rate, as [-1, -4]")
    if name in study_schedules.SCHEDULES:
        stretch = epochs / study_schedules.recipe(family, name).epochs
        study = study_schedules.StudySchedule(family, name, stretch, lr)
    wave = epochs - cooldown_epochs

    def own(epoch: int, step: int, steps: int) -> float:
        match name:
            case "step":
                return lr * gamma ** sum(epoch >= milestone for milestone in milestones)
            case "exponential":
                return lr * gamma**epoch
            case "log":
                return 10 ** (log[0] + (log[1] - log[0]) * epoch / max(epochs - 1, 1))
            case "linear":
                return lr * (1 - (epoch * steps + step) / (epochs * steps))
            case "cosine":
                return final_lr + 0.5 * (lr - final_lr) * (1 + math.cos(math.pi * min(epoch / wave, 1.0)))
            case "constant":
                return lr
        return study.rate(epoch + step / steps)

    def rate(epoch: int, step: int, steps: int) -> float:
        if epoch < warmup_epochs:
            return warmup_lr + (lr - warmup_lr) * epoch / warmup_epochs
        return own(epoch, step, steps)

    return rate


def follow_rate(optimizer: torch.optim.Optimizer, rate: Rate, lr: float, steps: int) -> LambdaLR:
    """Make a schedule that moves with every step of the optimiser; groups keep their ratio to `lr`.

    steps: of the optimiser in an epoch.
    """
    return LambdaLR(optimizer, lambda step: rate(step // steps, step % steps, steps) / lr)
