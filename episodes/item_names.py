"""What the items of a data set are called in files that other copies of the data set must understand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

from episodes.dataset import ImageSet


def item_names(dataset: ImageSet) -> list[str] | None:
    """Return the name of every item that another copy of the data set gives it, too; None where only places are known.

    Items of an archive are called by their path in it, files by their path below the folder that holds all of them.
    Pictures in memory, items that a library numbers, and sets with one file twice have no names.
    """
    names = getattr(dataset, "names", None)
    if not names or not all(isinstance(name, str | os.PathLike) for name in names):
        return None
    if not hasattr(dataset.read, "path"):  # no archive
        paths = [os.path.abspath(name) for name in names]
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        names = [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
    return [str(name) for name in names] if len(set(names)) == len(names) else None


def fingerprint(pairs: Iterable[tuple[str | int, str]]) -> str:
    """Return the SHA-256 of items and the names of their classes, in this order."""
    digest = hashlib.sha256()
    for item, class_name in pairs:
        digest.update(f"{item}\t{class_name}\n".encode())
    return digest.hexdigest()


def item_table(dataset: ImageSet) -> tuple[list[str] | None, str]:
    """Return `item_names` and the fingerprint of the labels of a set without them ("" for one with names)."""
    names = item_names(dataset)
    if names is not None:
        return names, ""
    return None, fingerprint((i, dataset.class_names[label]) for i, label in enumerate(dataset.labels.tolist()))
