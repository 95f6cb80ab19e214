"""In which order shards are read: every process its own, one after the other, so that disks and networks can follow."""

from __future__ import annotations

import numpy as np

from episodes.seeds import ORDER, derive


class ShardOrder:
    """Order of the items of an epoch, by (seed, epoch) alone.

    The shards of an epoch are shuffled and dealt out as `streams` runs of the same length, so that a run touches its
    own shards and at most one that it shares with each neighbour. Within a run, `window` items at a time are shuffled.
    Item i of the order is of stream i % streams: with a batch size that streams divide, process r of R takes the
    streams r, r + R, ... of every batch and opens their shards alone, and the batches are the same for every R that
    divides streams.

    shards: (N,) number of the shard of every item; items of a shard stand together in the order of the file.
    """

    def __init__(self, shards: np.ndarray, streams: int = 1, window: int = 10000, seed: int = 0) -> None:
        self.streams, self.window, self.seed = streams, window, seed
        self._items = np.split(np.arange(len(shards)), np.flatnonzero(np.diff(shards)) + 1)

    def __call__(self, epoch: int) -> np.ndarray:
        """Return all items (N,) in the order of an epoch."""
        generator = np.random.Generator(np.random.PCG64(derive(ORDER, self.seed, epoch)))
        items = np.concatenate([self._items[place] for place in generator.permutation(len(self._items))])
        runs = np.array_split(items, self.streams)  # the first ones are longer by one
        for run in runs:
            for start in range(0, len(run), self.window):
                generator.shuffle(run[start : start + self.window])
        order = np.empty_like(items)
        for stream, run in enumerate(runs):
            order[stream :: self.streams] = run
        return order
