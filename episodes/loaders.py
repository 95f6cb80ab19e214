"""From chosen items to tensors: numbered batches and numbered steps of episodes, the same for any number of workers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from episodes.dataset import ImageSet
from episodes.errors import UserError
from episodes.sampler import EpisodeSampler
from episodes.seeds import AUGMENT, ORDER, derive, torch_generator
from episodes.transforms import augment_batch, eval_transform, seeded, train_transform


class Pictures:
    """Items of a data set as normalised tensors.

    size: side in pixels. mean, std: of the backbone. augment: see `episodes.transforms.train_transform`; "none" is the
        evaluation transform.
    """

    def __init__(
        self, dataset: ImageSet, size: int, mean: Sequence[float], std: Sequence[float], augment: str = "none"
    ) -> None:
        self.dataset, self.size, self.mean, self.std, self.augment = dataset, size, mean, std, augment
        self.in_memory = hasattr(dataset, "batch")
        self._transform = (
            train_transform(size, mean, std, augment) if augment != "none" else eval_transform(size, mean, std)
        )

    def load(self, indices: np.ndarray | Sequence[int], *seed: int, places: Sequence[int] | None = None) -> Tensor:
        """Return (N, 3, size, size) float32 images; what is random in them depends on `seed` and the place alone.

        places: (N,) of the images in the whole batch, where these are a part of it; default 0, 1, ...
        """
        if self.in_memory:  # whole batch at once
            generator, images = torch_generator(AUGMENT, *seed), self.dataset.batch(indices)
            return augment_batch(images, generator, self.size, self.mean, self.std, self.augment, places)
        images, indices = [], np.asarray(indices).tolist()
        for place, index in zip(range(len(indices)) if places is None else places, indices, strict=True):
            transform = self._transform
            if self.augment != "none":
                transform = seeded(transform, (AUGMENT, *seed, place))
            images.append(transform(self.dataset[index][0]))
        return torch.stack(images)


class BatchImages(Dataset):
    """Shuffled batches of labelled images; item b of an epoch is batch b, the last one may be smaller.

    The order is a function of (seed, epoch). With several processes each takes every world_size-th image of a batch,
    augmented as in the whole batch; "weight" is its share times world_size, so that averaging gradients over processes
    gives the batch's mean.
    order: epoch -> (N,) all items, for sets that are better read in another order than a shuffled one.
    """

    def __init__(
        self,
        pictures: Pictures,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        order: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.pictures, self.batch_size, self.seed = pictures, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self._make_order = order or self._shuffled
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle anew for another epoch."""
        self.epoch = epoch
        self._order = self._make_order(epoch)

    def _shuffled(self, epoch: int) -> np.ndarray:
        generator = np.random.Generator(np.random.PCG64(derive(ORDER, self.seed, epoch)))
        return generator.permutation(len(self.pictures.dataset))

    def __len__(self) -> int:
        return -(-len(self._order) // self.batch_size)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        whole = self._order[number * self.batch_size : (number + 1) * self.batch_size]
        places = range(self.rank, len(whole), self.world_size)
        weight = len(places) * self.world_size / len(whole)
        places = places or range(1)  # fewer images than processes: take part with no weight
        mine = whole[places.start :: places.step]
        # The 0 was the process's rank: it stays a part of the seed, so that older runs can be repeated.
        return {
            "images": self.pictures.load(mine, self.seed, self.epoch, number, 0, places=places),
            "labels": torch.from_numpy(self.pictures.dataset.labels[mine]),
            "weight": torch.tensor(weight),
        }


class EpisodeImages(Dataset):
    """Steps of episodes with their images; item s of an epoch is this process's share of step s.

    episodes_per_step: episodes in one step, over all processes; the last step may hold fewer. A process stacks its own.
    Every process of the sampler's world has the same number of steps. "weight" is its share of a step's episodes times
    world_size, as in `BatchImages`; a process that has none left repeats an episode with no weight.
    An item has images (E, S+Q, 3, size, size) with the support first, support_labels (E, S) and query_labels (E, Q)
    with -1 for padding, and the episode numbers (E,). Unlabelled images, where episodes have any, come last,
    (E, S+Q+M, 3, size, size), and unlabelled_mask (E, M) is False for padding.
    """

    def __init__(self, pictures: Pictures, sampler: EpisodeSampler, episodes_per_step: int = 1) -> None:
        self.pictures, self.sampler, self.episodes_per_step = pictures, sampler, episodes_per_step

    def set_epoch(self, epoch: int) -> None:
        """Move on to the episodes of another epoch."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-self.sampler.n_episodes // self.episodes_per_step)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        first = step * self.episodes_per_step
        whole = range(first, min(first + self.episodes_per_step, self.sampler.n_episodes))
        numbers = whole[self.sampler.rank :: self.sampler.world_size]
        weight = len(numbers) * self.sampler.world_size / len(whole)
        if not len(numbers):  # fewer episodes than processes: take part with no weight
            numbers = range(1)
        batch = self.sampler.batch(numbers)
        items = np.concatenate([batch.support, batch.query, batch.unlabelled], axis=1)
        extra = {}
        if batch.unlabelled.shape[1]:
            extra["unlabelled_mask"] = torch.from_numpy(batch.unlabelled_labels != -1)
        # Seeded episode by episode: which episodes share a step must not change their pictures.
        seed = (self.sampler.seed, self.sampler.epoch)
        images = [self.pictures.load(row, *seed, int(n)) for row, n in zip(items, batch.numbers, strict=True)]
        return {
            "images": torch.stack(images),
            "support_labels": torch.from_numpy(np.array(batch.support_labels)),
            "query_labels": torch.from_numpy(np.array(batch.query_labels)),
            "numbers": torch.from_numpy(batch.numbers.copy()),
            "weight": torch.tensor(weight),
            **extra,
        }


class _Carrying(Dataset):
    """Hand a `UserError` on as an item: raised in a worker it would come back wrapped in that worker's traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> dict[str, Tensor] | UserError:
        try:
            return self.dataset[number]
        except UserError as error:
            return error


def numbered_loader(
    dataset: Dataset, workers: int = 0, start: int = 0, pin_memory: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Serve items start, start + 1, ... of a numbered data set in order; workers change the speed and nothing else.

    Raises the UserError of an item that cannot be loaded, when its turn comes.
    """
    loader = DataLoader(
        _Carrying(dataset),
        batch_size=None,
        sampler=range(start, len(dataset)),
        num_workers=workers,
        pin_memory=pin_memory,
        # A fresh interpreter per worker would import torch again every epoch.
        multiprocessing_context="fork" if workers else None,
    )
    items = iter(loader)
    # Videos are read by native code that may end a worker; their `guard` says at which one.
    with getattr(getattr(dataset, "pictures", None), "guard", contextlib.nullcontext)():
        for item in items:
            if isinstance(item, UserError):
                raise item
            yield item
