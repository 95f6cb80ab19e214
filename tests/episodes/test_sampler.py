"""The sampler's contract: what an episode looks like, that its number alone decides it, and that draws are fair."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from episodes.episode import Episode
from episodes.sampler import FIXED_BLOCK, EpisodeSampler
from episodes.sizes import MetaDatasetSizes


def labels_of(sizes: Iterable[int], shuffle: int = 0) -> np.ndarray:
    labels = np.repeat(np.arange(len(list(sizes))), list(sizes))
    return np.random.default_rng(shuffle).permutation(labels)


def flat(episode: Episode) -> list[np.ndarray]:
    names = ("classes", "support", "support_labels", "query", "query_labels")
    return [np.array([episode.number]), *(getattr(episode, name) for name in names)]


def same(first: Episode, second: Episode) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


def check_episode(episode: Episode, labels: np.ndarray) -> None:
    """Properties that hold for every episode of every sampler."""
    items = np.concatenate([episode.support, episode.query])
    episode_labels = np.concatenate([episode.support_labels, episode.query_labels])
    assert len(set(items.tolist())) == len(items), "an item comes twice"
    assert len(set(episode.classes.tolist())) == episode.n_way, "a class comes twice"
    np.testing.assert_array_equal(labels[items], episode.classes[episode_labels])
    for side in (episode.support_labels, episode.query_labels):
        assert (np.diff(side) >= 0).all(), "not class-major"
        assert set(side.tolist()) == set(range(episode.n_way)), "a class is missing from one side"


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], int, int, int]:
    n_way, k_shot, n_query = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    need = k_shot + n_query
    sizes = draw(st.lists(st.integers(need, 4 * need), min_size=n_way, max_size=n_way + 6))
    return sizes, n_way, k_shot, n_query


@settings(max_examples=60, deadline=None)
@given(requests(), st.integers(0, 2**40), st.integers(0, 50))
def test_every_episode_keeps_the_contract(request_, seed, epoch):
    sizes, n_way, k_shot, n_query = request_
    labels = labels_of(sizes)
    sampler = EpisodeSampler(labels, n_way, k_shot, n_query, 20, seed, epoch)
    episodes = list(sampler)
    assert [episode.number for episode in episodes] == list(range(20))
    for episode in episodes:
        check_episode(episode, labels)
        np.testing.assert_array_equal(episode.support_labels, np.repeat(np.arange(n_way), k_shot))
        np.testing.assert_array_equal(episode.query_labels, np.repeat(np.arange(n_way), n_query))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3 * FIXED_BLOCK - 1), min_size=1, max_size=12), st.integers(1, 9))
def test_order_of_access_and_number_of_episodes_change_nothing(numbers, per_step):
    labels = labels_of([30, 8, 12, 40, 9, 8])
    sampler = EpisodeSampler(labels, 3, 2, 4, 3 * FIXED_BLOCK, seed=5, epoch=2)
    fresh = EpisodeSampler(labels, 3, 2, 4, max(numbers) + 1, seed=5, epoch=2)
    batch = sampler.batch(numbers)
    assert batch.numbers.tolist() == numbers
    for row, number in enumerate(numbers):
        assert same(sampler[number], fresh[number])
        assert same(batch.episode(row), fresh[number])
    first = next(iter(sampler.steps(per_step)))
    assert all(same(a, fresh[a.number]) for a in first.episodes() if a.number <= max(numbers))


def test_episodes_differ_between_numbers_epochs_and_seeds():
    labels = labels_of([50] * 10)
    drawn = set()
    for seed in range(4):
        sampler = EpisodeSampler(labels, 5, 1, 5, FIXED_BLOCK + 10, seed=seed)
        for epoch in range(4):
            sampler.set_epoch(epoch)
            drawn |= {sampler[number].query.tobytes() for number in (0, 1, FIXED_BLOCK, FIXED_BLOCK + 1)}
    assert len(drawn) == 4 * 4 * 4


def test_set_epoch_comes_back_to_the_same_episodes():
    labels = labels_of([50] * 10)
    sampler = EpisodeSampler(labels, n_episodes=10, seed=3)
    before = sampler[4]
    sampler.set_epoch(1)
    assert not same(before, sampler[4])
    sampler.set_epoch(0)
    assert same(before, sampler[4])


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 1500])
@pytest.mark.parametrize("variable", [None, MetaDatasetSizes(min_way=2, max_way=4)])
def test_ranks_partition_the_episodes(world_size, variable):
    labels = labels_of([40] * 6)
    total = 2 * FIXED_BLOCK // 10 + 3 if variable else FIXED_BLOCK + 100
    whole = list(EpisodeSampler(labels, 2, 1, 2, total, variable=variable))
    numbers = []
    for rank in range(min(world_size, 40)):
        shard = EpisodeSampler(labels, 2, 1, 2, total, variable=variable, rank=rank, world_size=world_size)
        mine = list(shard)
        assert [episode.number for episode in mine] == list(range(rank, total, world_size))
        assert len(shard) == len(mine)
        assert all(same(episode, whole[episode.number]) for episode in mine)
        numbers += [episode.number for episode in mine]
    if world_size <= 40:
        assert sorted(numbers) == list(range(total))


@pytest.mark.parametrize(("total", "per_step", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 5, [3])])
def test_steps_lose_no_episode(total, per_step, sizes):
    sampler = EpisodeSampler(labels_of([40] * 6), 5, 1, 3, total)
    steps = list(sampler.steps(per_step))
    assert [len(step) for step in steps] == sizes
    assert np.concatenate([step.numbers for step in steps]).tolist() == list(range(total))
    assert steps[0].support.shape == (sizes[0], 5) and steps[0].query_labels.shape == (sizes[0], 15)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_loader_workers_change_nothing(workers):
    from torch.utils.data import DataLoader

    sampler = EpisodeSampler(labels_of([25] * 8), 5, 2, 3, 40, seed=9, rank=1, world_size=2)
    loader = DataLoader(sampler, sampler=sampler.numbers, batch_size=None, num_workers=workers, collate_fn=flat)
    loaded = [[np.asarray(array) for array in arrays] for arrays in loader]
    assert len(loaded) == len(sampler) == 20
    for arrays, episode in zip(loaded, sampler, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(arrays, flat(episode), strict=True))


def test_global_generators_play_no_part():
    def states() -> tuple:
        return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    labels = labels_of([25] * 8)
    before = states()
    first = EpisodeSampler(labels)[0]
    assert states() == before
    random.random()
    np.random.random()  # noqa: NPY002
    assert same(first, EpisodeSampler(labels)[0])


def test_labels_may_be_any_integers_in_any_order():
    labels = np.array([70, -3, 12, 70, 12, -3, 12, 70, -3])
    for episode in EpisodeSampler(labels, 2, 1, 2, 30):
        check_episode(episode, labels)
        assert set(episode.classes.tolist()) <= {70, -3, 12}


def test_episodes_cannot_be_changed_by_accident():
    sampler = EpisodeSampler(labels_of([25] * 8))
    with pytest.raises(ValueError, match="read-only"):
        sampler[0].support[0] = 1
    sampler.batch([0, 1]).support[0] = 1  # a batch is a copy
    assert (sampler[0].support != 1).any()


def test_draws_are_fair():
    """Section 8 of the specification: 20,000 episodes, every count within 4 standard deviations."""
    n_way, k_shot, n_query, count = 5, 2, 4, 20_000
    sizes = np.array([6, 8, 11, 12, 13, 30, 31, 40, 60, 100, 7, 9])  # both drawing methods
    labels = labels_of(sizes, shuffle=3)
    batches = list(EpisodeSampler(labels, n_way, k_shot, n_query, count, seed=17).steps(5000))
    classes = np.concatenate([batch.classes for batch in batches])
    support = np.concatenate([batch.support for batch in batches])
    query = np.concatenate([batch.query for batch in batches])

    def assert_fair(counts: np.ndarray, chance: np.ndarray | float, deviations: float = 4) -> None:
        deviation = np.sqrt(count * chance * (1 - np.asarray(chance)))
        assert (np.abs(counts - count * chance) <= deviations * deviation).all()

    assert_fair(np.bincount(classes.ravel(), minlength=12), n_way / 12)
    for position in range(n_way):
        assert_fair(np.bincount(classes[:, position], minlength=12), 1 / 12)
    pairs = [((classes == 0).any(axis=1) & (classes == other).any(axis=1)).sum() for other in range(1, 12)]
    assert_fair(np.array(pairs), n_way / 12 * (n_way - 1) / 11)
    # some thousand counts follow, and one in 16,000 passes 4 standard deviations by chance: allow 5
    chance = n_way / 12 / sizes[labels]
    for items, per_class in ((support, k_shot), (query, n_query)):
        assert_fair(np.bincount(items.ravel(), minlength=len(labels)), chance * per_class, 5)
        for place in range(per_class):  # the order within a class is random as well
            placed = items.reshape(count, n_way, per_class)[:, :, place]
            assert_fair(np.bincount(placed.ravel(), minlength=len(labels)), chance, 5)


def digest(sampler: EpisodeSampler) -> str:
    """A hash of everything that the first 40 episodes and one of a later block say."""
    state = hashlib.sha256()
    for number in (*range(40), sampler.n_episodes - 1):
        for array in flat(sampler[number]):
            state.update(array.astype("<i8").tobytes())
    return state.hexdigest()[:16]


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        ("32df2c86fdaf485e", {"seed": 1, "epoch": 2}),
        ("31198ba8cfc5c897", {"n_way": 4, "k_shot": 5, "n_query": 13}),
        ("674df6d1f3c7186b", {"k_shot": (1, 1, 2, 3, 5), "n_query": 4}),
        ("be0f5bdbd7782715", {"variable": MetaDatasetSizes()}),
    ],
)
def test_the_stream_of_episodes_is_pinned(expected, options):
    """A change here changes every published result that names a seed: it needs a very good reason."""
    labels = labels_of([20 + 7 * c for c in range(20)], shuffle=1)
    assert digest(EpisodeSampler(labels, n_episodes=2 * FIXED_BLOCK, **options)) == expected
