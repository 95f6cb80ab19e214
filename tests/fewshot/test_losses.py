"""Episode cross-entropy, accuracy and self-distillation."""

from __future__ import annotations

import math

import pytest
import torch

from fewshot.losses import accuracy, cross_entropy, distillation_loss


def test_cross_entropy_leaves_padding_out():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, -1, 3], [2, 1, -1]])
    kept = [(0, 0), (0, 2), (1, 0), (1, 1)]
    expected = sum(-logits[e, q].log_softmax(0)[labels[e, q]] for e, q in kept) / 4
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


def test_cross_entropy_ignores_an_absent_class():
    logits = torch.tensor([[[1.0, 2.0, float("-inf")]]], requires_grad=True)
    cross_entropy(logits, torch.tensor([[1]])).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0, 2] == 0


def test_accuracy_counts_each_episode_alone():
    logits = torch.eye(3).repeat(2, 1, 1)
    labels = torch.tensor([[0, 1, 0], [0, -1, -1]])
    torch.testing.assert_close(accuracy(logits, labels), torch.tensor([2 / 3, 1.0], dtype=torch.float64))


def test_distillation_loss_by_loops():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 6])
    kd = ce = 0.0
    for i in range(5):
        p, q = (teacher[i] / 3).softmax(0), (student[i] / 3).softmax(0)
        kd += sum(float(a * math.log(a / b)) for a, b in zip(p.tolist(), q.tolist(), strict=True)) * 9 / 5
        ce += -float(student[i].log_softmax(0)[labels[i]]) / 5
    found = distillation_loss(student, teacher, labels, temperature=3.0, ce_weight=0.2, kd_weight=0.7)
    assert found.kd.item() == pytest.approx(kd)
    assert found.ce.item() == pytest.approx(ce)
    assert found.loss.item() == pytest.approx(0.2 * ce + 0.7 * kd)


def test_teacher_gets_no_gradient_and_equal_logits_cost_nothing():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    student, teacher = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    terms = distillation_loss(student, teacher, torch.tensor([0, 1, 2, 0]))
    assert terms.kd.abs() < 1e-6
    terms.loss.backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_a_teacher_with_other_classes_is_refused():
    with pytest.raises(ValueError, match="keeps the classes"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor([0, 1]))
