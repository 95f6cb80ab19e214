"""TRX against loops over queries, classes and tuples, and what must not change its scores."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.frame_episodes import padded, random_episodes, shuffled
from video import trx
from video.trx import TRX, TupleProjection


def head(seed: int = 0, **options) -> TRX:
    torch.manual_seed(seed)
    built = TRX(**{"in_channels": 6, "key_dim": 5, "value_dim": 7, **options}).double().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def placed(frames):
    """Frames (t, C) with their sines and cosines, number by number."""
    result = frames.clone()
    for p in range(frames.shape[0]):
        for j in range(frames.shape[1]):
            angle = p / 10000 ** (2 * (j // 2) / frames.shape[1])
            result[p, j] += 0.1 * (math.cos(angle) if j % 2 else math.sin(angle))
    return result


def plain_distance(attention, query, supports):
    """One query (t, C) and the supports of one class: tuples laid end to end, attention tuple by tuple."""

    def tuples(frames):
        return [torch.cat([frames[i] for i in c]) for c in itertools.combinations(range(len(frames)), attention.size)]

    def key(x):
        return attention.key_norm(attention.key.linear(x))

    pool = [t for support in supports for t in tuples(placed(support))]
    own = tuples(placed(query))
    total = 0.0
    for one in own:
        scores = torch.stack([key(one) @ key(other) for other in pool]) / math.sqrt(5)
        prototype = sum(w * attention.value.linear(t) for w, t in zip(scores.softmax(0), pool, strict=True))
        total += (prototype - attention.value.linear(one)).square().sum()
    return total / len(own)


@pytest.mark.parametrize("cardinalities", [(2,), (3,), (1, 4), (2, 3)])
@torch.no_grad()
def test_logits_are_those_of_the_plain_loops(cardinalities):
    data, model = random_episodes(), head(cardinalities=cardinalities)
    logits = model(*data.parts)
    assert logits.shape == (2, 4, 3)
    for e in range(2):
        for q in range(2):
            for k in range(3):
                rows = data.support[e][data.labels[e] == k]
                wanted = sum(plain_distance(a, data.query[e, q], rows) for a in model.attention) / len(cardinalities)
                # positions are rounded to float32, as those of the backbones are
                assert logits[e, q, k].item() == pytest.approx(-wanted.item(), rel=1e-6)


@torch.no_grad()
def test_projection_of_tuples_is_that_of_frames_end_to_end():
    layer, frames = TupleProjection(4, 3, 2), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = layer(frames, torch.combinations(torch.arange(3), 2))
    pairs = torch.stack([frames[:, [0, 1]], frames[:, [0, 2]], frames[:, [1, 2]]], dim=1).flatten(2)
    torch.testing.assert_close(found, layer.linear(pairs))


@torch.no_grad()
def test_padding_changes_nothing():
    data, model = random_episodes(), head()
    torch.testing.assert_close(model(*padded(data).parts), model(*data.parts))


def test_a_class_without_supports_is_never_chosen():
    data, model = random_episodes(), head()
    support = data.support.requires_grad_()
    logits = model(support, data.labels, data.query, n_way=5)
    assert (logits[..., 3:] == -math.inf).all()
    torch.testing.assert_close(logits[..., :3], model(*data.parts))
    logits[..., :3].sum().backward()
    assert support.grad.isfinite().all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
@torch.no_grad()
def test_the_order_of_supports_and_the_names_of_classes_mean_nothing(seed):
    data, model = random_episodes(seed=seed), head(seed)
    logits = model(*data.parts)
    torch.testing.assert_close(model(*shuffled(data, seed).parts), logits)
    names = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(model(*data.changed(labels=names[data.labels]).parts)[..., names], logits)


@torch.no_grad()
def test_the_order_of_frames_matters_and_a_copy_of_a_support_is_near():
    data, model = random_episodes((2, 2)), head()
    logits = model(*data.parts)
    assert not torch.allclose(model(*data.changed(query=data.query.flip(2)).parts), logits, atol=1e-3)
    # keys of one and a great length find the very tuple: the distance to the class of the copy is zero
    for attention in model.attention:
        attention.key_norm.weight.fill_(30)
        attention.key_norm.bias.zero_()
    copies = model(*data.changed(query=data.support).parts)
    own = copies.gather(2, data.labels.unsqueeze(2))
    assert own.abs().max() < 1e-3 < -copies.scatter(2, data.labels.unsqueeze(2), -math.inf).max()


def test_gradients_are_those_of_differences():
    data, model = random_episodes((2, 1), n_query=2, frames=3), head()
    query, support = data.query.requires_grad_(), data.support.requires_grad_()
    names = [name for name, _ in model.named_parameters()]
    parameters = [value.detach().requires_grad_() for value in model.parameters()]

    def logits(query, support, *values):
        weights = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, weights, (support, data.labels, query))

    assert torch.autograd.gradcheck(logits, (query, support, *parameters), fast_mode=True)


def test_every_weight_learns():
    data, model = random_episodes(), head().train()
    model(*data.parts).logsumexp(-1).sum().backward()
    assert all(value.grad.abs().sum() > 0 for value in model.parameters())


@torch.no_grad()
def test_blocks_of_queries_and_episodes_change_nothing(monkeypatch):
    data, model = random_episodes(n_query=7), head()
    whole = model(*data.parts)
    for numbers in (1, 5000):
        monkeypatch.setattr(trx, "BLOCK_NUMBERS", numbers)
        torch.testing.assert_close(model(*data.parts), whole)


def test_dropout_is_of_training_alone():
    data, model = random_episodes(), head(dropout=0.5)
    torch.testing.assert_close(model(*data.parts), model(*data.parts))
    model.train()
    assert not torch.equal(model(*data.parts), model(*data.parts))


def test_learns_the_order_of_time():
    """Two classes of the same frames, forwards and backwards: averages can't tell them apart."""
    torch.manual_seed(0)
    model = TRX(4, (2,), 8, 8, dropout=0.0)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    ways = torch.eye(4)[[0, 1, 2, 3]], torch.eye(4)[[3, 2, 1, 0]]
    labels = torch.tensor([[0, 1, 1, 0]])

    def episode():
        clips = torch.stack([ways[label] for label in labels[0].tolist() * 2])[None]
        clips = clips + 0.5 * torch.randn(clips.shape)
        return model(clips[:, :4], labels, clips[:, 4:])[0]

    start = torch.stack([torch.nn.functional.cross_entropy(episode(), labels[0]) for _ in range(20)]).mean().item()
    for _ in range(150):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(episode(), labels[0]).backward()
        optimiser.step()
    with torch.no_grad():
        end = torch.stack([torch.nn.functional.cross_entropy(episode(), labels[0]) for _ in range(20)]).mean().item()
    assert end < 0.35 < start


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cardinalities": []}, "cardinalities"),
        ({"cardinalities": [2, 2]}, "cardinalities"),
        ({"cardinalities": 2}, "cardinalities"),
        ({"cardinalities": [0]}, "cardinality"),
        ({"dropout": 1.0}, "dropout"),
        ({"key_dim": 0}, "key_dim"),
        ({"position_scale": -1}, "position_scale"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        TRX(6, **options)


def test_features_that_do_not_fit_are_refused():
    data = random_episodes(frames=2)
    with pytest.raises(ValueError, match="tuples of 3 frames"):
        head()(*data.parts)
    with pytest.raises(ValueError, match="in_channels"):
        head(in_channels=5)(*data.parts)
