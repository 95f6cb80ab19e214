"""Choose the items of few-shot episodes. Only labels are read; no file is opened.

Episode `number` is a function of (labels, sizes, seed, epoch, number) alone: whatever the loader workers, the ranks,
the number of episodes a step or the point a run resumes from, the same number gives the same episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from episodes.batch import EpisodeBatch, stack
from episodes.distinct import draw_distinct
from episodes.episode import Episode
from episodes.errors import UserError
from episodes.sizes import FixedSizes, MetaDatasetSizes, draw_shots, draw_ways

# Episodes drawn in one vectorised step. Part of what defines the episodes: changing either number changes them all.
FIXED_BLOCK = 1024
VARIABLE_BLOCK = 32  # variable episodes are some 50 times larger


class EpisodeSampler:
    """A numbered, reproducible list of episodes over the items of a data set.

    Each episode draws distinct classes uniformly, and from each of them distinct items uniformly: the first `k_shot`
    are support, the next `n_query` are query. Episodes are independent of each other.

    labels: (N,) integer class id of every item, in data set order.
    k_shot: support items per class; a sequence of `n_way` numbers gives the class in each position its own (the classes
        themselves are in random order, so no class is favoured).
    n_episodes: episodes of one epoch, over all ranks.
    variable: draw way, shots and queries anew for every episode by this rule; n_way, k_shot and n_query are not used.
    classes: draw only from these class ids.
    drop_small: leave out classes with too few items instead of refusing them.
    class_names: names of class ids 0, 1, ..., for the messages.
    rank, world_size: iteration, `len` and `steps` cover episodes rank, rank + world_size, ... only.

    `sampler[number]` gives any episode of the epoch, of any rank, as an `Episode` of read-only arrays.
    For a torch `DataLoader` use `DataLoader(sampler, sampler=sampler.numbers, ...)`. Workers hold copies: with
    `persistent_workers=True` they do not see a later `set_epoch`.

    Raises `UserError` when fewer than n_way classes are there, or when a class has fewer than k_shot + n_query items.
    """

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray,
        n_way: int = 5,
        k_shot: int | Sequence[int] = 1,
        n_query: int = 15,
        n_episodes: int = 600,
        seed: int = 0,
        epoch: int = 0,
        *,
        variable: MetaDatasetSizes | None = None,
        classes: Sequence[int] | None = None,
        drop_small: bool = False,
        class_names: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if n_episodes < 1 or seed < 0:
            raise UserError(f"n_episodes={n_episodes} must be at least 1 and seed={seed} at least 0")
        if not 0 <= rank < world_size:
            raise UserError(f"rank={rank} must lie in 0..{world_size - 1} (world_size={world_size})")
        self.sizes = variable or fixed_sizes(n_way, k_shot, n_query)
        self.n_episodes, self.seed, self.rank, self.world_size = n_episodes, seed, rank, world_size
        self.numbers = range(rank, n_episodes, world_size)
        self._order, found, counts = group_by_class(labels)
        starts = np.cumsum(counts) - counts
        eligible = eligible_classes(found, counts, self.sizes, classes, drop_small, class_names)
        self._class_ids, self._class_sizes, self._class_starts = found[eligible], counts[eligible], starts[eligible]
        self.block_size = VARIABLE_BLOCK if variable else FIXED_BLOCK
        self._cached: tuple[int, int, EpisodeBatch] | None = None
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Move to another epoch: the same numbers then stand for other episodes."""
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
            return stack([chosen]) if isinstance(self.sizes, MetaDatasetSizes) else chosen
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

    def _block(self, block: int) -> EpisodeBatch:
        """Draw a block of consecutive episodes; the last one drawn is kept."""
        if self._cached is None or self._cached[:2] != (self.epoch, block):
            self._cached = (self.epoch, block, self._draw_block(block))
        return self._cached[2]

    def _draw_block(self, block: int) -> EpisodeBatch:
        # A seed sequence mixes the three numbers; adding them would give (seed 0, epoch 1) the episodes of (1, 0).
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self.epoch, block])))
        count, n_classes = self.block_size, len(self._class_ids)
        if isinstance(self.sizes, MetaDatasetSizes):
            ways = draw_ways(generator, self.sizes, count, n_classes)
        else:
            ways = np.full(count, self.sizes.n_way)
        drawn = draw_distinct(generator, np.full(count, n_classes), ways)  # (E, N) rows of the class tables
        present = np.arange(drawn.shape[1]) < ways[:, None]
        drawn[~present] = 0
        if isinstance(self.sizes, MetaDatasetSizes):
            shots, queries = draw_shots(generator, self.sizes, self._class_sizes[drawn], present)
            queries = np.where(present, queries[:, None], 0)
        else:
            shots = np.broadcast_to(np.array(self.sizes.shots), drawn.shape)
            queries = np.full(drawn.shape, self.sizes.n_query)
        picked = drawn[present]  # (M,) one row for each class of each episode
        positions = draw_distinct(generator, self._class_sizes[picked], (shots + queries)[present])
        positions += self._class_starts[picked][:, None]
        items = self._order.take(positions, mode="clip")  # surplus columns may point anywhere: nobody looks at them
        batch = lay_out(block * count, self._class_ids[drawn], present, items, shots, queries)
        for array in vars(batch).values():
            array.setflags(write=False)  # episodes handed out are views: nobody may change the cached block
        return batch


def lay_out(
    first: int, classes: np.ndarray, present: np.ndarray, items: np.ndarray, shots: np.ndarray, queries: np.ndarray
) -> EpisodeBatch:
    """Split drawn items into support and query, class-major.

    classes, present, shots, queries: (E, N) the episodes' classes, which are there, and how many items each gives.
    items: (M, W) drawn items of each present class, the first `shots` of which are support and the next query.
    """
    support, support_labels = pack(items, np.zeros_like(shots), shots, present)
    query, query_labels = pack(items, shots, queries, present)
    numbers = np.arange(first, first + len(classes))
    return EpisodeBatch(numbers, np.where(present, classes, -1), support, support_labels, query, query_labels)


def pack(items: np.ndarray, skip: np.ndarray, take: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gather `take` items after the first `skip` of every class, side by side in each episode.

    items: (M, W); skip, take, present: (E, N). Returns items and episode labels, (E, S), padded with 0 and -1.
    """
    episodes, n_way = present.shape
    if present.all() and (take == take[0, 0]).all() and (skip == skip[0, 0]).all():  # a rectangle: nothing to pack
        start, width = int(skip[0, 0]), int(take[0, 0])
        labels = np.broadcast_to(np.repeat(np.arange(n_way), width), (episodes, n_way * width))
        return np.ascontiguousarray(items[:, start : start + width]).reshape(episodes, -1), labels
    columns = np.arange(items.shape[1])
    skip, take = np.where(present, skip, 0), np.where(present, take, 0)
    wanted = (columns >= skip[present][:, None]) & (columns < (skip + take)[present][:, None])
    counts = take.sum(axis=1)
    filled = np.arange(counts.max()) < counts[:, None]
    packed, labels = np.zeros(filled.shape, dtype=np.int64), np.full(filled.shape, -1, dtype=np.int64)
    packed[filled] = items[wanted]
    labels[filled] = np.repeat(np.tile(np.arange(n_way), episodes), take.ravel())
    return packed, labels


def fixed_sizes(n_way: int, k_shot: int | Sequence[int], n_query: int) -> FixedSizes:
    """Check way, shots and queries and return them as one record."""
    shots = (k_shot,) * n_way if isinstance(k_shot, int | np.integer) else tuple(k_shot)
    if n_way < 1 or n_query < 1 or len(shots) != n_way or min(shots) < 1:
        raise UserError(
            f"n_way={n_way}, k_shot={k_shot}, n_query={n_query}: each must be at least 1, "
            f"and a list of shots needs one number for each of the {n_way} classes"
        )
    return FixedSizes(tuple(int(shot) for shot in shots), n_query)


def group_by_class(labels: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return item positions sorted by class (N,), the class ids in order (K,), and the items of each (K,)."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels must be a list of integers, one per item, not {labels.dtype} of shape {labels.shape}")
    found, counts = np.unique(labels, return_counts=True)
    return np.argsort(labels, kind="stable"), found.astype(np.int64), counts


def eligible_classes(
    found: np.ndarray,
    counts: np.ndarray,
    sizes: FixedSizes | MetaDatasetSizes,
    classes: Sequence[int] | None = None,
    drop_small: bool = False,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Return (K,) which classes may be drawn, or raise a `UserError` that names every class that is too small."""
    asked = np.ones(len(found), dtype=bool)
    if classes is not None:
        unknown = sorted(set(map(int, classes)) - set(found.tolist()))
        if unknown:
            raise UserError(f"classes {unknown} hold no items; the labels run over {found.min()}..{found.max()}")
        asked = np.isin(found, np.asarray(classes))
    need = sizes.items_per_class
    small = asked & (counts < need)
    listed = ", ".join(
        f"{class_name(int(c), class_names)} has {n}" for c, n in zip(found[small], counts[small], strict=True)
    )
    if small.any() and not drop_small:
        raise UserError(
            f"{sizes} need {need} items in every class, but {listed}: "
            f"ask for fewer shots or queries, or pass drop_small=True to leave these classes out"
        )
    eligible = asked & ~small
    if eligible.sum() < sizes.n_way:
        dropped = f" after dropping the classes with fewer than {need} items ({listed})" if small.any() else ""
        raise UserError(f"{sizes} need {sizes.n_way} classes, but there are {eligible.sum()}{dropped}: lower n_way")
    return eligible


def class_name(class_id: int, names: Sequence[str] | None) -> str:
    """Show a class in a message: its quoted name, or its number where no name is known."""
    return f"'{names[class_id]}'" if names is not None and 0 <= class_id < len(names) else f"class {class_id}"
