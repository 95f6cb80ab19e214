"""Scoring episodes: from features or from images, the numbers are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from episodes.dataset import ArraySet
from episodes.errors import UserError
from episodes.evaluate import evaluate, evaluate_features, evaluate_images, extract_features
from episodes.loaders import Pictures
from episodes.sampler import EpisodeSampler


class Nearest(nn.Module):
    """Nearest class mean, written with loops."""

    def forward(self, support, support_labels, query, n_way=None):
        logits = query.new_empty(*query.shape[:2], n_way)
        for e in range(len(query)):
            for c in range(n_way):
                mean = support[e][support_labels[e] == c].mean(0)
                logits[e, :, c] = -((query[e] - mean) ** 2).sum(-1)
        return logits


def pictures(classes: int = 6, items: int = 9, size: int = 8) -> Pictures:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randint(60, 190, (classes, 1, 3, size, size), generator=generator)
    noise = torch.randint(-60, 60, (classes, items, 3, size, size), generator=generator)
    images = (centres + noise).to(torch.uint8).flatten(0, 1)
    labels = np.repeat(np.arange(classes), items)
    return Pictures(ArraySet(images, labels, list("abcdefghijkl")[:classes]), size, (0.5,) * 3, (0.3,) * 3)


@pytest.fixture(scope="module")
def encode():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten()).eval()


def sampler(data: Pictures, **options) -> EpisodeSampler:
    return EpisodeSampler(data.dataset.labels, **{"n_way": 4, "k_shot": 2, "n_query": 3, "n_episodes": 30, **options})


def test_cached_and_uncached_agree_episode_by_episode(encode):
    data = pictures()
    cached = evaluate(encode, Nearest(), data, sampler(data), show=False)
    plain = evaluate(encode, Nearest(), data, sampler(data), memory_bytes=0, show=False)
    assert np.array_equal(cached.numbers, np.arange(30))
    assert np.array_equal(cached.numbers, plain.numbers)
    assert np.array_equal(cached.accuracies, plain.accuracies)
    assert np.array_equal(cached.confusion, plain.confusion)
    assert 0.3 < cached.mean < 1.0  # neither chance nor perfect, or equality would say little
    assert cached.feature_seconds > 0
    assert plain.feature_seconds == 0


def test_every_accuracy_is_that_of_its_episode(encode):
    data = pictures()
    features = extract_features(encode, data, show=False)
    episodes = sampler(data)
    result = evaluate_features(Nearest(), features, episodes, 6, show=False)
    confusion = np.zeros((6, 6), dtype=int)
    for number in range(30):
        episode = episodes[number]
        logits = Nearest()(
            features[episode.support][None], torch.tensor(episode.support_labels.copy())[None],
            features[episode.query][None], n_way=4,
        )  # fmt: skip
        said = logits[0].argmax(-1).numpy()
        assert result.accuracies[number] == pytest.approx((said == episode.query_labels).mean())
        for true, chosen in zip(episode.query_labels, said, strict=True):
            confusion[episode.classes[true], episode.classes[chosen]] += 1
    assert np.array_equal(result.confusion, confusion)


def test_mean_interval_and_classes(encode):
    data = pictures()
    result = evaluate(encode, Nearest(), data, sampler(data), show=False)
    assert result.mean == pytest.approx(result.accuracies.mean())
    assert result.interval == pytest.approx(1.96 * result.accuracies.std() / np.sqrt(30))
    assert result.confusion.sum() == 30 * 4 * 3
    assert result.mean == pytest.approx(np.trace(result.confusion) / result.confusion.sum())
    assert result.per_class == pytest.approx(np.diag(result.confusion) / result.confusion.sum(1))
    assert result.summary()["episodes"] == 30


def test_a_class_that_was_never_asked_has_no_accuracy():
    data = pictures()
    chosen = EpisodeSampler(data.dataset.labels, 2, 1, 2, 5, classes=[1, 4])
    result = evaluate(lambda x: x.flatten(1), Nearest(), data, chosen, show=False)
    assert np.isnan(result.per_class[[0, 2, 3, 5]]).all()
    assert np.isfinite(result.per_class[[1, 4]]).all()


def test_a_head_that_knows_is_always_right():
    data = pictures()
    truth = nn.functional.one_hot(torch.tensor(data.dataset.labels)).float()
    result = evaluate_features(Nearest(), truth, sampler(data), 6, show=False)
    assert result.mean == 1.0
    assert result.interval == 0.0


def test_the_head_is_in_eval_mode(encode):
    head = nn.Module()
    head.forward = lambda support, labels, query, n_way: torch.zeros(*query.shape[:2], n_way)
    data = pictures()
    for score in (evaluate, lambda *a, **k: evaluate(*a, memory_bytes=0, **k)):
        head.train()
        score(encode, head, data, sampler(data), show=False)
        assert not head.training


def test_ranks_cover_the_episodes_once(encode):
    data = pictures()
    whole = evaluate(encode, Nearest(), data, sampler(data), show=False)
    for rank in range(3):
        part = evaluate(encode, Nearest(), data, sampler(data, rank=rank, world_size=3), show=False)
        assert np.array_equal(part.numbers, np.arange(rank, 30, 3))
        assert np.array_equal(part.accuracies, whole.accuracies[rank::3])


def test_features_do_not_depend_on_batches_and_are_float32(encode):
    data = pictures()
    whole = extract_features(encode, data, show=False)
    some = extract_features(encode, data, np.array([7, 3, 50]), batch_size=2, show=False)
    torch.testing.assert_close(some, whole[[7, 3, 50]])
    half = extract_features(lambda x: encode(x).bfloat16(), data, show=False)
    assert half.dtype == torch.float32
    assert not half.requires_grad


def test_features_that_are_not_finite_are_named():
    def broken(images):
        features = images.flatten(1)
        features[images[:, 0, 0, 0] == marked] = torch.nan
        return features

    data = pictures()
    marked = data.load([33])[0, 0, 0, 0]
    first = int((data.load(range(54))[:, 0, 0, 0] == marked).nonzero()[0])
    with pytest.raises(UserError, match=f"item {first} is not finite"):
        extract_features(broken, data, show=False)


def test_an_empty_choice_is_refused(encode):
    with pytest.raises(UserError, match="no images"):
        extract_features(encode, pictures(), np.array([], dtype=int), show=False)


def test_evaluate_images_returns_what_it_was_asked(encode):
    data = pictures()
    result = evaluate_images(encode, Nearest(), data, sampler(data, n_episodes=3), show=False)
    assert len(result.accuracies) == 3
