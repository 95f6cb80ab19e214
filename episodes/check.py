"""Find images that cannot be opened, before training meets them."""

from __future__ import annotations

import os
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


def looks_whole(path: str) -> bool:
    """Whether a JPEG or PNG file starts and ends as one should; False for every other file."""
    with open(path, "rb") as file:
        head = file.read(8)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 64))
        tail = file.read().rstrip(b"\0")  # some writers pad
    if head.startswith(b"\xff\xd8"):
        return tail.endswith(b"\xff\xd9")
    return head == b"\x89PNG\r\n\x1a\n" and tail.endswith(b"IEND\xaeB`\x82")


def refuse_broken(dataset: FileSet, workers: int = 8, shown: int = 10, block: int = 4096) -> None:
    """Raise a UserError that counts and names the files that cannot be read, without decoding all the others.

    Only the first and last bytes of a file are read; a file that looks odd is decoded, so nothing sound is refused.
    """

    def odd(start: int) -> list[int]:
        return [i for i in range(start, min(start + block, len(dataset))) if not _sound(dataset.names[i])]

    with ThreadPoolExecutor(workers) as pool:
        suspects = [i for part in pool.map(odd, range(0, len(dataset), block)) for i in part]
    chosen = dataset.take(np.array(suspects, dtype=np.int64), *_one_class(len(suspects))) if suspects else None
    broken = check_images(chosen, workers) if chosen is not None else []
    if broken:
        names = ", ".join(f"'{item.name}'" for item in broken[:shown]) + (", ..." if len(broken) > shown else "")
        raise UserError(
            f"{len(broken)} of {len(dataset)} images cannot be read ({names}): replace or delete them, "
            "or leave them out with --skip-broken"
        )


def _sound(path: str) -> bool:
    try:
        return looks_whole(path)
    except OSError:
        return False


def _one_class(count: int) -> tuple[np.ndarray, list[str]]:
    return np.zeros(count, dtype=np.int64), ["suspect"]


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
