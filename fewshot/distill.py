"""Sequential self-distillation (DeepBDC, section 4.2; Good-Embed, section 3.3): one training step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fewshot.losses import distillation_loss


def distillation_step(
    teacher: nn.Module,
    teacher_mode: str = "eval",
    temperature: float = 4.0,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
) -> Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]:
    """Return the training step of a student under a fixed teacher.

    teacher: images -> logits, already on the right device; never trained.
    teacher_mode: 'eval', or 'train' as the released script leaves it: dropout is active, batch norm uses the batch and
        its running statistics drift.
    temperature, ce_weight, kd_weight: see `fewshot.losses.distillation_loss`.
    """
    if teacher_mode not in ("eval", "train"):
        raise ValueError(f"teacher_mode is 'eval' or 'train', not '{teacher_mode}'")
    # In this order: a model whose backbone is frozen keeps it in eval mode when it is switched to training.
    teacher.train(teacher_mode == "train").requires_grad_(False)

    def step(student: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            target = teacher(batch["images"])
        logits = student(batch["images"])
        terms = distillation_loss(logits, target, batch["labels"], temperature, ce_weight, kd_weight)
        accuracy = (logits.detach().argmax(-1) == batch["labels"]).float().mean()
        return {"loss": terms.loss, "cross_entropy": terms.ce, "distillation": terms.kd, "accuracy": accuracy}

    return step
