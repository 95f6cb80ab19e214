"""Transductive heads: their definitions with loops, and padding queries that must not vote."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from episodes.evaluate import evaluate_features
from episodes.sampler import EpisodeSampler
from episodes.sizes import MetaDatasetSizes
from fewshot.bd_cspn import BDCSPN, pseudo_members
from fewshot.encoder import EpisodeModel, episode_step
from fewshot.methods import METHODS, create_encoder, create_head
from fewshot.soft_kmeans import SoftKMeans
from fewshot.tim import TIM, tim_loss
from tests.fewshot.episodes import HEADS, TRANSDUCTIVE, VECTOR, Episodes, build, random_episodes

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def by_episodes(data: Episodes, score) -> torch.Tensor:
    """Return (E, Q, K) of score(support rows of every class, all queries) -> (Q, K)."""
    episodes = zip(data.support, data.labels, data.query, strict=True)
    return torch.stack([score([s[y == k] for k in range(data.n_way)], u) for s, y, u in episodes])


def check(head, data: Episodes, score, **tolerance):
    mine = head(data.support, data.labels, data.query)
    torch.testing.assert_close(mine, by_episodes(data, score), **(tolerance or TIGHT))


def test_soft_kmeans():
    def score(classes, queries):
        centres = [rows.mean(0) for rows in classes]
        for _ in range(3):
            soft = []
            for u in queries:
                powers = torch.stack([torch.exp(-0.1 * ((u - p) ** 2).sum()) for p in centres])
                soft.append(powers / powers.sum())
            centres = [
                (rows.sum(0) + sum(z[k] * u for z, u in zip(soft, queries, strict=True)))
                / (len(rows) + sum(z[k] for z in soft))
                for k, rows in enumerate(classes)
            ]
        return torch.stack([torch.stack([-((u - p) ** 2).sum() for p in centres]) for u in queries])

    check(SoftKMeans(steps=3, temperature=0.1), random_episodes(VECTOR), score)


def test_soft_kmeans_without_steps_is_protonet():
    data = random_episodes(VECTOR)
    expected = HEADS["protonet"][0]()(data.support, data.labels, data.query)
    torch.testing.assert_close(SoftKMeans(steps=0)(data.support, data.labels, data.query), expected, **TIGHT)


def cosine(a, b):
    return a @ b / (a.norm() * b.norm())


@pytest.mark.parametrize("top", [None, 1, 2, 0])
@pytest.mark.parametrize("normalise", [True, False])
def test_bd_cspn(top, normalise):
    def score(classes, queries):
        if normalise:
            classes = [torch.stack([r / r.norm() for r in rows]) for rows in classes]
            queries = torch.stack([u / u.norm() for u in queries])
        queries = queries + torch.cat(classes).mean(0) - queries.mean(0)
        centres = [rows.mean(0) for rows in classes]
        near = torch.stack([torch.stack([cosine(u, p) for p in centres]) for u in queries])
        sure = (5 * near).softmax(1)
        new = []
        for k, rows in enumerate(classes):
            voters = sorted((i for i in range(len(queries)) if near[i].argmax() == k), key=lambda i: -sure[i, k])
            pool = [*rows, *(queries[i] for i in voters[:top])]
            powers = [torch.exp(5 * cosine(x, centres[k])) for x in pool]
            new.append(sum(w * x for w, x in zip(powers, pool, strict=True)) / sum(powers))
        return torch.stack([torch.stack([5 * cosine(u, p) for p in new]) for u in queries])

    check(BDCSPN(temperature=5.0, top=top, normalise=normalise), random_episodes(VECTOR, n_query=9), score)


def test_pseudo_members_are_the_surest_of_each_class():
    cosines = torch.tensor([[[0.9, 0.1], [0.8, 0.1], [0.7, 0.1], [0.2, 0.3], [0.9, 0.0]]])
    present, weight = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[1.0, 1, 1, 1, 0]])
    votes = pseudo_members(cosines, present, weight, 10.0, 2)
    assert votes[0].tolist() == [[True, False], [True, False], [False, False], [False, True], [False, False]]


def test_bd_cspn_undoes_a_shift_of_the_queries():
    data = random_episodes(VECTOR)
    head = BDCSPN(normalise=False)
    moved = head(data.support, data.labels, data.query + 5)
    torch.testing.assert_close(moved, head(data.support, data.labels, data.query), **TIGHT)


def test_bd_cspn_refuses_a_negative_number():
    with pytest.raises(ValueError, match="top must be a whole number of at least 0"):
        BDCSPN(top=-1)


def tim_by_definition(centres, classes, queries):
    """The loss in words: 0.1 CE - H(Y) + 0.1 H(Y|X)."""

    def predict(x):
        powers = torch.stack([torch.exp(-7.5 * ((x - w) ** 2).sum()) for w in centres])
        return powers / powers.sum()

    losses = [-torch.log(predict(x)[k]) for k, rows in enumerate(classes) for x in rows]
    answers = [predict(u) for u in queries]
    mean = sum(answers) / len(answers)
    conditional = sum(-(p * p.log()).sum() for p in answers) / len(answers)
    return 0.1 * sum(losses) / len(losses) + (mean * mean.log()).sum() + 0.1 * conditional


def test_tim():
    def score(classes, queries):
        classes = [torch.stack([r / r.norm() for r in rows]) for rows in classes]
        queries = torch.stack([u / u.norm() for u in queries])
        centres = torch.stack([rows.mean(0) for rows in classes]).requires_grad_()
        optimiser = torch.optim.Adam([centres], lr=1e-2)
        for _ in range(10):
            optimiser.zero_grad()
            tim_by_definition(centres, classes, queries).backward()
            optimiser.step()
        with torch.no_grad():
            logits = torch.stack([torch.stack([-7.5 * ((u - w) ** 2).sum() for w in centres]) for u in queries])
            return logits + 7.5  # the head leaves the norm of the query out, the same for all classes

    check(TIM(steps=10, lr=1e-2), random_episodes(VECTOR), score, rtol=1e-7, atol=1e-7)


def test_tim_lowers_its_loss_with_the_published_settings():
    data = random_episodes(VECTOR)
    head = TIM()
    assert (head.temperature, head.steps, head.lr, head.loss_weights) == (15.0, 1000, 1e-4, (0.1, 1.0, 0.1))

    def loss(steps):
        head.steps = steps
        target = torch.nn.functional.one_hot(data.labels, 3).double()
        logits = head(data.support, data.labels, torch.cat([data.support, data.query], 1))
        return tim_loss(logits[:, :6], target, logits, torch.ones(2, 10))

    assert (loss(100) < loss(0)).all()


def test_tim_takes_no_gradient():
    data = random_episodes(VECTOR)
    assert not TIM(steps=2)(data.support, data.labels, data.query.requires_grad_()).requires_grad


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_the_other_queries_matter(name):
    head, shape = build(name)
    data = random_episodes(shape)
    some = head(data.support, data.labels, data.query[:, :2])
    assert not torch.allclose(some, head(data.support, data.labels, data.query)[:, :2])


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_padding_queries_do_not_vote(name):
    """One episode with two queries beside one with four; what stands in the padding does not matter."""
    head, shape = build(name)
    data = random_episodes(shape)
    mask = torch.tensor([[False, True, False, True], [True] * 4])
    data.query[~mask] = float("nan")
    together = head(data.support, data.labels, data.query, query_mask=mask)
    for e in range(2):
        alone = head(data.support[e : e + 1], data.labels[e : e + 1], data.query[e : e + 1, mask[e]])
        torch.testing.assert_close(together[e : e + 1, mask[e]], alone, rtol=1e-7, atol=1e-7)
    assert torch.isfinite(together).all()


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_a_wrong_mask_is_refused(name):
    head, shape = build(name)
    data = random_episodes(shape)
    for mask in (torch.ones(2, 4), torch.ones(2, 3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="query_mask must be boolean and name every query"):
            head(data.support, data.labels, data.query, query_mask=mask)


def test_methods_say_that_they_are_transductive():
    """In the table, on the head, and in the title that every table prints."""
    for name, method in METHODS.items():
        assert method.transductive == getattr(create_head(name, 1), "transductive", False), name
        assert method.transductive == method.title.endswith("(transductive)"), name
    marked = {name for name, method in METHODS.items() if method.transductive and not method.adapts}
    assert marked == set(TRANSDUCTIVE)


def test_training_hides_padding_queries_from_the_head():
    torch.manual_seed(0)
    options = {"width": 4, "pooled_stages": 2, "input_size": 16}
    model = EpisodeModel(create_encoder("soft_kmeans", "conv4", options), create_head("soft_kmeans", 1)).eval()
    images = torch.randn(1, 6, 3, 16, 16)
    labels = torch.tensor([[0, 1]])
    padded = episode_step(
        model, {"images": images, "support_labels": labels, "query_labels": torch.tensor([[0, 1, -1, -1]])}
    )
    short = episode_step(
        model, {"images": images[:, :4], "support_labels": labels, "query_labels": torch.tensor([[0, 1]])}
    )
    torch.testing.assert_close(padded["loss"], short["loss"])


def test_testing_in_padded_batches_is_testing_one_episode_at_a_time():
    """Episodes of 2 to 4 classes in one batch, so that most have padding queries, which repeat a real picture."""
    labels = np.repeat(np.arange(4), 30)
    features = torch.randn(120, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features += 0.5 * torch.nn.functional.one_hot(torch.from_numpy(labels), 8)
    features[0] *= 20  # what padding shows, so that its vote would be loud
    sampler = EpisodeSampler(labels, n_episodes=20, variable=MetaDatasetSizes(2, 4, 5, 20))
    assert next(sampler.steps(20)).padded
    head = SoftKMeans(steps=3, temperature=0.3)
    together = evaluate_features(head, features, sampler, 4, show=False)
    for number in range(20):
        episode = sampler[number]
        rows = (torch.from_numpy(np.array(x))[None] for x in (episode.support, episode.support_labels, episode.query))
        support, support_labels, query = rows
        answers = head(features[support], support_labels, features[query])[0].argmax(-1).numpy()
        assert together.accuracies[number] == (answers == episode.query_labels).mean()
