"""Folders of class folders, with or without train/val/test above them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from ..dataset import FileSet
from ..errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
SPLIT_NAMES = ("train", "val", "test")


def read_file(path: str) -> Image.Image:
    """Open an image file and decode it fully, so that a truncated file fails here. Returns RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def visible(folder: Path) -> list[Path]:
    """Entries of a folder sorted by name, hidden ones (and zip leftovers such as __MACOSX) left out."""
    return sorted((p for p in folder.iterdir() if not p.name.startswith((".", "__"))), key=lambda p: p.name)


def split_folders(root: Path) -> list[str]:
    """Which of train, val and test are folders of `root` that hold folders themselves."""
    return [name for name in SPLIT_NAMES if (root / name).is_dir() and any(p.is_dir() for p in visible(root / name))]


def folder_set(root: Path, splits: list[str] | None = None) -> FileSet:
    """Images of the class folders in `root`, or in each of its folders named in `splits`, one after the other.

    Classes are numbered by sorted name; with several splits across them in the given order (a class that is in two of
    them is one class). Files that are not images are left out with one warning that counts them; a class folder
    without an image, or no class folder at all, is a UserError.
    """
    if not root.is_dir():
        raise UserError(f"folder '{root}' does not exist: give the folder that holds one folder per class")
    bases = [root / name for name in splits] if splits else [root]
    paths: list[str] = []
    labels: list[int] = []
    number: dict[str, int] = {}
    ignored: list[Path] = []
    for base in bases:
        if not base.is_dir():
            raise UserError(f"'{root}' has no folder '{base.name}': a split is a folder, {', '.join(SPLIT_NAMES)}")
        folders = [p for p in visible(base) if p.is_dir()]
        ignored += [p for p in visible(base) if not p.is_dir()]
        if not folders:
            raise UserError(f"'{base}' holds no class folders: put the images of each class in a folder of its own")
        for folder in folders:
            files = visible(folder)
            images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()]
            ignored += [p for p in files if p not in set(images)]
            if not images:
                raise UserError(f"class folder '{folder}' has no image: add images or remove the folder")
            label = number.setdefault(folder.name, len(number))
            paths += [str(p) for p in images]
            labels += [label] * len(images)
    if ignored:
        warnings.warn(
            f"{len(ignored)} entries of '{root}' are not images and are left out, the first is '{ignored[0]}'",
            stacklevel=3,
        )
    return FileSet(paths, np.array(labels), list(number), read_file)
