"""Learning rates: as published, as timm has them, and in every step."""

from __future__ import annotations

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from backbones import UserError
from classify.schedules import follow_rate, make_rate
from classify.study_schedules import learning_rate, recipe


def test_step_moves_at_its_milestones():
    rate = make_rate("step", 0.1, 65, milestones=[30, 45, 60])
    assert [rate(epoch, 0, 10) for epoch in (0, 29, 30, 44, 45, 60)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 1e-3, 1e-4]
    )


def test_cosine_with_warm_up_and_cool_down_is_timms():
    """So-ViT: 300 epochs from 1e-3 to 1e-5, five of warm-up from 1e-6, then ten at the end's rate."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = CosineLRScheduler(optimizer, 300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    ours = make_rate("cosine", 1e-3, 310, final_lr=1e-5, warmup_epochs=5, warmup_lr=1e-6, cooldown_epochs=10)
    for epoch in (0, 1, 4, 5, 6, 100, 299, 300, 309):
        theirs.step(epoch)
        assert ours(epoch, 3, 10) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


def test_log_and_exponential_and_linear():
    log = make_rate("log", 9.0, 4, log=[-1, -4])
    assert [log(epoch, 0, 5) for epoch in range(4)] == pytest.approx([1e-1, 1e-2, 1e-3, 1e-4])
    assert make_rate("exponential", 0.045, 400, gamma=0.98)(10, 0, 1) == pytest.approx(0.045 * 0.98**10)
    linear = make_rate("linear", 0.5, 4)
    assert [linear(0, 0, 2), linear(0, 1, 2), linear(3, 1, 2)] == pytest.approx([0.5, 0.5 * 7 / 8, 0.5 / 8])


@pytest.mark.parametrize("family", ["resnet", "mobilenet", "shufflenet"])
@pytest.mark.parametrize("mode", ["LRnorm", "LRfast", "LRadju"])
def test_the_studys_schedules_at_full_length_are_the_published_ones(family, mode):
    published = recipe(family, mode)
    rate = make_rate(mode, published.base_lr, published.epochs, family=family)
    for epoch in range(published.epochs):
        assert rate(epoch, 0, 7) == pytest.approx(learning_rate(family, mode, epoch), rel=1e-6)


def test_a_schedule_follows_every_step_and_groups_keep_their_ratio():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.5 * factor} for factor in (1, 5)]
    optimizer = torch.optim.SGD(groups)
    schedule, seen = follow_rate(optimizer, make_rate("linear", 0.5, 2), 0.5, 3), []
    for _ in range(6):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [one for one, _ in seen] == pytest.approx([0.5 * (1 - step / 6) for step in range(6)])
    assert all(five == pytest.approx(5 * one) for one, five in seen)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cosin", {}, "did you mean 'cosine'"),
        ("log", {}, "needs optim.log"),
        ("cosine", {"warmup_epochs": 6, "cooldown_epochs": 4}, "leave none of 10 epochs"),
    ],
)
def test_what_no_schedule_is(name, options, words):
    with pytest.raises(UserError, match=words):
        make_rate(name, 0.1, 10, **options)
