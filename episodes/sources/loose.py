"""Pictures without labels: the files of folders, however deep, and single files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..dataset import FileSet
from ..errors import UserError
from .folder import is_picture, read_file, visible

UNLABELLED = "unlabelled"  # the one class of such a set


def find_pictures(places: Sequence[str | Path]) -> list[Path]:
    """Return the picture files of the given folders and files, folders in depth, each file once, sorted by folder.

    Hidden files and what file managers leave behind are passed over; other files in a folder are left out with one
    warning that counts them. Raises UserError for a place that does not exist, a file that is no picture by its name,
    and a folder without a picture.
    """
    found: dict[Path, None] = {}
    others: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            files = list(files_below(place))
            pictures = [file for file in files if is_picture(file)]
            if not pictures:
                raise UserError(f"'{place}' holds no picture, nor do its sub-folders: give another folder, or files")
            others += [file for file in files if not is_picture(file)]
        elif not place.exists():
            raise UserError(f"'{place}' does not exist: give a folder of pictures, or picture files")
        elif not is_picture(place):
            raise UserError(f"'{place}' is no picture by its name: give .png or .jpg files, say, or a folder of them")
        else:
            pictures = [place]
        found |= dict.fromkeys(pictures)
    if not found:
        raise UserError("there are no pictures to look at: give a folder of pictures, or picture files")
    if others:
        warnings.warn(
            f"{len(others)} files beside the pictures are no pictures and are left out, the first is '{others[0]}'",
            stacklevel=2,
        )
    return list(found)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in sorted order; a link to a folder is not followed, so that none is a circle."""
    for path in visible(folder):
        if not path.is_dir():
            yield path
        elif not os.path.islink(path):
            yield from files_below(path)


def loose_set(paths: Sequence[str | Path]) -> FileSet:
    """Return picture files as a data set of one class; nothing is opened."""
    return FileSet([str(path) for path in paths], np.zeros(len(paths), dtype=np.int64), [UNLABELLED], read_file)
