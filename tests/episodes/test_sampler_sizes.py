"""Way, shots and queries: unequal shots, subsets, the Meta-Dataset protocol, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from episodes.distinct import draw_distinct
from episodes.errors import UserError
from episodes.sampler import EpisodeSampler
from episodes.sizes import MetaDatasetSizes, draw_shots
from tests.episodes.test_sampler import check_episode, labels_of


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1)), min_size=1, max_size=40), st.integers(0, 1000))
def test_positions_are_distinct_and_in_range(rows, seed):
    sizes = np.array([size for size, _ in rows])
    needs = np.array([max(1, round(size * part)) for size, part in rows])
    drawn = draw_distinct(np.random.default_rng(seed), sizes, needs)
    assert drawn.shape == (len(rows), needs.max())
    for row, size, need in zip(drawn, sizes, needs, strict=True):
        assert len(set(row[:need].tolist())) == need
        assert row[:need].min() >= 0 and row[:need].max() < size


@pytest.mark.parametrize(("size", "need"), [(4, 2), (4, 3), (5, 2), (3, 3)])
def test_every_ordered_draw_is_equally_likely(size, need):
    count = 40_000
    drawn = draw_distinct(np.random.default_rng(0), np.full(count, size), np.full(count, need))
    codes = (drawn * size ** np.arange(need)).sum(axis=1)
    _, counts = np.unique(codes, return_counts=True)
    outcomes = math.perm(size, need)
    assert len(counts) == outcomes
    deviation = math.sqrt(count / outcomes * (1 - 1 / outcomes))
    assert np.abs(counts - count / outcomes).max() < 4 * deviation


def test_unequal_shots_follow_their_position():
    labels = labels_of([20] * 7)
    seen = [set() for _ in range(4)]
    for episode in EpisodeSampler(labels, 4, (1, 2, 5, 3), 2, 200):
        check_episode(episode, labels)
        assert np.bincount(episode.support_labels).tolist() == [1, 2, 5, 3]
        assert np.bincount(episode.query_labels).tolist() == [2, 2, 2, 2]
        for position, class_id in enumerate(episode.classes.tolist()):
            seen[position].add(class_id)
    assert all(len(classes) == 7 for classes in seen), "every class takes every position"


def test_a_subset_of_the_classes():
    labels = labels_of([20] * 7)
    sampler = EpisodeSampler(labels, 3, 1, 2, 50, classes=[1, 4, 6])
    assert {tuple(sorted(episode.classes.tolist())) for episode in sampler} == {(1, 4, 6)}


def test_classes_outside_the_subset_may_be_small():
    sampler = EpisodeSampler(labels_of([20, 1, 20]), 2, 1, 2, 5, classes=[0, 2])
    assert set(sampler[0].classes.tolist()) == {0, 2}


def test_small_classes_are_all_named():
    with pytest.raises(UserError) as error:
        EpisodeSampler(labels_of([20, 3, 20, 5]), 2, 1, 5, class_names=["lute", "oboe", "harp", "drum"])
    message = str(error.value)
    assert "'oboe' has 3" in message and "'drum' has 5" in message and "need 6 items" in message
    assert "lute" not in message and "harp" not in message
    assert "drop_small=True" in message and "--drop_small" in message


def test_small_classes_can_be_dropped():
    sampler = EpisodeSampler(labels_of([20, 3, 20, 5]), 2, 1, 5, 30, drop_small=True)
    assert {class_id for episode in sampler for class_id in episode.classes.tolist()} == {0, 2}
    with pytest.raises(UserError, match=r"need 3 classes, but there are 2 after dropping.*class 1 has 3"):
        EpisodeSampler(labels_of([20, 3, 20, 5]), 3, 1, 5, 30, drop_small=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_way": 8}, "8-way 1-shot with 15 queries per class need 8 classes, but there are 7"),
        ({"n_way": 0}, "n_way=0"),
        ({"k_shot": 0}, "k_shot=0"),
        ({"n_query": 0}, "n_query=0"),
        ({"k_shot": (1, 2)}, "one number for each of the 5 classes"),
        ({"n_episodes": 0}, "n_episodes=0"),
        ({"seed": -1}, "seed=-1"),
        ({"epoch": -1}, "epoch=-1"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"classes": [0, 99]}, r"classes \[99\] hold no items"),
        ({"variable": MetaDatasetSizes(min_way=8)}, "need 8 classes"),
    ],
)
def test_bad_requests_are_refused_before_the_first_draw(options, words):
    with pytest.raises(UserError, match=words):
        EpisodeSampler(labels_of([20] * 7), **options)


@pytest.mark.parametrize("labels", [[], [[1, 2]], [0.5, 1.0], ["a", "b"]])
def test_bad_labels_are_refused(labels):
    with pytest.raises(UserError, match="labels must be a list of integers"):
        EpisodeSampler(labels, 1, 1, 1)


@pytest.mark.parametrize("number", [-1, 10])
def test_numbers_outside_the_epoch_are_refused(number):
    sampler = EpisodeSampler(labels_of([20] * 7), n_episodes=10)
    with pytest.raises(IndexError, match=r"0\.\.9"):
        sampler[number]
    with pytest.raises(IndexError, match=r"0\.\.9"):
        sampler.batch([0, number])


def test_variable_rule_is_checked():
    with pytest.raises(UserError, match="min_way=6"):
        MetaDatasetSizes(min_way=6, max_way=5)
    with pytest.raises(UserError, match="max_support=20"):
        MetaDatasetSizes(max_support=20)
    with pytest.raises(UserError, match="max_query=0"):
        MetaDatasetSizes(max_query=0)
    with pytest.raises(UserError, match="class 2 has 1"):
        EpisodeSampler(labels_of([9, 9, 1, 9, 9, 9]), variable=MetaDatasetSizes())


def test_meta_dataset_episodes_keep_the_published_bounds():
    sizes = np.array([2, 3, 18, 20, 40, 55, 90, 130, 400, 600] * 6)
    labels = labels_of(sizes)
    sampler = EpisodeSampler(labels, variable=MetaDatasetSizes(), n_episodes=300, seed=4)
    ways = set()
    for episode in sampler:
        check_episode(episode, labels)
        ways.add(episode.n_way)
        class_sizes = sizes[episode.classes]
        queries = np.bincount(episode.query_labels)
        assert (queries == min(10, class_sizes.min() // 2)).all()
        shots = np.bincount(episode.support_labels)
        assert (shots >= 1).all() and (shots + queries <= class_sizes).all()
        assert len(episode.support) <= 500
    assert min(ways) == 5 and max(ways) == 50 and len(ways) > 40


def test_meta_dataset_shots_follow_the_formula():
    """The same random numbers put through the published formula, one class at a time."""
    rule = MetaDatasetSizes(max_support=120)
    sizes = np.array([[30, 64, 200, 500, 0], [9, 25, 150, 0, 0], [700, 700, 700, 700, 700]])
    present = sizes > 0
    shots, queries = draw_shots(np.random.default_rng(8), rule, sizes, present)

    generator = np.random.default_rng(8)
    betas = [1 - generator.random() for _ in range(3)]
    alphas = np.array([[math.log(0.5) + generator.random() * math.log(4) for _ in range(5)] for _ in range(3)])
    for row in range(3):
        counts = [int(size) for size in sizes[row] if size]
        query = min(10, min(counts) // 2)
        budget = min(120, sum(math.ceil(betas[row] * min(100, count - query)) for count in counts))
        weights = [math.exp(alpha) * count for alpha, count in zip(alphas[row], counts, strict=False)]
        expected = [
            min(math.floor(weight / sum(weights) * (budget - len(counts))) + 1, count - query)
            for weight, count in zip(weights, counts, strict=True)
        ]
        assert shots[row, : len(counts)].tolist() == expected
        assert queries[row] == query
        assert (shots[row, len(counts) :] == 0).all()


def test_uneven_episodes_are_padded_in_a_batch():
    labels = labels_of([30] * 12)
    sampler = EpisodeSampler(labels, variable=MetaDatasetSizes(), n_episodes=100)
    numbers = [70, 3, 40]
    batch = sampler.batch(numbers)
    for row, number in enumerate(numbers):
        episode = sampler[number]
        length = len(episode.support)
        np.testing.assert_array_equal(batch.support[row, :length], episode.support)
        np.testing.assert_array_equal(batch.support_labels[row, :length], episode.support_labels)
        assert (batch.support_labels[row, length:] == -1).all() and (batch.support[row, length:] == 0).all()
        assert (batch.query_labels[row, len(episode.query) :] == -1).all()
        assert (batch.classes[row, episode.n_way :] == -1).all()
    assert batch.support.shape[1] == max(len(sampler[number].support) for number in numbers)
    assert batch.classes.shape[1] == max(sampler[number].n_way for number in numbers)
