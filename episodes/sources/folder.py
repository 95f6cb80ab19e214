"""Folders of class folders, with or without train/val/test above them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from ..dataset import FileSet
from ..errors import UserError
from ..rgb import to_rgb

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
SPLIT_NAMES = ("train", "val", "test")
LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})  # what file managers leave behind, in lower case


def read_file(path: str) -> Image.Image:
    """Open an image file and decode it fully, so that a truncated file fails here. Returns RGB, see `to_rgb`."""
    with Image.open(path) as image:
        return to_rgb(image)


def visible(folder: Path) -> list[Path]:
    """Entries of a folder sorted by name, without hidden ones, zip leftovers (__MACOSX) and file managers' notes."""
    shown = (p for p in folder.iterdir() if not p.name.startswith((".", "__")) and p.name.lower() not in LITTER)
    return sorted(shown, key=lambda p: p.name)


def is_picture(path: Path) -> bool:
    """Whether the name is that of a picture file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def split_folders(root: Path) -> list[str]:
    """Which of train, val and test are folders of `root` that hold folders themselves."""
    return [name for name in SPLIT_NAMES if (root / name).is_dir() and any(p.is_dir() for p in visible(root / name))]


def folder_set(root: Path, splits: list[str] | None = None) -> FileSet:
    """Images of the class folders in `root`, or in each of its folders named in `splits`, one after the other.

    Classes are numbered by sorted name; with several splits across them in the given order (a class that is in two of
    them is one class). Files that are not images are left out with one warning that counts them, and so are
    sub-folders of class folders, with another one if they hold pictures; a class folder without an image of its own, or
    no class folder at all, is a UserError.
    """
    if not root.is_dir():
        raise UserError(f"folder '{root}' does not exist: give the folder that holds one folder per class")
    bases = [root / name for name in splits] if splits else [root]
    paths: list[str] = []
    labels: list[int] = []
    number: dict[str, int] = {}
    ignored: list[Path] = []
    nested: list[Path] = []
    for base in bases:
        if not base.is_dir():
            raise UserError(f"'{root}' has no folder '{base.name}': a split is a folder, {', '.join(SPLIT_NAMES)}")
        folders = [p for p in visible(base) if p.is_dir()]
        ignored += [p for p in visible(base) if not p.is_dir()]
        if not folders:
            raise UserError(f"'{base}' holds no class folders: put the images of each class in a folder of its own")
        for folder in folders:
            files = visible(folder)
            images = [p for p in files if is_picture(p)]
            inner = [p for p in files if p.is_dir() and any(is_picture(q) for q in p.rglob("*"))]
            if not images:
                where = f" of its own, only in sub-folders such as '{inner[0].name}': move them up" if inner else ""
                raise UserError(f"class folder '{folder}' has no image{where or ': add images'}, or remove the folder")
            ignored += [p for p in files if p not in {*images, *inner}]
            nested += inner
            label = number.setdefault(folder.name, len(number))
            paths += [str(p) for p in images]
            labels += [label] * len(images)
    if ignored:
        warnings.warn(
            f"{len(ignored)} entries of '{root}' are not images and are left out, the first is '{ignored[0]}'",
            stacklevel=3,
        )
    if nested:
        warnings.warn(
            f"{len(nested)} sub-folders of class folders in '{root}' hold pictures and are ignored, the first is "
            f"'{nested[0]}': move the pictures up into the class folder, or make a class folder of each",
            stacklevel=3,
        )
    return FileSet(paths, np.array(labels), list(number), read_file)
