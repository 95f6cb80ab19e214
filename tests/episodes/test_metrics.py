"""Means, intervals and confusion, against loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from episodes.errors import UserError
from episodes.metrics import confusion_matrix, mean_and_interval, paired_difference, per_class_accuracy, percent
from episodes.seeds import derive, torch_generator

VALUES = [0.2, 0.4, 0.4, 0.8, 0.6]


def test_the_interval_of_the_protocol():
    mean = sum(VALUES) / 5
    deviation = math.sqrt(sum((v - mean) ** 2 for v in VALUES) / 5)  # population, divided by E
    assert mean_and_interval(VALUES) == pytest.approx((mean, 1.96 * deviation / math.sqrt(5)))


def test_the_interval_of_students_t():
    mean = sum(VALUES) / 5
    deviation = math.sqrt(sum((v - mean) ** 2 for v in VALUES) / 4)
    assert mean_and_interval(VALUES, student=True)[1] == pytest.approx(2.776445 * deviation / math.sqrt(5), rel=1e-6)


def test_both_intervals_agree_for_many_episodes():
    values = np.random.default_rng(0).random(2000)
    assert mean_and_interval(100 * values)[1] == pytest.approx(mean_and_interval(100 * values, student=True)[1], 1e-3)


def test_one_episode():
    assert mean_and_interval([0.5]) == (0.5, 0.0)
    assert mean_and_interval([0.5], student=True) == (0.5, math.inf)


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [[0.1, 0.2]]])
def test_nothing_to_average_is_refused(values):
    with pytest.raises(UserError, match="finite accuracies of at least one episode"):
        mean_and_interval(values)


def test_paired_differences_are_narrower_than_two_intervals():
    generator = np.random.default_rng(0)
    hard = generator.random(500)
    one, other = hard + 0.1, hard + 0.01 * generator.standard_normal(500)
    mean, interval = paired_difference(one, other)
    assert mean == pytest.approx(0.1, abs=0.002)
    assert interval < 0.1 * mean_and_interval(one)[1]
    with pytest.raises(UserError, match="same episodes on both sides, got 500 and 3"):
        paired_difference(one, [1, 2, 3])


def test_confusion_and_classes():
    true, said = np.array([0, 0, 1, 3, 3, 3]), np.array([0, 1, 1, 3, 0, 3])
    confusion = confusion_matrix(true, said, 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 2]]
    assert per_class_accuracy(confusion) == pytest.approx([0.5, 1.0, math.nan, 2 / 3], nan_ok=True)


def test_percent():
    assert percent(0.67834, 0.0043) == "67.83 ± 0.43"


def test_seeds_depend_on_every_part_and_its_place():
    seeds = {derive(*parts) for parts in [(1, 2), (2, 1), (1, 2, 1), (3, 0), (0, 3), (1, 1)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert torch_generator(1, 2).initial_seed() == derive(1, 2)
