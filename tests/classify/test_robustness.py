"""Robustness numbers by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from backbones import UserError
from classify.robustness import (
    ALEXNET,
    CORRUPTIONS,
    PERTURBATIONS,
    Baseline,
    baseline_of,
    corruption_scores,
    flip_probability,
    perturbation_scores,
    ranking,
    read_baseline,
    top5_distance,
    write_baseline,
    zipf_distance,
)


def test_the_baseline_itself_scores_a_hundred():
    errors = {name: [ALEXNET.errors[name]] * 5 for name in CORRUPTIONS}
    found = corruption_scores(errors, ALEXNET.clean_error)
    assert found["mCE"] == pytest.approx(100) and found["relative_mCE"] == pytest.approx(100)
    flips = perturbation_scores({name: ALEXNET.flips[name] for name in PERTURBATIONS})
    assert flips["mFR"] == pytest.approx(100) and flips["mT5D"] is None


def test_scores_by_hand():
    baseline = Baseline("b", 0.2, {"fog": 0.5, "snow": 0.4})
    found = corruption_scores({"fog": [0.1, 0.3], "snow": [0.6, 0.6]}, 0.1, baseline)
    assert found["mean_error"] == pytest.approx(40)
    assert found["CE"] == pytest.approx({"fog": 40, "snow": 150}) and found["mCE"] == pytest.approx(95)
    assert found["relative_CE"] == pytest.approx({"fog": 100 / 3, "snow": 250})


def test_ties_go_to_the_lower_class():
    assert ranking(np.array([[0.0, 2.0, 2.0, 1.0]])).tolist() == [[3, 0, 1, 2]]


def test_flips_of_noise_and_of_motion():
    best = np.array([[0, 1, 1, 0]])  # of each frame
    ranks = ranking(np.eye(3)[best])
    assert flip_probability(ranks) == pytest.approx(2 / 3)  # 0-1, 1-1, 1-0
    assert flip_probability(ranks, noise=True) == pytest.approx(2 / 3)  # 0-1, 0-1, 0-0
    assert flip_probability(ranks, difficulty=2) == 1  # 0-1, 1-0


def test_distances_by_loops():
    ranks = ranking(np.random.RandomState(0).normal(size=(2, 4, 9)))
    top5, zipf = [], []
    for video in ranks:
        for first, second in zip(video[:-1], video[1:], strict=True):
            order = first.argsort()
            top5.append(sum(abs(min(i, 5) - min(second[order[i]], 5)) for i in range(5)))
            zipf.append(sum(abs(1 / (i + 1) - 1 / (second[order[i]] + 1)) / (i + 1) for i in range(9)))
    assert top5_distance(ranks) == pytest.approx(np.mean(top5))
    assert zipf_distance(ranks) == pytest.approx(np.mean(zipf))
    assert top5_distance(ranks[:, [0, 0]]) == zipf_distance(ranks[:, [0, 0]]) == 0


def test_a_baseline_goes_through_a_file():
    made = baseline_of("mine", 0.1, {"fog": [0.2, 0.4]}, {"tilt": 0.5}, {"tilt": 2.0})
    again = read_baseline(json.loads(json.dumps(write_baseline(made))))
    assert again == made and again.errors == pytest.approx({"fog": 0.3})


@pytest.mark.parametrize(
    "content", [[], {"errors": {}}, {"name": "x", "error": {}}, {"name": "x", "errors": {"fog": "a"}}]
)
def test_files_that_are_no_baseline(content):
    with pytest.raises(UserError, match="a baseline has"):
        read_baseline(content)


def test_what_the_baseline_lacks():
    with pytest.raises(UserError, match="no value for mist"):
        corruption_scores({"mist": [0.1]}, 0.1)
    with pytest.raises(UserError, match="at least one"):
        corruption_scores({}, 0.1)
    with pytest.raises(ValueError, match="difficulty 3"):
        flip_probability(np.zeros((1, 3, 2), int), difficulty=3)
    assert np.isnan(corruption_scores({"fog": [0.5]}, 0.1, Baseline("flat", 0.3, {"fog": 0.3}))["relative_mCE"])
