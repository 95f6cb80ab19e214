"""Learning rates and optimiser groups of the video recipes (TAMT and VideoMAE)."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR


def tuning_schedule(optimizer: torch.optim.Optimizer, t_max: int = 80, eta_min: float = 1e-7) -> CosineAnnealingLR:
    """Cosine schedule of target tuning, stepped once per epoch.

    t_max: epochs to the end of the cosine; the released code has 80 whatever the number of epochs, so that after 30
        of them the rate is still 0.69 of its start. Pass the number of epochs for a cosine that ends with training.
    """
    return CosineAnnealingLR(optimizer, T_max=t_max, eta_min=eta_min)


def source_learning_rates(
    base: float,
    final: float,
    epochs: int,
    iters_per_epoch: int,
    warmup_epochs: int = 0,
    warmup_start: float = 1e-6,
) -> np.ndarray:
    """Return the learning rate of every iteration of source pre-training: linear warm-up, then half a cosine.

    base, final: highest and last rate, *after* scaling by batch / 256 (see `scaled_rate`).
    The warm-up has both of its ends, the cosine does not reach `final`.
    Raises ValueError when the warm-up is longer than the training.
    """
    warmup, total = warmup_epochs * iters_per_epoch, epochs * iters_per_epoch
    if warmup > total:
        raise ValueError(f"{warmup_epochs} warm-up epochs are more than the {epochs} epochs of training")
    place = np.arange(total - warmup) / max(total - warmup, 1)
    cosine = final + 0.5 * (base - final) * (1 + np.cos(np.pi * place))
    return np.concatenate([np.linspace(warmup_start, base, warmup), cosine])


def scaled_rate(rate: float, batch: int, per: int = 256) -> float:
    """Return a rate that is stated for a batch of `per` clips, for a batch of another size (linear rule)."""
    return rate * batch / per


def layer_number(name: str, depth: int) -> int:
    """Return the place of a parameter for layer-wise decay: 0 embedding, i + 1 block i, depth + 1 the rest."""
    if "patch_embed." in name or name.endswith("mask_token"):
        return 0
    block = re.search(r"(?:^|\.)blocks\.(\d+)\.", name)
    return int(block.group(1)) + 1 if block else depth + 1


def source_groups(
    model: nn.Module, weight_decay: float = 0.05, layer_decay: float = 1.0, depth: int | None = None
) -> list[dict]:
    """Return optimiser groups of source pre-training, each with `lr_scale`, `weight_decay` and `names`.

    weight_decay: of matrices; vectors, biases and the mask token have none.
    layer_decay: rate of a layer over that of the next (0.75 in the supervised stage); needs `depth`, the number of
        blocks. `lr_scale` says by what to multiply the rate of `source_learning_rates`.
    """
    if layer_decay != 1.0 and depth is None:
        raise ValueError("layer-wise decay needs the number of blocks: pass depth")
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.dim() <= 1 or name.endswith((".bias", "mask_token"))
        scale = 1.0 if layer_decay == 1.0 else layer_decay ** (depth + 1 - layer_number(name, depth))
        group = groups.setdefault(
            (scale, plain),
            {"params": [], "names": [], "lr_scale": scale, "weight_decay": 0.0 if plain else weight_decay},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of an optimiser its rate: `rate` times the group's `lr_scale`, 1 where it has none."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
