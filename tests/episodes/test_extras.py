"""Imbalanced sizes and extras: what such episodes look like, and that extras leave support and queries alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from episodes.errors import UserError
from episodes.extras import Extras, skip_used
from episodes.sampler import EpisodeSampler
from episodes.sizes import ImbalancedSizes, MetaDatasetSizes, share_out
from tests.episodes.test_sampler import digest, labels_of, same

RULES = {
    "fixed": {"n_way": 3, "k_shot": 2, "n_query": 3},
    "imbalanced": {"variable": ImbalancedSizes(3, (1, 4), 3, 0.5)},
    "meta_dataset": {"variable": MetaDatasetSizes(2, 4, max_query=3, max_support=12)},
}
EXTRAS = {
    "open": Extras(2, 3),
    "semi": Extras(unlabelled=3),
    "distractors": Extras(distractor_ways=2, distractors=2),
    "all": Extras(2, 3, 3, 2, 2),
}


def check_extras(episode, labels: np.ndarray, extras: Extras, exact: bool) -> None:
    """Everything an episode with extras promises."""
    sides = [episode.support, episode.query, episode.unknown, episode.unlabelled]
    items = np.concatenate(sides)
    assert len(set(items.tolist())) == len(items), "an item comes twice"
    own = set(episode.classes.tolist())
    unknown = labels[episode.unknown]
    assert len(unknown) == extras.unknown_ways * extras.unknown_queries
    if extras.open_set:
        classes, counts = np.unique(unknown, return_counts=True)
        assert len(classes) == extras.unknown_ways and set(counts) == {extras.unknown_queries}
    strange = labels[episode.unlabelled[episode.unlabelled_labels == -2]]
    if extras.distractor_ways:
        classes, counts = np.unique(strange, return_counts=True)
        assert len(classes) == extras.distractor_ways and set(counts) == {extras.distractors}
    assert not own & set(unknown.tolist()) and not own & set(strange.tolist())
    assert not set(strange.tolist()) & set(unknown.tolist())
    truth = episode.unlabelled_labels[episode.unlabelled_labels >= 0]
    np.testing.assert_array_equal(labels[episode.unlabelled[: len(truth)]], episode.classes[truth])
    assert (episode.unlabelled_labels != -1).all()
    counts = np.bincount(truth, minlength=episode.n_way)
    used = np.bincount(episode.support_labels, minlength=episode.n_way)
    used += np.bincount(episode.query_labels, minlength=episode.n_way)
    left = np.bincount(labels)[episode.classes] - used
    np.testing.assert_array_equal(counts, extras.unlabelled if exact else np.minimum(left, extras.unlabelled))


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(sorted(RULES)), st.sampled_from(sorted(EXTRAS)), st.integers(0, 2**40), st.integers(0, 9),
    st.lists(st.integers(10, 40), min_size=8, max_size=12),
)  # fmt: skip
def test_extras_keep_their_promises_and_change_nothing_else(rule, kind, seed, epoch, sizes):
    labels, extras = labels_of(sizes, shuffle=seed % 7), EXTRAS[kind]
    options = {"n_episodes": 70, "seed": seed, "epoch": epoch, **RULES[rule]}
    plain, extended = EpisodeSampler(labels, **options), EpisodeSampler(labels, **options, extras=extras)
    for before, after in zip(plain, extended, strict=True):
        assert same(before, after)
        # the share of the Dirichlet law may use a class up, too
        check_extras(after, labels, extras, rule == "fixed")
        assert len(before.unknown) == len(before.unlabelled) == 0


@pytest.mark.parametrize("rule", sorted(RULES))
def test_number_alone_decides_the_extras(rule):
    labels = labels_of([20, 14, 30, 10, 50, 26, 12, 17, 11, 40])
    sampler = EpisodeSampler(labels, n_episodes=400, seed=3, **RULES[rule], extras=EXTRAS["all"])
    numbers = [399, 0, 31, 257, 255]
    batch = sampler.batch(numbers)
    for row, number in enumerate(numbers):
        fresh = EpisodeSampler(labels, n_episodes=number + 1, seed=3, **RULES[rule], extras=EXTRAS["all"])[number]
        for episode in (sampler[number], batch.episode(row)):
            assert same(episode, fresh)
            for name in ("unknown", "unlabelled", "unlabelled_labels"):
                np.testing.assert_array_equal(getattr(episode, name), getattr(fresh, name))
    sampler.set_epoch(1)
    assert not np.array_equal(sampler[0].unknown, batch.episode(1).unknown)


def test_one_kind_of_extras_does_not_move_another():
    labels = labels_of([30] * 12)
    both = EpisodeSampler(labels, extras=EXTRAS["all"])[7]
    np.testing.assert_array_equal(EpisodeSampler(labels, extras=EXTRAS["open"])[7].unknown, both.unknown)
    semi = EpisodeSampler(labels, extras=EXTRAS["semi"])[7].unlabelled
    np.testing.assert_array_equal(semi, both.unlabelled[both.unlabelled_labels >= 0])


def test_extras_are_drawn_fairly():
    """Every item outside an episode's support and queries is as likely as the others."""
    labels, count = labels_of([8, 8, 9, 12, 30]), 20_000
    sampler = EpisodeSampler(labels, 2, 1, 2, count, extras=Extras(1, 2, 2, 1, 3))
    batches = list(sampler.steps(5000))
    unknown, unlabelled, truth = (
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("unknown", "unlabelled", "unlabelled_labels")
    )
    sizes = np.bincount(labels)[labels]
    for items, chance in (
        (unknown, 1 / 5 * 2 / sizes),
        (unlabelled[truth >= 0], 2 / 5 * 2 / sizes),
        (unlabelled[truth == -2], 1 / 5 * 3 / sizes),
    ):
        counts = np.bincount(items.ravel(), minlength=len(labels))
        assert (np.abs(counts - count * chance) < 5 * np.sqrt(count * chance)).all()


@given(st.sets(st.integers(0, 30), max_size=20), st.data())
def test_ranks_skip_what_is_used(used, data):
    used = data.draw(st.permutations(sorted(used)))
    unused = [number for number in range(40) if number not in used]
    row = np.array([[*used, 0, 0, 0]])  # the surplus holds no meaning
    found = skip_used(np.arange(len(unused))[None], row, np.array([len(used)]))
    assert found[0].tolist() == unused


@settings(max_examples=200)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 2**32), st.sampled_from([0.01, 0.5, 2.0, 50.0]))
def test_shares_add_up_and_fit(total, ways, seed, alpha):
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(ways, alpha), size=20)
    room = generator.integers(0, total + 1, (20, ways))
    room[:, 0] += np.maximum(total - room.sum(axis=1), 0)
    counts = share_out(shares, total, room)
    assert (counts.sum(axis=1) == total).all() and (counts >= 0).all() and (counts <= room).all()
    free = share_out(shares, total, np.full((20, ways), total))
    assert (np.abs(free - total * shares) < 1).all()


def test_imbalanced_queries_have_the_spread_of_their_law():
    rule = ImbalancedSizes(5, (1, 1), 15, 2.0)
    sampler = EpisodeSampler(labels_of([200] * 8), variable=rule, n_episodes=4000)
    labels = np.concatenate([batch.query_labels for batch in sampler.steps(1000)])
    assert labels.shape == (4000, 75)
    shares = (labels[:, :, None] == np.arange(5)).mean(axis=1)
    # a coordinate of Dirichlet(2, ..., 2) is Beta(2, 8): variance 16 / (100 * 11)
    assert shares.var(axis=0) == pytest.approx(np.full(5, 16 / 1100), rel=0.1)
    assert shares.mean(axis=0) == pytest.approx(np.full(5, 0.2), abs=0.01)
    assert ((shares == 0).any(axis=1)).any()


def test_imbalanced_shots_are_uniform():
    sampler = EpisodeSampler(labels_of([20] * 6), variable=ImbalancedSizes(3, (1, 4), 2), n_episodes=2000)
    counts = np.array([np.bincount(episode.support_labels, minlength=3) for episode in sampler])
    assert np.bincount(counts.ravel(), minlength=5)[1:] == pytest.approx(np.full(4, 1500), rel=0.1)
    assert all((np.bincount(episode.query_labels) == 2).all() for episode in sampler)


def test_the_streams_of_new_kinds_are_pinned():
    labels = labels_of([20 + 7 * c for c in range(20)], shuffle=1)
    sampler = EpisodeSampler(labels, n_episodes=2048, variable=ImbalancedSizes(5, (1, 5), 8, 2.0))
    assert digest(sampler) == "dfb69ad87afef1fa"
    episode = EpisodeSampler(labels, 3, 1, 2, extras=Extras(1, 2, 1, 1, 2))[5]
    assert (episode.unknown.tolist(), episode.unlabelled.tolist()) == ([201, 1552], [33, 271, 1241, 9, 1639])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extras": Extras(3, 1)}, r"5-way 1-shot with 15 queries per class and 1 queries of each of 3 unknown classes "
         r"need up to 5 classes and 3 outside the episode, but there are 7: lower n_way"),
        ({"extras": Extras(unlabelled=5)}, r"need 21 items in every class, but class 0 has 20"),
        ({"extras": Extras(1, 30)}, r"need 30 items in every class"),
        ({"extras": Extras(distractor_ways=1, distractors=21)}, r"need 21 items in every class"),
        ({"variable": MetaDatasetSizes(), "extras": Extras(2, 3)}, r"2 outside the episode.*lower max_way to 5"),
        ({"variable": MetaDatasetSizes(), "extras": Extras(2, 30)}, r"need 30 items in every class"),
        ({"variable": ImbalancedSizes(5, (1, 9), 15)}, r"need 24 items in every class"),
    ],
)  # fmt: skip
def test_too_few_classes_or_items_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        EpisodeSampler(labels_of([20] * 7), **options)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Extras(2, 0), "unknown_ways=2 and unknown_queries=0"),
        (lambda: Extras(distractors=3), "distractor_ways=0 and distractors=3"),
        (lambda: Extras(unlabelled=-1), "unlabelled=-1"),
        (lambda: ImbalancedSizes(5, (3, 1), 15), "fewest <= most"),
        (lambda: ImbalancedSizes(5, (0, 1), 15), "fewest <= most"),
        (lambda: ImbalancedSizes(5, (1, 1), 15, 0.0), "query_alpha=0.0"),
        (lambda: ImbalancedSizes(0, (1, 1), 15), "n_way=0"),
    ],
)
def test_senseless_sizes_are_refused(build, words):
    with pytest.raises(UserError, match=words):
        build()


def test_printing_an_episode_counts_its_extras():
    episode = EpisodeSampler(labels_of([30] * 12), extras=EXTRAS["all"])[0]
    assert repr(episode).endswith("unknown=6, unlabelled=19)")
