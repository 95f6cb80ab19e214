"""Optimisers and schedules: the groups, the rates, the names."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from episodes.errors import UserError
from episodes.optim import OPTIMIZERS, build_optimizer, build_schedule, parameter_groups


class Pool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.zeros(1, 1))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.pool = nn.Linear(2, 2), Pool()
        self.head = Pool()  # its temperature is no BDC temperature


def test_the_temperature_has_a_group_of_its_own():
    model = Model()
    rest, temperature = parameter_groups(model, 0.05, 1e-3)
    assert temperature["params"][0] is model.pool.temperature
    assert len(temperature["params"]) == 1
    assert (rest["lr"], temperature["lr"]) == (0.05, 1e-3)
    assert {id(p) for p in rest["params"]} == {id(p) for p in model.parameters()} - {id(model.pool.temperature)}


def test_without_a_rate_of_its_own_there_is_one_group():
    (group,) = parameter_groups(Model(), 0.05)
    assert len(group["params"]) == 4


def test_both_groups_share_schedule_and_decay():
    optimizer = build_optimizer(Model(), 0.05, weight_decay=5e-4, temperature_lr=1e-3)
    schedule = build_schedule(optimizer, milestones=[1])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 5e-4]
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 1e-4])


def test_frozen_weights_are_left_alone():
    model = Model()
    model.backbone.requires_grad_(False)
    assert sum(len(group["params"]) for group in build_optimizer(model, 0.1).param_groups) == 2
    with pytest.raises(UserError, match="every parameter of the model is frozen"):
        build_optimizer(model.requires_grad_(False), 0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_downhill(name):
    model = nn.Linear(3, 1)
    optimizer = build_optimizer(model, 0.05, name=name)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(20):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_default_is_that_of_the_paper():
    (group,) = build_optimizer(nn.Linear(2, 2), 0.05).param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 5e-4)


def rates(name: str, epochs: int, **options) -> list[float]:
    optimizer = build_optimizer(nn.Linear(1, 1), 1.0)
    schedule = build_schedule(optimizer, name, epochs, **options)
    result = []
    for _ in range(epochs):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return result


def test_multistep_falls_after_its_milestones():
    assert rates("multistep", 6, milestones=[4, 2]) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates("multistep", 3, milestones=[1], gamma=0.5) == pytest.approx([1, 0.5, 0.5])


def test_cosine_and_constant():
    assert rates("cosine", 4) == pytest.approx([(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])
    assert rates("constant", 3) == [1.0, 1.0, 1.0]


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'adam'"):
        build_optimizer(nn.Linear(1, 1), 0.1, name="adan")
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        build_schedule(build_optimizer(nn.Linear(1, 1), 0.1), "cosin")
