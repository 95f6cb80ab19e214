"""The study's schedules at places that the published code fixes, and stretched to other lengths."""

from __future__ import annotations

import pytest

from backbones import UserError
from classify.study_schedules import RECIPES, SCHEDULES, StudySchedule, learning_rate, recipe


@pytest.mark.parametrize(
    "family, schedule, epoch, rate",
    [
        ("resnet", "LRnorm", 29, 0.1),
        ("resnet", "LRnorm", 30, 0.01),
        ("resnet", "LRfast", 0, 0.1 * (53 / 52) ** 11),  # counts from 1, so the first epoch exceeds the base rate
        ("resnet", "LRfast", 1, 0.1),
        ("resnet", "LRadju", 0, 0.1041232),
        ("mobilenet", "LRnorm", 2, 0.045 * 0.98**2),
        ("mobilenet", "LRfast", 1, 0.0552),
        ("mobilenet", "LRadju", 25, 0.035),
        ("mobilenet", "LRadju", 50, 0.01),
        ("mobilenet", "LRadju", 75, 0.0055),
        ("mobilenet", "LRadju", 400, 1e-5),
        ("shufflenet", "LRfast", 30.5, 0.5 * (1 - 30.5 / 60)),
        ("shufflenet", "LRfast", 61, 0.0),
    ],
)
def test_rates(family, schedule, epoch, rate):
    assert learning_rate(family, schedule, epoch) == pytest.approx(rate)


@pytest.mark.parametrize("family", RECIPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_stretched_schedule_goes_through_the_same_rates(family, schedule):
    tenth = StudySchedule(family, schedule, 0.1)
    assert tenth.epochs == recipe(family, schedule).epochs // 10
    for epoch in range(tenth.epochs):
        assert tenth.rate(epoch) == pytest.approx(learning_rate(family, schedule, 10 * epoch), rel=1e-6)
    half = StudySchedule(family, schedule, 1.0, recipe(family, schedule).base_lr / 2)
    for epoch in (0, 7, half.epochs - 1):
        assert half.rate(epoch) == pytest.approx(learning_rate(family, schedule, epoch) / 2, rel=1e-6)


def test_rates_are_never_negative():
    assert StudySchedule("resnet", "LRfast").rate(90) == 0
    assert StudySchedule("resnet", "LRfast", 0.001).epochs == 1


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean 'resnet'"):
        recipe("resnets", "LRnorm")
    with pytest.raises(UserError, match="did you mean 'LRfast'"):
        learning_rate("resnet", "LRfaster", 0)
