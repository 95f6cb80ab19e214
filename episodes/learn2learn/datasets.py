"""Our data sets as learn2learn's meta data sets and tasks, and its meta data sets as ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from episodes.dataset import ImageSet
from episodes.errors import UserError
from episodes.learn2learn.library import import_learn2learn
from episodes.loaders import Pictures
from episodes.sampler import EpisodeSampler


class LabelledItems(Dataset):
    """A data set as learn2learn wants it: item i is (image, label), by `Pictures` a normalised (3, S, S) tensor."""

    def __init__(self, source: Pictures | ImageSet, transform: Callable[[Any], Any] | None = None) -> None:
        self.source, self.transform = source, transform
        self.labels = np.asarray(source.dataset.labels if isinstance(source, Pictures) else source.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.source.load([index])[0] if isinstance(self.source, Pictures) else self.source[index][0]
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])


def to_meta_dataset(source: Pictures | ImageSet, transform: Callable[[Any], Any] | None = None):
    """Give a data set as a `learn2learn.data.MetaDataset`, for all of its task transforms; no image is opened.

    source: pictures, whose items are normalised tensors, or a data set as `open_dataset` gives it.
    transform: of an item's image, for instance one of torchvision.
    """
    l2l = import_learn2learn()
    items = LabelledItems(source, transform)
    groups = {label: np.flatnonzero(items.labels == label).tolist() for label in np.unique(items.labels).tolist()}
    return l2l.data.MetaDataset(items, labels_to_indices=groups)


def to_task_dataset(
    pictures: Pictures, n_way: int = 5, k_shot: int = 1, n_query: int = 15, num_tasks: int = 600, seed: int = 0
):
    """Give a data set as a `learn2learn.data.TaskDataset` whose task i is our episode i, on every machine.

    A task is (images (n, 3, S, S), labels (n,)), the support first: with equal shots and queries,
    `learn2learn.data.partition_task(images, labels, shots=k_shot)` gives the episode's support and query back.
    For tasks that learn2learn draws itself, use its transforms on `to_meta_dataset`.
    Raises UserError when classes are too few or too small.
    """
    if not isinstance(pictures, Pictures):
        raise UserError(
            f"to_task_dataset takes Pictures, which know the size and the normalisation of a task's images, not a "
            f"{type(pictures).__name__}: wrap the data set, Pictures(dataset, size, mean, std)"
        )
    names = pictures.dataset.class_names
    sampler = EpisodeSampler(pictures.dataset.labels, n_way, k_shot, n_query, num_tasks, seed=seed, class_names=names)
    meta = to_meta_dataset(pictures)  # refuses an environment without learn2learn
    from episodes.learn2learn.taskset import EpisodeTasks

    return EpisodeTasks(meta, pictures, sampler)


class MetaSet:
    """A `learn2learn.data.MetaDataset` as our data set: labels are known without opening an image.

    largest: pixel value of white in the tensors that it holds, 1 or 255; PIL images are passed on.
    """

    def __init__(self, meta: Any, largest: float = 1.0) -> None:
        self.meta, self.largest = meta, largest
        known = [meta.indices_to_labels[index] for index in range(len(meta))]
        found, self.labels = np.unique(np.asarray(known), return_inverse=True)
        self.labels = self.labels.astype(np.int64)
        self.class_names = [str(name) for name in found.tolist()]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.meta[int(index)][0]
        if isinstance(image, Tensor):
            image = _eight_bits(as_rgb(image[None])[0], self.largest)
        return image, int(self.labels[index])


def _eight_bits(image: Tensor, largest: float) -> Tensor:
    low, high = float(image.min()), float(image.max())
    if low < -0.01 * largest or high > 1.01 * largest:  # interpolation may overshoot by a little
        raise UserError(
            f"an image of the meta data set has values from {low:g} to {high:g}, not from 0 to largest={largest:g}: "
            "pass the value of white (largest=255?), and images that are not normalised"
        )
    return (image * (255 / largest)).round().clamp(0, 255).to(torch.uint8)


def from_meta_dataset(meta: Any, largest: float = 1.0) -> MetaSet:
    """Give a learn2learn MetaDataset (a TaskDataset's `dataset`, too) as our data set; see `MetaSet`.

    Raises UserError for anything else.
    """
    if not (hasattr(meta, "indices_to_labels") and hasattr(meta, "__getitem__")):
        raise UserError(
            f"from_meta_dataset takes a learn2learn.data.MetaDataset, not a {type(meta).__name__}: of a task set give "
            "its `dataset`, and wrap a plain data set as learn2learn.data.MetaDataset(dataset)"
        )
    return MetaSet(meta, largest)


def as_rgb(images: Tensor) -> Tensor:
    """Return images (n, 1 or 3, H, W) as float (n, 3, H, W)."""
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"the images of a task must be (n, 1 or 3, H, W), not {tuple(images.shape)}: give the meta data set a "
            "transform, or `prepare`, that makes them so"
        )
    return images.float().expand(-1, 3, -1, -1)
