"""Semi-supervised soft k-means: its definitions with loops, padding, and what distractors do to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from backbones import UserError
from episodes.evaluate import evaluate_features
from episodes.extras import Extras
from episodes.sampler import EpisodeSampler
from fewshot.methods import METHODS, create_head
from fewshot.protonet import ProtoNet
from fewshot.semi_soft_kmeans import DistractorMask, SemiSoftKMeans, distance_statistics
from fewshot.soft_kmeans import SoftKMeans
from tests.fewshot.episodes import VECTOR, random_episodes

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def extended(n_items: int = 7, seed: int = 3):
    data = random_episodes(VECTOR)
    generator = torch.Generator().manual_seed(seed)
    return data, torch.randn(2, n_items, *VECTOR, generator=generator, dtype=torch.float64)


def built(distractors: str, **options) -> SemiSoftKMeans:
    """A head in float64 with weights away from their start values."""
    torch.manual_seed(1)
    head = SemiSoftKMeans(distractors, **options).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


def naive(head: SemiSoftKMeans, support, labels, query, rows, temperature: float = 0.1) -> torch.Tensor:
    """One round for one episode, item by item: support (S, D), labels (S,), query (Q, D), rows (M, D)."""
    n_way = int(labels.max()) + 1
    members = [support[labels == k] for k in range(n_way)]
    centres = [m.mean(0) for m in members]
    distance = np.array([[float(((x - p) ** 2).sum()) for p in centres] for x in rows])
    share = np.zeros((len(rows), n_way))
    for j, x in enumerate(rows):
        powers = [math.exp(-temperature * d) for d in distance[j]]
        if head.distractors == "cluster":
            radius = math.exp(head.log_radius.item())
            powers.append(math.exp(-temperature * float((x**2).sum()) / radius**2) / radius)
        share[j] = [p / sum(powers) for p in powers[:n_way]]
    if head.distractors == "mask":
        for k in range(n_way):
            d = distance[:, k] / distance[:, k].mean()
            facts = [d.min(), d.max(), d.var(), stats.skew(d), stats.kurtosis(d)]
            beta, gamma = head.mask.network(torch.tensor(facts, dtype=torch.float64)).tolist()
            share[:, k] *= 1 / (1 + np.exp(gamma * (d - beta)))
    result = torch.empty(len(query), n_way, dtype=torch.float64)
    for k in range(n_way):
        moved = members[k].sum(0) + sum(share[j, k] * x for j, x in enumerate(rows))
        moved = moved / (len(members[k]) + share[:, k].sum())
        result[:, k] = -((query - moved) ** 2).sum(-1)
    return result


@pytest.mark.parametrize("distractors", ["none", "cluster", "mask"])
def test_definition(distractors):
    data, rows = extended()
    head = built(distractors, temperature=0.1)
    mine = head(data.support, data.labels, data.query, unlabelled=rows)
    for e in range(2):
        expected = naive(head, data.support[e], data.labels[e], data.query[e], rows[e])
        torch.testing.assert_close(mine[e], expected, **TIGHT)


@pytest.mark.parametrize("distractors", ["none", "cluster", "mask"])
def test_padding_and_order_of_unlabelled_items_change_nothing(distractors):
    data, rows = extended()
    head = built(distractors, steps=2, temperature=0.1)
    expected = head(data.support, data.labels, data.query, unlabelled=rows)
    padded = torch.cat([rows[:, torch.randperm(7)], torch.full((2, 3, *VECTOR), torch.nan, dtype=rows.dtype)], 1)
    mask = torch.arange(10).expand(2, -1) < 7
    mine = head(data.support, data.labels, data.query, unlabelled=padded, unlabelled_mask=mask)
    torch.testing.assert_close(mine, expected, **TIGHT)
    one = head(data.support[1:], data.labels[1:], data.query[1:], unlabelled=rows[1:])
    torch.testing.assert_close(one, expected[1:], **TIGHT)


@pytest.mark.parametrize("distractors", ["none", "cluster", "mask"])
def test_without_unlabelled_items_it_is_protonet(distractors):
    data, rows = extended()
    head, expected = built(distractors), ProtoNet()(data.support, data.labels, data.query)
    torch.testing.assert_close(head(data.support, data.labels, data.query), expected, **TIGHT)
    nobody = {"unlabelled": rows, "unlabelled_mask": torch.zeros(2, 7, dtype=torch.bool)}
    torch.testing.assert_close(head(data.support, data.labels, data.query, **nobody), expected, **TIGHT)


def test_queries_move_prototypes_only_where_asked():
    data, rows = extended()
    plain, both = SemiSoftKMeans(temperature=0.1), SemiSoftKMeans(temperature=0.1, use_queries=True)
    alone = plain(data.support, data.labels, data.query[:, :1], unlabelled=rows)
    together = plain(data.support, data.labels, data.query, unlabelled=rows)
    torch.testing.assert_close(alone, together[:, :1], **TIGHT)
    assert not plain.transductive and both.transductive
    expected = SoftKMeans(temperature=0.1)(data.support, data.labels, data.query)
    torch.testing.assert_close(both(data.support, data.labels, data.query), expected, **TIGHT)
    assert not torch.allclose(both(data.support, data.labels, data.query, unlabelled=rows), together)


@pytest.mark.parametrize("distractors", ["cluster", "mask"])
def test_gradient_reaches_the_weights(distractors):
    data, rows = extended()
    head = built(distractors)
    (head(data.support, data.labels, data.query, unlabelled=rows).log_softmax(-1)[..., 0]).sum().backward()
    grads = [parameter.grad for parameter in head.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() and grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize("distractors", ["none", "cluster", "mask"])
def test_constant_features_give_no_nan(distractors):
    rows = torch.ones(1, 6, 4, requires_grad=True)
    labels = torch.tensor([[0, 0, 1, 1, 2, 2]])
    logits = SemiSoftKMeans(distractors)(rows, labels, rows[:, :3], unlabelled=rows)
    logits.sum().backward()
    assert torch.isfinite(logits).all() and torch.isfinite(rows.grad).all()


def test_a_class_without_support_stays_out():
    data, rows = extended()
    for distractors in ("none", "cluster", "mask"):
        logits = built(distractors)(data.support, data.labels, data.query, n_way=4, unlabelled=rows)
        assert (logits[..., 3] == -torch.inf).all()
        expected = built(distractors)(data.support, data.labels, data.query, unlabelled=rows)
        torch.testing.assert_close(logits[..., :3], expected, **TIGHT)


def test_statistics_are_those_of_scipy():
    values = torch.rand(1, 9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = distance_statistics(values, torch.tensor([[1.0] * 8 + [0.0]]).double())[0]
    for k in range(2):
        d = values[0, :8, k].numpy()
        expected = [d.min(), d.max(), d.var(), stats.skew(d), stats.kurtosis(d)]
        np.testing.assert_allclose(found[k], expected, rtol=1e-9)


def test_an_untrained_mask_lets_in_what_is_near():
    mask = DistractorMask()(torch.tensor([[[0.1], [1.0], [1.9]]]), torch.ones(1, 3))[0, :, 0].tolist()
    assert mask[0] > 0.95 and mask[1] == pytest.approx(0.5) and mask[2] < 0.05


def clusters(n_classes: int = 12, items: int = 40) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    centres = 2.2 * torch.randn(n_classes, 8, generator=generator) / math.sqrt(8)
    labels = np.repeat(np.arange(n_classes), items)
    features = centres[torch.from_numpy(labels)] + 0.55 * torch.randn(len(labels), 8, generator=generator)
    return 2 * features, labels


def test_unlabelled_items_help_and_distractors_hurt_less_where_they_are_expected():
    features, labels = clusters()
    extras = {"clean": Extras(unlabelled=15), "strange": Extras(unlabelled=15, distractor_ways=5, distractors=15)}
    found = {}
    for kind, rule in extras.items():
        sampler = EpisodeSampler(labels, 5, 1, 10, 300, extras=rule)
        for head in ("none", "mask"):
            found[kind, head] = evaluate_features(SemiSoftKMeans(head), features, sampler, 12, show=False).mean
        found[kind, "protonet"] = evaluate_features(ProtoNet(), features, sampler, 12, show=False).mean
    assert found["clean", "none"] > found["clean", "protonet"] + 0.03
    assert found["strange", "none"] < found["clean", "none"]
    assert found["strange", "mask"] > found["strange", "none"]


def test_table_of_methods():
    assert METHODS["semi_soft_kmeans"].semi_supervised and "(semi-supervised)" in METHODS["semi_soft_kmeans"].title
    assert create_head("semi_soft_kmeans_transductive", 1, distractors="mask").transductive
    with pytest.raises(UserError, match="semi_soft_kmeans_transductive"):
        create_head("semi_soft_kmeans", 1, use_queries=True)
    with pytest.raises(UserError, match="none, cluster, mask, not by 'drop'"):
        create_head("semi_soft_kmeans", 1, distractors="drop")
