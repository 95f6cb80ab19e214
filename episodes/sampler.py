"""Choose the items of few-shot episodes. Only labels are read; no file is opened.

Episode `number` is a function of (labels, sizes, seed, epoch, number) alone: whatever the loader workers, the ranks,
the number of episodes a step or the point a run resumes from, the same number gives the same episode.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from episodes.batch import EpisodeBatch
from episodes.distinct import draw_distinct
from episodes.errors import UserError
from episodes.extras import ClassTable, Extras, check_extras, draw_extras
from episodes.numbered import NumberedEpisodes
from episodes.sizes import FixedSizes, ImbalancedSizes, MetaDatasetSizes

FIXED_BLOCK = FixedSizes.block


class EpisodeSampler(NumberedEpisodes):
    """A numbered, reproducible list of episodes over the items of a data set.

    Each episode draws distinct classes uniformly, and from each of them distinct items uniformly: the first `k_shot`
    are support, the next `n_query` are query. Episodes are independent of each other.

    labels: (N,) integer class id of every item, in data set order.
    k_shot: support items per class; a sequence of `n_way` numbers gives the class in each position its own (the classes
        themselves are in random order, so no class is favoured).
    n_episodes: episodes of one epoch, over all ranks.
    variable: draw way, shots and queries anew for every episode by this rule; n_way, k_shot and n_query are not used.
    extras: unknown queries, unlabelled items and distractors of every episode. They change nothing in its support and
        queries, except that `drop_small` leaves out more classes where the extras need more items.
    classes: draw only from these class ids.
    drop_small: leave out classes with too few items instead of refusing them.
    class_names: names of class ids 0, 1, ..., for the messages.
    rank, world_size: iteration, `len` and `steps` cover episodes rank, rank + world_size, ... only.

    `sampler[number]` gives any episode of the epoch, of any rank, as an `Episode` of read-only arrays.
    For a torch `DataLoader` use `DataLoader(sampler, sampler=sampler.numbers, ...)`. Workers hold copies: with
    `persistent_workers=True` they do not see a later `set_epoch`.

    Raises `UserError` when there are too few classes, or when a class has too few items for what may be drawn from it.
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
        variable: MetaDatasetSizes | ImbalancedSizes | None = None,
        extras: Extras | None = None,
        classes: Sequence[int] | None = None,
        drop_small: bool = False,
        class_names: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if n_episodes < 1 or seed < 0:
            raise UserError(f"n_episodes={n_episodes} must be at least 1 and seed={seed} at least 0")
        self.sizes, self.extras = variable or fixed_sizes(n_way, k_shot, n_query), extras or Extras()
        uneven = self.sizes.uneven or (self.extras.unlabelled > 0 and self.sizes.greedy)
        super().__init__(n_episodes, self.sizes.block, uneven, seed, rank, world_size)
        self._order, found, counts = group_by_class(labels)
        starts = np.cumsum(counts) - counts
        eligible = eligible_classes(found, counts, self.sizes, classes, drop_small, class_names, self.extras)
        self._class_ids, self._class_sizes, self._class_starts = found[eligible], counts[eligible], starts[eligible]
        self._cached: tuple[int, int, EpisodeBatch] | None = None
        self.set_epoch(epoch)

    def _block(self, block: int) -> EpisodeBatch:
        """Draw a block of consecutive episodes; the last one drawn is kept."""
        if self._cached is None or self._cached[:2] != (self.epoch, block):
            self._cached = (self.epoch, block, self._draw_block(block))
        return self._cached[2]

    def _draw_block(self, block: int) -> EpisodeBatch:
        # A seed sequence mixes the three numbers; adding them would give (seed 0, epoch 1) the episodes of (1, 0).
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, self.epoch, block])))
        count, n_classes = self.block_size, len(self._class_ids)
        ways = self.sizes.ways(generator, count, n_classes)
        drawn = draw_distinct(generator, np.full(count, n_classes), ways)  # (E, N) rows of the class tables
        present = np.arange(drawn.shape[1]) < ways[:, None]
        drawn[~present] = 0
        shots, queries = self.sizes.counts(generator, self._class_sizes[drawn], present)
        picked = drawn[present]  # (M,) one row for each class of each episode
        used = (shots + queries)[present]
        places = draw_distinct(generator, self._class_sizes[picked], used)
        extras = self._draw_extras(block, drawn, present, places, used) if self.extras else {}
        places += self._class_starts[picked][:, None]
        items = self._order.take(places, mode="clip")  # surplus columns may point anywhere: nobody looks at them
        batch = lay_out(block * count, self._class_ids[drawn], present, items, shots, queries, **extras)
        for array in vars(batch).values():
            array.setflags(write=False)  # episodes handed out are views: nobody may change the cached block
        return batch

    def _draw_extras(
        self, block: int, drawn: np.ndarray, present: np.ndarray, places: np.ndarray, used: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Draw the extras of a block from streams of their own, see `draw_extras`."""
        root = np.random.SeedSequence([self.seed, self.epoch, block])  # its children are no sampler's own stream
        streams = [np.random.Generator(np.random.PCG64(child)) for child in root.spawn(3)]
        classes = ClassTable(self._order, self._class_sizes, self._class_starts)
        return draw_extras(streams, self.extras, classes, drawn, present, places, used)


def lay_out(
    first: int,
    classes: np.ndarray,
    present: np.ndarray,
    items: np.ndarray,
    shots: np.ndarray,
    queries: np.ndarray,
    **extras: np.ndarray,
) -> EpisodeBatch:
    """Split drawn items into support and query, class-major.

    classes, present, shots, queries: (E, N) the episodes' classes, which are there, and how many items each gives.
    items: (M, W) drawn items of each present class, the first `shots` of which are support and the next query.
    extras: further arrays of the batch.
    """
    support, support_labels = pack(items, np.zeros_like(shots), shots, present)
    query, query_labels = pack(items, shots, queries, present)
    numbers = np.arange(first, first + len(classes))
    return EpisodeBatch(numbers, np.where(present, classes, -1), support, support_labels, query, query_labels, **extras)


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
    sizes: FixedSizes | MetaDatasetSizes | ImbalancedSizes,
    classes: Sequence[int] | None = None,
    drop_small: bool = False,
    class_names: Sequence[str] | None = None,
    extras: Extras | None = None,
) -> np.ndarray:
    """Return (K,) which classes may be drawn, or raise a `UserError` that names every class that is too small."""
    asked = np.ones(len(found), dtype=bool)
    if classes is not None:
        unknown = sorted(set(map(int, classes)) - set(found.tolist()))
        if unknown:
            raise UserError(f"classes {unknown} hold no items; the labels run over {found.min()}..{found.max()}")
        asked = np.isin(found, np.asarray(classes))
    extras, what = extras or Extras(), f"{sizes} and {extras}" if extras else f"{sizes}"
    # any class may play any part; what a variable episode leaves of a class cannot be promised
    promised = 0 if isinstance(sizes, MetaDatasetSizes) else extras.unlabelled
    need = max(sizes.items_per_class + promised, extras.unknown_queries, extras.distractors)
    small = asked & (counts < need)
    listed = ", ".join(
        f"{class_name(int(c), class_names)} has {n}" for c, n in zip(found[small], counts[small], strict=True)
    )
    if small.any() and not drop_small:
        raise UserError(
            f"{what} need {need} items in every class, but {listed}: "
            "ask for fewer of them, or leave these classes out (drop_small=True; --drop_small in a script)"
        )
    eligible = asked & ~small
    dropped = f" after dropping the classes with fewer than {need} items ({listed})" if small.any() else ""
    available = int(eligible.sum())
    if available < sizes.n_way:
        mend = "give more classes" if isinstance(sizes, MetaDatasetSizes) else "lower n_way"
        raise UserError(f"{what} need {sizes.n_way} classes, but there are {available}{dropped}: {mend}")
    check_extras(extras, sizes.most_ways(available), available, isinstance(sizes, MetaDatasetSizes), what, dropped)
    return eligible


def class_name(class_id: int, names: Sequence[str] | None) -> str:
    """Show a class in a message: its quoted name, or its number where no name is known."""
    return f"'{names[class_id]}'" if names is not None and 0 <= class_id < len(names) else f"class {class_id}"
