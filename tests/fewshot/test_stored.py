"""Every head on a feature store: episodes at once score what each scores alone, and odd features give no NaN."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch

from episodes.dataset import ArraySet
from episodes.evaluate import evaluate_features
from episodes.features import open_features
from episodes.loaders import Pictures
from episodes.sampler import EpisodeSampler
from fewshot.methods import METHODS, create_head

CLASSES, ITEMS, CHANNELS, EPISODES = 5, 6, 6, 4
LABELS = np.repeat(np.arange(CLASSES), ITEMS)
FROZEN = [name for name in METHODS if not METHODS[name].adapts]  # the others have no features to keep


def stored(folder, features: torch.Tensor):
    """Put features (N, ...) into a store, by an encoder that knows them."""
    images = torch.arange(len(features), dtype=torch.uint8).view(-1, 1, 1).expand(-1, 4, 4)
    pictures = Pictures(ArraySet(images, LABELS, list("abcde")), 4, (0.0,) * 3, (1.0,) * 3)
    return open_features(
        lambda x: features[(x[:, 0, 0, 0] * 255).round().long()], pictures, "known", folder, show=False
    )


def shape_for(method: str) -> tuple[int, ...]:
    return (CHANNELS, 3, 3) if METHODS[method].pool == "map" else (CHANNELS * (CHANNELS + 1) // 2,)


def head_for(method: str, k_shot: int):
    torch.manual_seed(0)
    shape = shape_for(method)
    fewer = {"deepemd": {"tune_passes": 3}, "tim": {"steps": 20}}.get(method, {})
    return create_head(method, k_shot, shape[0], **fewer).eval()


@pytest.mark.parametrize("method", FROZEN)
@pytest.mark.parametrize("k_shot", [1, 2])
def test_episodes_together_are_episodes_alone(tmp_path, method, k_shot):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, *shape_for(method), generator=generator).repeat_interleave(ITEMS, 0)
    features = (centres + torch.randn(len(LABELS), *shape_for(method), generator=generator)).relu()
    store, sampler = stored(tmp_path, features), EpisodeSampler(LABELS, 3, k_shot, 2, EPISODES)
    head = head_for(method, k_shot)
    together = evaluate_features(head, store, sampler, CLASSES, show=False)
    for number in range(EPISODES):
        alone = EpisodeSampler(LABELS, 3, k_shot, 2, EPISODES, rank=number, world_size=EPISODES)
        assert evaluate_features(head, features, alone, CLASSES, show=False).accuracies == together.accuracies[number]
    assert len(together.accuracies) == EPISODES


@pytest.mark.parametrize("method", FROZEN)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_features_give_numbers(tmp_path, method, value):
    """Zero variance: nothing can be told apart, and nothing may become NaN."""
    features = torch.full((len(LABELS), *shape_for(method)), value)
    store, sampler = stored(tmp_path, features), EpisodeSampler(LABELS, 3, 2, 2, 5)
    head, batch = head_for(method, 2), sampler.batch(range(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        support, query = store.gather(batch.support), store.gather(batch.query)
        logits = head(support, torch.from_numpy(np.array(batch.support_labels)), query, n_way=3)
        assert torch.isfinite(logits).all()
        assert 0 <= evaluate_features(head, store, sampler, CLASSES, show=False).mean <= 1


@pytest.mark.parametrize("method", FROZEN)
@pytest.mark.parametrize("k_shot", [1, 2])
def test_one_class_is_always_right(tmp_path, method, k_shot):
    features = torch.rand(len(LABELS), *shape_for(method), generator=torch.Generator().manual_seed(0))
    store, sampler = stored(tmp_path, features), EpisodeSampler(LABELS, 1, k_shot, 2, 5)
    head, batch = head_for(method, k_shot), sampler.batch(range(5))
    labels = torch.from_numpy(np.array(batch.support_labels))
    assert torch.isfinite(head(store.gather(batch.support), labels, store.gather(batch.query), n_way=1)).all()
    assert (evaluate_features(head, store, sampler, CLASSES, show=False).accuracies == 1).all()


@pytest.mark.parametrize("method", ["covnet", "simpleshot"])
def test_a_head_may_say_how_much_it_wants_at_a_time(tmp_path, method):
    """Parts of one episode or of many are a matter of speed alone."""
    features = torch.rand(len(LABELS), *shape_for(method), generator=torch.Generator().manual_seed(0))
    sampler, head, seen = EpisodeSampler(LABELS, 3, 1, 2, 20), head_for(method, 1), []
    head.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    results = []
    for near in (1, 1 << 20):
        head.near_bytes = near
        results.append(evaluate_features(head, features, sampler, CLASSES, show=False).accuracies)
    assert seen == [1] * 20 + [20]
    assert (results[0] == results[1]).all()


@pytest.mark.parametrize("method", ["protonet", "meta_deepbdc", "meta_baseline"])
@pytest.mark.parametrize("k_shot", [1, 3])
def test_linear_scores_choose_what_the_logits_choose(tmp_path, method, k_shot, monkeypatch):
    """From a store in few queries at a time, in memory, in float64, and where the episodes are not all of one size."""
    generator = torch.Generator().manual_seed(0)
    features = 20 + torch.randn(len(LABELS), *shape_for(method), generator=generator)  # much in common
    store, head = stored(tmp_path, features), head_for(method, k_shot)
    monkeypatch.setattr(sys.modules["episodes.evaluate"], "QUERY_BYTES", 4 * 2 * 6 * features.shape[1])  # two episodes
    sampler = EpisodeSampler(LABELS, 3, k_shot, 2, 9)
    batch = sampler.batch(range(9))
    support, labels, query = (
        features[batch.support],
        torch.from_numpy(np.array(batch.support_labels)),
        features[batch.query],
    )
    logits = head(support.double(), labels, query.double(), n_way=3)
    right = (logits.argmax(-1).numpy() == batch.query_labels).mean(1)
    for rows in (store, features, features.double()):
        assert (evaluate_features(head, rows, sampler, CLASSES, show=False).accuracies == right).all()
    shots = EpisodeSampler(LABELS, 3, [k_shot, 1, 2], 2, 9)
    uneven = evaluate_features(head, store, shots, CLASSES, show=False)
    alone = [
        evaluate_features(
            head, store, EpisodeSampler(LABELS, 3, [k_shot, 1, 2], 2, 9, rank=i, world_size=9), CLASSES, show=False
        ).accuracies[0]
        for i in range(9)
    ]
    assert uneven.accuracies.tolist() == alone
