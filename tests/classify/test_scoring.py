"""Scores against counts by hand; classes that do not match."""

from __future__ import annotations

import lightning_fabric
import numpy as np
import pytest
import torch
from torch import nn

from backbones import UserError
from classify.confusion import write_answers, write_classes
from classify.scoring import ClassScorer, match_classes
from classify.views import Shown, View
from episodes.dataset import ArraySet

CLASSES = [f"c{number}" for number in range(7)]


class Brightness(nn.Module):
    """Answers by the mean of the red channel: logits fall with the distance to the class's number."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -(images[:, 0].mean((1, 2)) * 10 - torch.arange(7.0)[:, None]).T.abs()


@pytest.fixture(scope="module")
def dataset() -> ArraySet:
    """Pictures as bright as their class's number, every fifth one three classes brighter."""
    labels = np.arange(35) % 7
    shown = (labels + 3 * (np.arange(35) % 5 == 0)).clip(0, 9)
    pixels = torch.from_numpy((shown * 25.5).round().astype(np.uint8))
    return ArraySet(pixels[:, None, None, None].expand(-1, 3, 8, 8).contiguous(), labels, CLASSES)


def scorer(dataset, names=CLASSES, views="centre", batch_size=4) -> ClassScorer:
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    return ClassScorer(fabric, Shown(dataset, View(8), (0,) * 3, (1,) * 3, views), list(names), "pictures", batch_size)


def test_figures_are_counts(dataset):
    scores = scorer(dataset).score(Brightness())
    wrong = np.arange(35) % 5 == 0
    sure = wrong & (dataset.labels < 6)  # three classes beyond the last are still the last
    assert scores.top(1)[0] == pytest.approx(1 - sure.mean())
    share, width = scores.top(5)
    assert share > scores.top(1)[0] and width == pytest.approx(1.96 * np.sqrt(share * (1 - share) / 35))
    assert scores.confusion.sum() == 35 and np.trace(scores.confusion) == 35 - sure.sum()
    assert scores.confusion[0, 3] == 1
    figures = scores.summary("val_")
    assert figures["val_accuracy"] == scores.top(1)[0] and "val_top5" in figures


def test_batches_and_views_change_nothing_here(dataset):
    one = scorer(dataset).score(Brightness())
    for views, batch_size in (("mirror", 4), ("ten", 5), ("centre", 35)):
        other = scorer(dataset, views=views, batch_size=batch_size).score(Brightness())
        assert np.array_equal(other.best, one.best) and other.loss == pytest.approx(one.loss, rel=1e-5)


def test_classes_are_matched_by_name(dataset):
    """The network knows more classes, in another order."""
    names = ["other", *reversed(CLASSES)]
    found = scorer(dataset, names)
    assert [names[label] for label in found.labels] == [CLASSES[label] for label in dataset.labels]
    with pytest.raises(UserError, match="1 class of 7 that the network was not trained on.*, and the first is 'c6'"):
        scorer(dataset, CLASSES[:6])


def test_many_classes_are_not_listed(dataset):
    """The one that was meant is found among a thousand; where none is like it, nothing is listed."""
    thousand = [f"n{number:08d}" for number in range(1000)]
    with pytest.raises(UserError, match="the first is 'c0'$"):
        match_classes(thousand, dataset, "pictures")
    with pytest.raises(UserError, match="did you mean 'C0'"):
        match_classes([*thousand, "C0"], dataset, "pictures")


def test_answers_that_are_no_numbers_are_no_accuracy(dataset):
    class Broken(Brightness):
        def forward(self, images):
            return super().forward(images).where(images.flatten(1).mean(1, keepdim=True) < 0.5, float("nan"))

    with pytest.raises(UserError, match="answers nan to"):
        scorer(dataset).score(Broken())


def test_tables(dataset, tmp_path):
    scores = scorer(dataset).score(Brightness())
    write_answers(scores, [f"{number}.png" for number in range(35)], tmp_path / "answers.csv")
    write_classes(scores, tmp_path / "classes.csv")
    answers = (tmp_path / "answers.csv").read_text().splitlines()
    assert answers[0] == "file,class,answer,probability,right" and len(answers) == 36
    assert answers[1].startswith("0.png,c0,c3,") and answers[1].endswith(",0")
    assert "c0,5,4,0.8,c3,1" in (tmp_path / "classes.csv").read_text().splitlines()
