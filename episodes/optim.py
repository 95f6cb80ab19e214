"""Optimisers and schedules of the recipes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from episodes.errors import UserError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("multistep", "cosine", "constant")


def parameter_groups(model: nn.Module, lr: float, temperature_lr: float | None = None) -> list[dict]:
    """Return optimiser groups: everything at `lr`, and the pooling temperature at its own rate when one is given.

    Parameters that do not require gradients are left out.
    """
    rest, temperature = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = temperature_lr is not None and name.endswith("pool.temperature")
            (temperature if own else rest).append(parameter)
    groups = [{"params": rest, "lr": lr}]
    return groups + ([{"params": temperature, "lr": temperature_lr}] if temperature else [])


def build_optimizer(
    model: nn.Module,
    lr: float,
    weight_decay: float = 5e-4,
    momentum: float = 0.9,
    nesterov: bool = True,
    temperature_lr: float | None = None,
    name: str = "sgd",
) -> torch.optim.Optimizer:
    """Build an optimiser; weight decay acts on all parameters, batch norm and temperature included (DeepBDC).

    momentum, nesterov: of SGD.
    temperature_lr: rate of the BDC temperature in pre-training and distillation; None: the same as the rest.
    """
    groups = parameter_groups(model, lr, temperature_lr)
    if not any(group["params"] for group in groups):
        raise UserError("nothing to train: every parameter of the model is frozen")
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, weight_decay=weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
    raise UserError(f"optimizer '{name}' is unknown{nearest(name, OPTIMIZERS)}")


def build_schedule(
    optimizer: torch.optim.Optimizer,
    name: str = "multistep",
    epochs: int = 100,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
) -> LRScheduler:
    """Build a schedule that is stepped once after every epoch.

    multistep: the rate is multiplied by `gamma` after each epoch number in `milestones`.
    cosine: from the start rate to zero over `epochs`.
    """
    if name == "multistep":
        return MultiStepLR(optimizer, milestones=sorted(milestones), gamma=gamma)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=epochs)
    if name == "constant":
        return MultiStepLR(optimizer, milestones=[])
    raise UserError(f"schedule '{name}' is unknown{nearest(name, SCHEDULES)}")
