"""The moving average of weights: its formula, who answers when, and what its state holds."""

from __future__ import annotations

import torch
from torch import nn

from classify.average import Averaged, inner


def steps(model: Averaged, count: int) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(model.model.parameters(), lr=0.1)
    model.follow(optimizer)
    seen, generator = [], torch.Generator().manual_seed(int(model.steps))
    for _ in range(count):
        images, wanted = (torch.randn(4, size, generator=generator) for size in (3, 2))
        (model.train()(images) - wanted).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(model.model[0].weight.detach().clone())
    return seen


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))


def test_the_average_is_exponential():
    model = Averaged(net(), 0.9, warmup=False)
    expected = model.model[0].weight.detach().clone()
    for weight in steps(model, 5):
        expected = 0.9 * expected + 0.1 * weight
    assert torch.allclose(model.average[0].weight, expected)
    assert not torch.allclose(expected, weight, atol=1e-2)
    assert int(model.steps) == 5
    assert not any(parameter.requires_grad for parameter in model.average.parameters())


def test_with_warm_up_the_first_weights_are_forgotten():
    long, short = Averaged(net(), 0.999, warmup=False), Averaged(net(), 0.999, warmup=True)
    last = steps(long, 20)[-1]
    steps(short, 20)
    far, near = ((model.average[0].weight - last).abs().max() for model in (long, short))
    assert near < 0.7 * far


def test_the_network_answers_in_training_and_the_average_in_tests():
    model = Averaged(net(), 0.9)
    steps(model, 3)
    images = torch.randn(4, 3)
    assert torch.equal(model.eval()(images), model.average(images))
    assert not torch.allclose(model(images), model.model.eval()(images))
    assert inner(model) is model.average and inner(model.model) is model.model


def test_a_state_goes_on_as_it_was():
    one, other = Averaged(net(), 0.9), Averaged(net(), 0.9)
    steps(one, 3)
    other.load_state_dict(one.state_dict())
    for model in (one, other):
        steps(model, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
