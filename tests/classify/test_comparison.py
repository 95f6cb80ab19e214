"""Comparisons of networks: intervals over pictures, differences on the same pictures, times in turns, the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from classify.comparison import Rival, summary, time_in_turns, train_step
from classify.comparison_plot import plot_comparison


def rival(name: str, right, against: str = "a", **options) -> Rival:
    return Rival(name, np.array(right, dtype=bool), against, 1000, 2000, 0.1, **options)


def test_seeds_of_a_picture_are_no_further_pictures():
    one = np.random.default_rng(0).random(400) < 0.7
    single, triple = rival("a", [one]), rival("a", [one, one, one])
    assert single.accuracy == triple.accuracy and triple.spread == 0.0
    mean, width = single.accuracy
    assert mean == pytest.approx(one.mean()) and width == pytest.approx(1.96 * (mean * (1 - mean) / 400) ** 0.5)


def test_differences_are_paired():
    base = np.random.default_rng(1).random((2, 300)) < 0.5
    better = base.copy()
    better[:, :30] = True
    mean, width, seeds = rival("b", better).ahead_of(rival("a", base))
    expected = (better.mean(0) - base.mean(0)).astype(float)
    assert mean == pytest.approx(expected.mean()) and width == pytest.approx(1.96 * expected.std() / 300**0.5)
    assert np.mean(seeds) == pytest.approx(mean) and len(seeds) == 2
    assert width < rival("a", base).accuracy[1]  # the same pictures: narrower than one network's own


def test_summary_compares_with_the_named_network():
    found = summary([rival("a", [[1, 0, 1, 0]]), rival("b", [[1, 1, 1, 0]]), rival("c", [[0, 0, 1, 0]], "b")])
    assert "ahead" not in found["a"] and found["b"]["ahead"]["of"] == "a" and found["c"]["ahead"]["of"] == "b"
    assert found["c"]["ahead"]["mean"] == pytest.approx(-0.5) and found["b"]["spread"] == 0.0


def test_times_are_taken_in_turns():
    now, called = [0.0], []

    def call(name: str, seconds: float):
        def step() -> None:
            called.append(name)
            now[0] += seconds

        return step

    found = time_in_turns({"slow": call("slow", 3.0), "fast": call("fast", 1.0)}, 2, lambda: now[0])
    assert found == {"slow": 3.0, "fast": 1.0}
    assert called[4:] == ["slow", "fast", "fast", "slow"]  # after two calls of each to warm up


def test_a_training_step_trains():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    before = network[1].weight.detach().clone()
    train_step(network, torch.randn(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1]), lr=0.1)()
    assert not torch.equal(before, network[1].weight)


def test_the_picture_shows_times_where_all_are_known(tmp_path):
    rivals = [rival("a", [[1, 0, 1]], step_s=0.01), rival("b", [[1, 1, 1]], step_s=0.02)]
    figure = plot_comparison(rivals, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file() and "training step" in figure.axes[1].get_title(loc="left")
    untimed = plot_comparison([*rivals, rival("c", [[0, 0, 1]])])
    assert "parameters" in untimed.axes[1].get_title(loc="left")
