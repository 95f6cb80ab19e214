"""The order of shards: all items once, processes apart, alike for any number of processes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from classify.shard_order import ShardOrder
from episodes.dataset import ArraySet
from episodes.loaders import BatchImages, Pictures

sizes = st.lists(st.integers(1, 30), min_size=1, max_size=12)


def shards_of(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@given(sizes, st.integers(1, 5), st.integers(1, 40), st.integers(0, 3))
def test_every_item_comes_once_an_epoch(counts, streams, window, epoch):
    order = ShardOrder(shards_of(counts), streams, window, 1)(epoch)
    assert sorted(order.tolist()) == list(range(sum(counts)))
    assert np.array_equal(order, ShardOrder(shards_of(counts), streams, window, 1)(epoch))


@given(sizes, st.integers(1, 5))
def test_streams_have_shards_of_their_own(counts, streams):
    """Two streams that are neighbours share one shard at most, others none, so all together open few more than there
    are."""
    shards = shards_of(counts)
    order = ShardOrder(shards, streams, 10, 1)(0)
    opened = [set(shards[order[stream::streams]]) for stream in range(streams)]
    assert sum(map(len, opened)) <= len(counts) + streams - 1


def test_epochs_and_seeds_differ_and_shards_stay_together():
    shards = shards_of([20] * 10)
    orders = [ShardOrder(shards, 1, 40, seed)(epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4
    for order in orders:
        for start in range(0, 200, 40):  # a window of two shards
            assert len(set(shards[order[start : start + 40]])) == 2
        assert not np.array_equal(np.sort(order[:40]), order[:40])


def test_a_process_opens_its_own_shards_and_together_they_have_every_batch():
    """Eight shards in two streams: one process has all of a batch, each of two has half of it, from half of the shards.

    Pictures are as bright as their number.
    """
    shards = shards_of([8] * 8)
    dataset = ArraySet(torch.arange(64, dtype=torch.uint8).view(64, 1, 1).expand(-1, 4, 4), np.zeros(64), ["a"])
    pictures = Pictures(dataset, 4, (0.0,) * 3, (1 / 255,) * 3)

    def read(rank: int, size: int) -> list[list[int]]:
        batches = BatchImages(pictures, 8, 1, 0, rank, size, ShardOrder(shards, 2, 16, 1))
        return [batches[number]["images"][:, 0, 0, 0].round().int().tolist() for number in range(len(batches))]

    whole, first, second = read(0, 1), read(0, 2), read(1, 2)
    for one, left, right in zip(whole, first, second, strict=True):
        assert one[0::2] == left and one[1::2] == right
    opened = [{int(shards[item]) for batch in part for item in batch} for part in (first, second)]
    assert len(opened[0]) == len(opened[1]) == 4 and not opened[0] & opened[1]
