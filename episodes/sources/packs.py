"""Packs: a whole data set in one .npz (arrays) or .zip (files in class folders) file."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..dataset import ArraySet, FileSet, select_classes
from ..errors import UserError, nearest
from ..rgb import to_rgb
from .folder import IMAGE_SUFFIXES


class ZipReader:
    """Reads one image of a zip file by its name in it.

    The file is opened when the first image is asked for, once per process: forked loader workers must not share a file
    position, and an open file cannot be pickled to spawned ones.
    """

    def __init__(self, path: str):
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._process = -1

    def __call__(self, name: str) -> Image.Image:
        if self._archive is None or self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self.path), os.getpid()
        try:
            content = self._archive.read(name)
        except zipfile.BadZipFile as error:
            raise OSError(f"damaged entry: {error}") from error
        with Image.open(io.BytesIO(content)) as image:
            return to_rgb(image)

    def __getstate__(self) -> dict:
        return {"path": self.path, "_archive": None, "_process": -1}


def zip_set(path: Path, splits: list[str] | None = None, groups: list[str] | None = None) -> FileSet:
    """Images of a zip whose entries are ``<class>/<file>``, or ``<split>/<class>/<file>`` with `splits`.

    groups: coarse classes to keep, as listed in a ``classes.csv`` (class,coarse_class) beside the zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [e.filename for e in archive.infolist() if not e.is_dir()]
            entries.sort(key=lambda name: name.split("/"))  # by class, then file, as a folder of folders sorts
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot open '{path}' as a zip file ({error})") from error
    shown = [e for e in entries if not any(part.startswith((".", "__")) for part in e.split("/"))]
    images = [e for e in shown if Path(e).suffix.lower() in IMAGE_SUFFIXES]
    depth = 3 if splits else 2
    wrong = [e for e in images if len(e.split("/")) != depth]
    if not images or wrong:
        found = f"'{wrong[0]}' in it" if wrong else "no image in it"
        form = "split/class/file" if splits else "class/file"
        raise UserError(f"the entries of '{path}' must be named {form}, but there is {found}")
    ranked = []
    for place, split in enumerate(splits or [""]):
        members = [e for e in images if not splits or e.startswith(f"{split}/")]
        if not members:
            raise UserError(f"'{path}' has no images of the split '{split}'")
        ranked += [(place, e.split("/")[-2], e) for e in members]
    number: dict[str, int] = {}
    labels = [number.setdefault(name, len(number)) for _, name, _ in ranked]
    dataset = FileSet([e for _, _, e in ranked], np.array(labels), list(number), ZipReader(str(path)), str(path))
    return dataset if groups is None else select_classes(dataset, _grouped(path, dataset.class_names, groups))


def zip_splits(path: Path) -> list[str]:
    """Which of train, val, test are top folders of the zip's images; empty for a plain class/file pack."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [name.split("/") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return []
    tops = {part[0] for part in parts if len(part) == 3 and part[2]}
    return [name for name in ("train", "val", "test") if name in tops]


def _grouped(path: Path, class_names: list[str], groups: list[str]) -> list[str]:
    table = path.with_name("classes.csv")
    if not table.is_file():
        raise UserError(
            f"'{path}' has no groups: groups= needs a classes.csv with the columns class,coarse_class beside it"
        )
    with open(table, newline="", encoding="utf-8") as handle:
        coarse = {row["class"]: row["coarse_class"] for row in csv.DictReader(handle)}
    _check_groups(groups, set(coarse.values()), path)
    return [name for name in class_names if coarse.get(name) in groups]


def _check_groups(groups: list[str], known: set[str], path: Path) -> None:
    for group in groups:
        if group not in known:
            raise UserError(f"'{path}' has no group '{group}'{nearest(group, known)}")


def npz_set(path: Path, groups: list[str] | None = None) -> ArraySet:
    """Images of an .npz with the arrays `images` (N, H, W) or (N, H, W, 3) uint8, `label` (N,) and `class_names` (K,).

    groups: alphabets to keep, if the file has `alphabets` and `class_alphabet` (Omniglot); classes are sorted by name.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read '{path}' as plain arrays ({error})") from error
    absent = [key for key in ("images", "label", "class_names") if key not in arrays]
    if absent:
        raise UserError(f"'{path}' has no array '{absent[0]}': a pack needs images, label and class_names")
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3):
        raise UserError(
            f"the images of '{path}' are {images.dtype} {images.shape}: expected uint8 (N, H, W) or (N, H, W, 3)"
        )
    if images.ndim == 4:
        images = images.transpose(0, 3, 1, 2)
    names = [str(name) for name in arrays["class_names"]]
    dataset = ArraySet(torch.from_numpy(np.ascontiguousarray(images)), arrays["label"], names)
    wanted = sorted(names)
    if groups is not None:
        if not {"alphabets", "class_alphabet"} <= set(arrays):
            raise UserError(f"'{path}' has no groups: groups= needs the arrays alphabets and class_alphabet")
        alphabets = [str(name) for name in arrays["alphabets"]]
        _check_groups(groups, set(alphabets), path)
        alphabet = {name: alphabets[i] for name, i in zip(names, arrays["class_alphabet"], strict=True)}
        wanted = [name for name in wanted if alphabet[name] in groups]
    return dataset if wanted == names else select_classes(dataset, wanted)
