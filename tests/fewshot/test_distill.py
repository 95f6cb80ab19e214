"""One step of self-distillation: what the teacher may and may not do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fewshot.distill import distillation_step
from fewshot.encoder import PretrainModel
from fewshot.losses import distillation_loss
from fewshot.methods import create_encoder


def teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))


def student() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))


BATCH = {
    "images": torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(2)),
    "labels": torch.arange(8) % 4,
}


def test_the_loss_is_the_weighted_sum_of_its_terms():
    old, young = teacher(), student()
    values = distillation_step(old, temperature=2.0, ce_weight=0.3, kd_weight=0.7)(young, BATCH)
    terms = distillation_loss(young(BATCH["images"]), old(BATCH["images"]), BATCH["labels"], 2.0, 0.3, 0.7)
    assert values["loss"].item() == pytest.approx(terms.loss.item())
    assert values["loss"].item() == pytest.approx(
        0.3 * values["cross_entropy"].item() + 0.7 * values["distillation"].item()
    )


def test_the_teacher_is_never_trained():
    old, young = teacher(), student()
    distillation_step(old)(young, BATCH)["loss"].backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in old.parameters())
    assert young[1].weight.grad.abs().sum() > 0


def test_an_eval_teacher_stays_as_it_was():
    old = teacher()
    before = copy.deepcopy(old.state_dict())
    step, young = distillation_step(old, "eval"), student()
    first, second = step(young, BATCH), step(young, BATCH)
    assert not old.training
    assert first["loss"].item() == second["loss"].item()
    assert all(torch.equal(value, before[key]) for key, value in old.state_dict().items())


def test_a_train_teacher_drops_and_drifts():
    """The state of the released script: dropout active, statistics of the batch, running statistics moving."""
    old = teacher()
    mean = old[2].running_mean.clone()
    step, young = distillation_step(old, "train"), student()
    first, second = step(young, BATCH), step(young, BATCH)
    assert old.training
    assert first["distillation"].item() != second["distillation"].item()
    assert first["cross_entropy"].item() == second["cross_entropy"].item()
    assert not torch.equal(old[2].running_mean, mean)


def test_a_train_teacher_with_a_network_uses_the_statistics_of_the_batch():
    """Its backbone has no gradients, and yet it is not the frozen backbone that stays in eval mode."""
    torch.manual_seed(0)
    network = {"width": 4, "pooled_stages": 1}
    old = PretrainModel(create_encoder("protonet", "conv4", network), 4)
    distillation_step(old, "train")
    assert all(module.training for module in old.modules())
    distillation_step(old, "eval")
    assert not any(module.training for module in old.modules())


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'eval' or 'train', not 'evl'"):
        distillation_step(teacher(), "evl")


def test_a_student_of_the_same_logits_has_nothing_to_learn_from_its_teacher():
    young = student()
    values = distillation_step(copy.deepcopy(young))(young, BATCH)
    assert values["distillation"].item() == pytest.approx(0.0, abs=1e-6)
