"""Access to a numbered list of episodes, drawn or read from a file: one by one, in steps, by number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from episodes.batch import EpisodeBatch, stack
from episodes.episode import Episode
from episodes.errors import UserError


class NumberedEpisodes(ABC):
    """A list of episodes that come in blocks; `EpisodeSampler` and `EpisodeFile` say how a block is made.

    n_episodes: of all ranks. block_size: episodes in a block. uneven: whether the arrays of a block are padded.
    rank, world_size: iteration, `len` and `steps` cover episodes rank, rank + world_size, ... only.
    seed, epoch: of whatever else is drawn with an episode, such as the augmentation of its pictures.
    """

    def __init__(
        self, n_episodes: int, block_size: int, uneven: bool, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if not 0 <= rank < world_size:
            raise UserError(f"rank={rank} must lie in 0..{world_size - 1} (world_size={world_size})")
        self.n_episodes, self.block_size, self.uneven = n_episodes, block_size, uneven
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.numbers = range(rank, n_episodes, world_size)

    def set_epoch(self, epoch: int) -> None:
        """Move to another epoch."""
        if epoch < 0:
            raise UserError(f"epoch={epoch} must be at least 0")
        self.epoch = epoch

    def __len__(self) -> int:
        """Episodes of this rank."""
        return len(self.numbers)

    def __getitem__(self, number: int) -> Episode:
        """Return episode `number` of the epoch, 0 <= number < n_episodes, whatever the rank."""
        if not 0 <= number < self.n_episodes:
            raise IndexError(f"episode {number} is outside 0..{self.n_episodes - 1}")
        block, row = divmod(int(number), self.block_size)
        return self._block(block).episode(row)

    def __iter__(self) -> Iterator[Episode]:
        """Yield this rank's episodes in order."""
        for part in self._runs(self.n_episodes):
            yield from part.episodes()

    def steps(self, episodes_per_step: int = 1) -> Iterator[EpisodeBatch]:
        """Yield this rank's episodes in batches; the last one is shorter where the number does not divide."""
        if episodes_per_step < 1:
            raise UserError(f"episodes_per_step={episodes_per_step} must be at least 1")
        for start in range(0, len(self.numbers), episodes_per_step):
            yield self.batch(self.numbers[start : start + episodes_per_step])

    def batch(self, numbers: Sequence[int] | np.ndarray) -> EpisodeBatch:
        """Return the episodes with these numbers, in this order, stacked; they are copies and may be written to."""
        numbers = np.asarray(numbers, dtype=np.int64)
        if numbers.ndim != 1 or not len(numbers):
            raise UserError("a batch needs a list of at least one episode number")
        if numbers.min() < 0 or numbers.max() >= self.n_episodes:
            raise IndexError(f"episode numbers {numbers.tolist()} must lie in 0..{self.n_episodes - 1}")
        blocks = numbers // self.block_size
        if blocks[0] == blocks[-1] and (blocks == blocks[0]).all():
            chosen = self._block(int(blocks[0])).rows(numbers % self.block_size)
            return stack([chosen]) if self.uneven else chosen
        order = np.argsort(blocks, kind="stable")  # visit each block once
        bounds = np.flatnonzero(np.diff(blocks[order])) + 1
        groups = np.split(numbers[order], bounds)
        parts = [self._block(int(group[0]) // self.block_size).rows(group % self.block_size) for group in groups]
        return stack(parts).rows(np.argsort(order))

    def _runs(self, stop: int) -> Iterator[EpisodeBatch]:
        """This rank's episodes below `stop`, a block at a time."""
        for start in range(0, stop, self.block_size):
            first = (self.rank - start) % self.world_size  # first row of the block that is this rank's
            last = min(stop - start, self.block_size)
            if first < last:
                yield self._block(start // self.block_size).rows(slice(first, last, self.world_size))

    @abstractmethod
    def _block(self, block: int) -> EpisodeBatch:
        """Return a block of consecutive episodes of the epoch; its arrays are read-only."""
