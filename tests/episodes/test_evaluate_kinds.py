"""Scoring open-set, semi-supervised and imbalanced episodes: what the head is given, and what is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from episodes.evaluate import evaluate_features, evaluate_images, extract_features
from episodes.extras import Extras
from episodes.sampler import EpisodeSampler
from episodes.sizes import ImbalancedSizes, MetaDatasetSizes
from tests.episodes.test_evaluate import Nearest, pictures

DATA = pictures(12, 14)
LABELS = DATA.dataset.labels
RULES = {
    "fixed": {"n_way": 4, "k_shot": 2, "n_query": 3},
    "imbalanced": {"variable": ImbalancedSizes(4, (1, 4), 3, 1.0)},
    "meta_dataset": {"variable": MetaDatasetSizes(2, 5, max_query=3, max_support=14)},
}


class Absent(nn.Module):
    """Nearest class mean, -inf for a class without support."""

    def forward(self, support, support_labels, query, n_way=None):
        member = nn.functional.one_hot(support_labels + 1, n_way + 1)[..., 1:].to(support.dtype)
        counts = member.sum(1)
        means = member.transpose(1, 2) @ support / counts.clamp(min=1).unsqueeze(-1)
        return (-(torch.cdist(query, means) ** 2)).masked_fill((counts == 0).unsqueeze(1), -torch.inf)


class Recorder(Absent):
    """Keeps what it is given."""

    semi_supervised = transductive = True

    def forward(self, support, support_labels, query, n_way=None, query_mask=None, unlabelled=None,
                unlabelled_mask=None):  # fmt: skip
        self.seen = (query, query_mask, unlabelled, unlabelled_mask)
        return super().forward(support, support_labels, query, n_way)


@pytest.fixture(scope="module")
def encode():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten()).eval()


@pytest.fixture(scope="module")
def features(encode):
    return extract_features(encode, DATA, show=False)


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("open_score", ["probability", "logit"])
def test_open_set_figures_are_those_of_each_episode(features, rule, open_score):
    sampler = EpisodeSampler(LABELS, n_episodes=40, extras=Extras(3, 4), **RULES[rule])
    features = features.double()  # in float32 near ties may change places
    result = evaluate_features(Absent(), features, sampler, 12, show=False, open_score=open_score)
    for episode in sampler:
        items = np.concatenate([episode.query, episode.unknown])
        logits = Absent()(
            features[torch.tensor(episode.support)][None], torch.tensor(episode.support_labels.copy())[None],
            features[torch.tensor(items)][None], n_way=episode.n_way,
        )[0]  # fmt: skip
        scores = (logits.softmax(-1) if open_score == "probability" else logits).amax(-1)
        known = np.arange(len(items)) < len(episode.query)
        assert result.auroc[episode.number] == pytest.approx(roc_auc_score(known, scores))
        right = logits.argmax(-1).numpy()[known] == episode.query_labels
        assert result.accuracies[episode.number] == pytest.approx(right.mean())
    assert 0.55 < result.auroc.mean() < 1
    assert result.open_set.curve.mean() == pytest.approx(result.auroc.mean())
    assert len(result.open_set.unknown) == 40 * 12
    summary = result.summary()
    assert summary["auroc"] == pytest.approx(result.auroc.mean())
    assert summary["auroc_interval"] == pytest.approx(1.96 * result.auroc.std() / np.sqrt(40))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_unknown_queries_change_no_accuracy(features, rule):
    plain, extended = (EpisodeSampler(LABELS, n_episodes=30, extras=e, **RULES[rule]) for e in (None, Extras(3, 4)))
    before, after = (evaluate_features(Absent(), features, s, 12, show=False) for s in (plain, extended))
    np.testing.assert_array_equal(before.accuracies, after.accuracies)
    np.testing.assert_array_equal(before.confusion, after.confusion)
    assert before.auroc is None and "auroc" not in before.summary()


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("head", [Absent, Recorder])
def test_images_and_features_agree(encode, features, rule, head):
    sampler = EpisodeSampler(LABELS, n_episodes=12, extras=Extras(2, 3, 2, 1, 2), **RULES[rule])
    kept = evaluate_features(head(), features, sampler, 12, show=False)
    plain = evaluate_images(encode, head(), DATA, sampler, show=False)
    np.testing.assert_array_equal(kept.accuracies, plain.accuracies)
    np.testing.assert_allclose(kept.auroc, plain.auroc, atol=1e-6)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_head_gets_what_it_asks_for(features, rule):
    sampler = EpisodeSampler(LABELS, n_episodes=5, extras=Extras(2, 3, 2, 1, 2), **RULES[rule])
    head, batch = Recorder(), sampler.batch(range(5))
    evaluate_features(head, features, sampler, 12, show=False)
    query, query_mask, unlabelled, unlabelled_mask = head.seen
    n_query = batch.query.shape[1]
    torch.testing.assert_close(query[:, n_query:], features[torch.from_numpy(batch.unknown)])
    np.testing.assert_array_equal(query_mask[:, :n_query], batch.query_labels >= 0)
    assert query_mask[:, n_query:].all()
    torch.testing.assert_close(unlabelled, features[torch.from_numpy(batch.unlabelled)])
    np.testing.assert_array_equal(unlabelled_mask, batch.unlabelled_labels != -1)


def test_a_head_that_knows_nothing_of_extras_is_not_given_any(features):
    sampler = EpisodeSampler(LABELS, 4, 2, 3, 5, extras=Extras(unlabelled=2))
    assert evaluate_features(Nearest(), features, sampler, 12, show=False).mean > 0.3


def test_classes_without_queries_are_counted_right(features):
    sampler = EpisodeSampler(LABELS, n_episodes=60, variable=ImbalancedSizes(4, (1, 1), 2, 0.1))
    result = evaluate_features(Absent(), features, sampler, 12, show=False)
    assert result.confusion.sum() == 60 * 8
    queries = np.concatenate([LABELS[episode.query] for episode in sampler])
    np.testing.assert_array_equal(result.confusion.sum(1), np.bincount(queries, minlength=12))
