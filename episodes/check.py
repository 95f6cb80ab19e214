"""Find images that cannot be opened, before training meets them."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from .dataset import FileSet
from .errors import UserError


@dataclass(frozen=True)
class BrokenImage:
    """One unreadable item: its position, its name, and why it could not be read."""

    index: int
    name: str
    reason: str


def check_images(dataset: FileSet, workers: int = 4) -> list[BrokenImage]:
    """Decode every image once, in `workers` threads, and return the ones that fail, in order."""

    def attempt(index: int) -> BrokenImage | None:
        try:
            dataset[index]
        except UserError as error:
            return BrokenImage(index, str(dataset.names[index]), str(error.__cause__))
        return None

    if workers < 2:
        return [found for i in range(len(dataset)) if (found := attempt(i))]
    with ThreadPoolExecutor(workers) as pool:
        return [found for found in pool.map(attempt, range(len(dataset))) if found]


def drop_broken(dataset: FileSet, workers: int = 4, shown: int = 10) -> FileSet:
    """The set without unreadable images. Says in one warning how many were left out and which.

    A class that would lose all of its images is a UserError: leaving it out would renumber the classes in silence.
    """
    broken = check_images(dataset, workers)
    if not broken:
        return dataset
    keep = np.setdiff1d(np.arange(len(dataset)), [item.index for item in broken])
    sizes = np.bincount(dataset.labels[keep], minlength=len(dataset.class_names))
    if sizes.min() == 0:
        name = dataset.class_names[int(sizes.argmin())]
        raise UserError(
            f"every image of class '{name}' is broken, such as '{broken[0].name}': replace them or remove the class"
        )
    names = ", ".join(item.name for item in broken[:shown]) + (", ..." if len(broken) > shown else "")
    warnings.warn(f"{len(broken)} of {len(dataset)} images cannot be read and are left out: {names}", stacklevel=3)
    return dataset.take(keep, dataset.labels[keep], dataset.class_names)
