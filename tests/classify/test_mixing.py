"""Mixed targets, smoothed losses, and networks with two answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from classify.mixing import make_mix, make_step, single


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_targets_are_the_share_of_the_pictures(alphas):
    """Pictures of class k show k everywhere, so that the mean of a mixed one is the mean of its target."""
    labels = torch.tensor([0, 1, 2, 3])
    images = labels.float().view(4, 1, 1, 1).expand(4, 3, 32, 32)
    for seed in range(10):
        torch.manual_seed(seed)
        mixed, targets = make_mix(4, *alphas)(images, labels)
        assert torch.allclose(targets.sum(1), torch.ones(4))
        assert torch.allclose(mixed.mean((1, 2, 3)), targets @ torch.arange(4.0), atol=1e-5)


def test_the_share_of_mixed_steps():
    torch.manual_seed(0)
    mix = make_mix(2, 0.8, 0.0, probability=0.5)
    labels = torch.tensor([0, 1])
    hard = [bool((mix(torch.zeros(2, 3, 4, 4), labels)[1] == F.one_hot(labels, 2)).all()) for _ in range(200)]
    assert 70 < sum(hard) < 130
    assert make_mix(2, 0.0, 0.0) is None


def test_the_loss_is_the_cross_entropy_of_smoothed_labels():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    batch = {"images": torch.randn(5, 3, 2, 2), "labels": torch.tensor([0, 1, 2, 0, 1])}
    values = make_step(3, label_smoothing=0.1)(model, batch)
    logits = model(batch["images"])
    target = 0.9 * F.one_hot(batch["labels"], 3) + 0.1 / 3
    assert torch.allclose(values["loss"], -(target * logits.log_softmax(1)).sum(1).mean())
    assert values["accuracy"] == (logits.argmax(1) == batch["labels"]).float().mean()


def test_two_answers_have_two_losses_and_one_sum():
    class Two(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :3], 2 * images.flatten(1)[:, 3:6]

    batch = {"images": torch.randn(4, 3, 2, 2), "labels": torch.tensor([0, 1, 2, 0])}
    first, second = Two()(batch["images"])
    values = make_step(3)(Two(), batch)
    losses = F.cross_entropy(first, batch["labels"]) + F.cross_entropy(second, batch["labels"])
    assert torch.allclose(values["loss"], losses)
    assert torch.equal(single((first, second)), first + second)
