"""What a comparison prints below its table: seeds, paired differences, time, and the list of episodes."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from episodes.evaluate import Evaluation
from tools.compare import Comparison
from tools.config import Compare
from tools.detail import detail, difference_rows, episodes_csv, seed_rows, time_rows
from tools.scoring import Score

METHODS = ["protonet", "meta_deepbdc"]


def score(accuracies: list[float], seconds: float = 1.0) -> Score:
    part = Evaluation(np.arange(len(accuracies)), np.array(accuracies), np.zeros((5, 5), dtype=np.int64), seconds)
    return Score("Greek", 1, [part])


def two_seeds() -> tuple[Compare, Comparison]:
    found = Comparison()
    found.scores["protonet", "Greek", 1] = [score([0.2, 0.4]), score([0.5, 0.5])]
    found.scores["meta_deepbdc", "Greek", 1] = [score([0.3, 0.3]), score([0.7, 0.9])]
    for seed, seconds in ((1, 10.0), (2, 14.0)):
        found.seconds[f"pre-training, BDC, seed {seed}"] = seconds
        found.curves[f"pre-training, BDC, seed {seed}"] = [{"seconds": 4.0, "wait_share": 0.25}] * 2
    return Compare(methods=METHODS, seeds=[1, 2], k_shot=[1]), found


def test_seeds_stand_beside_their_spread():
    rows = seed_rows(*two_seeds())
    assert rows[1] == ["ProtoNet", f"30.00 / 50.00 ({np.std([30, 50], ddof=1):.2f})"]
    assert rows[2][1].startswith("30.00 / 80.00 ")


def test_differences_are_paired_by_episode():
    rows = difference_rows(*two_seeds())
    differences = 100 * np.array([0.1, -0.1, 0.2, 0.4])
    half = 1.96 * differences.std() / 2
    assert rows[1] == ["Meta DeepBDC − ProtoNet", f"+15.00 ± {half:.2f} (+0.00 / +30.00)"]
    assert len(rows) == 2  # the other pair was not compared


def test_time_is_split_by_kind_of_stage():
    row = time_rows(two_seeds()[1])[1]
    assert row == ["pre-training, BDC", "2", "24", "16", "4", "8"]


def test_every_episode_has_a_line_with_all_methods():
    rows = list(csv.DictReader(io.StringIO(episodes_csv(*two_seeds()))))
    assert [(r["seed"], r["episode"]) for r in rows] == [("1", "0"), ("1", "1"), ("2", "0"), ("2", "1")]
    assert float(rows[3]["meta_deepbdc"]) - float(rows[3]["protonet"]) == pytest.approx(0.4)


def test_one_seed_has_no_section_of_seeds():
    config, found = two_seeds()
    config.seeds = [1]
    found.scores = {key: scores[:1] for key, scores in found.scores.items()}
    text = detail(config, found)
    assert "of every seed" not in text and "| Meta DeepBDC − ProtoNet | +0.00 ± " in text
