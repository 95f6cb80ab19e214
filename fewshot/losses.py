"""Losses of the few-shot methods: cross-entropy over episodes and self-distillation."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from episodes.class_rows import PADDING


class DistillationLoss(NamedTuple):
    """The weighted sum and its two terms, each a scalar; the loop adds nothing and logs all three."""

    loss: Tensor
    ce: Tensor
    kd: Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over all queries of all episodes (or over a plain batch).

    logits: (..., K); labels: (...) integers, -1 = padding, which counts neither in the sum nor in the number.
    A query whose own class has no support (logit -inf) makes the loss infinite: no head can answer it.
    """
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=PADDING)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the fraction of right predictions of every episode, float64: (E, Q, K), (E, Q) -> (E,).

    Queries with label -1 are left out.
    """
    counted = labels >= 0
    right = (logits.argmax(-1) == labels) & counted
    return right.sum(-1).double() / counted.sum(-1)


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
) -> DistillationLoss:
    """Self-distillation: ce_weight * CE(student, labels) + kd_weight * kd (Tian et al., ECCV 2020; spec section 5).

    student, teacher: logits (B, K); the teacher carries no gradient. labels: (B,).
    kd = T^2 / B * sum_i KL(softmax(teacher_i / T) || softmax(student_i / T)); T^2 keeps the gradient of the two terms
    in proportion when the temperature changes.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} differ: "
            "a generation keeps the classes of the one before"
        )
    target = F.log_softmax(teacher.detach() / temperature, -1)
    kd = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, -1), target, reduction="batchmean", log_target=True
    )
    ce = cross_entropy(student, labels)
    return DistillationLoss(ce_weight * ce + kd_weight * kd, ce, kd)
