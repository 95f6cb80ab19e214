"""Scoring under corruption: pictures made once for all networks, whatever the batches, and numbers by a second way."""

from __future__ import annotations

import lightning_fabric
import numpy as np
import pytest
import torch
from torch import nn

from classify.corruptions import corrupt
from classify.perturbations import perturbed
from classify.robust_scoring import Trial, score_corruptions, score_perturbations
from classify.robustness import flip_probability, ranking, top5_distance
from classify.views import Shown, View
from tests.classify.test_corruptions import picture


class Mean(nn.Module):
    """Classes are ranges of brightness."""

    def forward(self, images):
        return -(images.mean((1, 2, 3))[:, None] - torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 1.5])).abs()


class Images:
    """Seven pictures, from dark to light, with labels that are wrong for some."""

    labels = np.arange(7) % 6

    def __len__(self):
        return 7

    def __getitem__(self, item):
        return tensor((picture(32, 32) * (0.2 + 0.8 * item / 6)).astype(np.uint8)), self.labels[item]


@pytest.fixture
def trial():
    shown = Shown(Images(), View(32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    fabric = lightning_fabric.Fabric(accelerator="cpu")
    return Trial(fabric, {"mean": Mean(), "again": Mean()}, shown, Images.labels, 3, seed=4, say=lambda text: None)


def tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)


def answers(trial, image):
    return Mean()((tensor(image)[None] / 255 - 0.5) / 0.25)[0].numpy()


def pixels(trial, item):
    return trial.shown.pixels(item).permute(1, 2, 0).numpy()


def test_errors_by_loops(trial):
    found = score_corruptions(trial, ["gaussian_noise", "brightness"], (1, 4))
    assert found["mean"] == found["again"]
    for name in ("gaussian_noise", "brightness"):
        for place, severity in enumerate((1, 4)):
            said = [answers(trial, corrupt(pixels(trial, i), name, severity, 4, i)).argmax() for i in range(7)]
            assert found["mean"]["errors"][name][place] == pytest.approx((said != trial.labels).mean())
    clean = [answers(trial, pixels(trial, i)).argmax() for i in range(7)]
    assert found["mean"]["clean_error"] == pytest.approx((clean != trial.labels).mean())


def test_flips_by_loops(trial):
    found = score_perturbations(trial, ["gaussian_noise", "brightness"])["mean"]
    side = round(32 / 0.875)
    larger = Shown(trial.shown.dataset, View(side, side), (0.5,) * 3, (0.25,) * 3)
    for name in ("gaussian_noise", "brightness"):
        videos = []
        for i in range(7):
            image = larger.pixels(i).permute(1, 2, 0).numpy()
            videos.append([answers(trial, frame) for frame in perturbed(image, name, 32, 4, i)])
        ranks = ranking(np.array(videos))
        noise = name == "gaussian_noise"
        assert found["flips"][name] == pytest.approx(flip_probability(ranks, noise))
        assert found["top5"][name] == pytest.approx(top5_distance(ranks, noise))


def test_batches_and_limit(trial):
    whole = score_corruptions(trial, ["fog"])
    trial.batch_size = 7
    assert score_corruptions(trial, ["fog"]) == whole
    trial.limit = 3
    assert len(trial.items) == 3 and (trial.items == trial.items).all()
    assert set(np.round(3 * np.array(score_corruptions(trial, ["fog"])["mean"]["errors"]["fog"]), 9)) <= {0, 1, 2, 3}
