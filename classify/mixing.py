"""Mixup and CutMix, and the loss of a step of classification."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Step = Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]


def make_mix(
    num_classes: int, mixup: float, cutmix: float, probability: float = 1.0, switch: float = 0.5
) -> Mix | None:
    """Return what mixes pictures (B, 3, H, W) with their neighbours in the batch; None where both alphas are 0.

    probability: of a batch to be mixed at all. switch: of CutMix, where both are on.
    The result is pictures and soft targets (B, num_classes). Draws come from torch's global generator, which the
    training loop seeds for each step.
    """
    if mixup <= 0 and cutmix <= 0:
        return None
    mixers = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup > 0 else []
    mixers += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix > 0 else []
    pick = v2.RandomChoice(mixers, p=[1 - switch, switch]) if len(mixers) == 2 else mixers[0]

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if probability < 1 and torch.rand(()) >= probability:
            return images, F.one_hot(labels, num_classes).to(images.dtype)
        return pick(images, labels)

    return mix


def single(logits: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return one set of logits in float32: networks with two classifiers (SoT's sum_loss) answer by their sum."""
    return (sum(logits) if isinstance(logits, tuple) else logits).float()


def make_step(
    num_classes: int,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    label_smoothing: float = 0.0,
    probability: float = 1.0,
    switch: float = 0.5,
) -> Step:
    """Return the step of classification: cross-entropy of the logits, mixed and smoothed as asked.

    Accuracy counts a mixed picture as right when the class that it has most of is on top. Of networks with two
    classifiers the losses are added up.
    """
    mix = make_mix(num_classes, mixup, cutmix, probability, switch)

    def step(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        images, targets = batch["images"], batch["labels"]
        if mix is not None:
            images, targets = mix(images, targets)
        said = model(images)
        parts = said if isinstance(said, tuple) else (said,)
        loss = sum(F.cross_entropy(part.float(), targets, label_smoothing=label_smoothing) for part in parts)
        own = targets if mix is None else targets.argmax(1)
        return {"loss": loss, "accuracy": (single(said).argmax(1) == own).float().mean()}

    return step
