"""File lists: JSON as written for CUB (base/val/novel.json) and CSV (filename,label)."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from ..dataset import FileSet
from ..errors import UserError
from .folder import read_file

LIST_NAMES = {"train": ("base", "train"), "val": ("val",), "test": ("novel", "test")}


def find_list(folder: Path, split: str, suffix: str) -> Path | None:
    """The list file of a split in `folder`: base/val/novel or train/val/test with the given suffix."""
    return next((p for name in LIST_NAMES[split] if (p := folder / f"{name}{suffix}").is_file()), None)


def has_lists(folder: Path, suffix: str) -> bool:
    """Whether `folder` holds the list file of at least one split."""
    return any(find_list(folder, split, suffix) for split in LIST_NAMES)


def list_set(files: list[Path], root: Path | None = None) -> FileSet:
    """Images named by one or several lists, one after the other; labels remapped to 0..K-1.

    JSON (DeepBDC spec 7.2): `label_names`, `image_names`, `image_labels`; labels keep the numbers of the full data set
        there (0, 2, 4, ... for CUB's base classes) and only the classes that occur are kept, in that order.
    CSV: columns filename,label (miniImageNet); classes are sorted by name.
    Relative image names are looked up in `root`, else in the folder of the list.
    Missing images are a UserError with their number and the first name.
    """
    paths: list[Path] = []
    names: list[str] = []
    order: list[str] = []
    for file in files:
        if not file.is_file():
            raise UserError(f"list file '{file}' does not exist")
        read = _read_csv if file.suffix.lower() == ".csv" else _read_json
        images, classes, class_order = read(file)
        if not images:
            raise UserError(f"list file '{file}' names no image")
        base = root if root is not None else file.parent
        paths += [base / image for image in images]  # an absolute image name replaces the base
        names += classes
        order += [name for name in class_order if name not in set(order)]
    missing = _missing(paths)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} images of '{files[0]}' do not exist, the first is '{missing[0]}': "
            "give the folder of the images with root="
        )
    number = {name: i for i, name in enumerate(order)}
    return FileSet([str(p) for p in paths], np.array([number[name] for name in names]), order, read_file)


def _missing(paths: list[Path]) -> list[Path]:
    """Paths that do not exist. Each folder is listed once, which is much faster than asking for every file."""
    listed: dict[Path, set[str]] = {}
    missing = []
    for path in paths:
        if path.parent not in listed:
            listed[path.parent] = {p.name for p in path.parent.iterdir()} if path.parent.is_dir() else set()
        if path.name not in listed[path.parent]:
            missing.append(path)
    return missing


def _read_json(file: Path) -> tuple[list[str], list[str], list[str]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"list file '{file}' is not JSON ({error})") from error
    keys = ("label_names", "image_names", "image_labels")
    absent = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if absent:
        raise UserError(f"list file '{file}' lacks the list '{absent[0]}': it needs {', '.join(keys)}")
    label_names, images, labels = (content[key] for key in keys)
    if len(images) != len(labels):
        raise UserError(f"list file '{file}' has {len(images)} image_names but {len(labels)} image_labels")
    if len(set(label_names)) != len(label_names):
        raise UserError(f"list file '{file}' has a name twice in label_names: class names must differ")
    bad = [label for label in labels if type(label) is not int or not 0 <= label < len(label_names)]
    if bad:
        raise UserError(
            f"list file '{file}' has the label {bad[0]!r}, which is no position in its {len(label_names)} label_names"
        )
    used = sorted(set(labels))
    return images, [str(label_names[label]) for label in labels], [str(label_names[label]) for label in used]


def _read_csv(file: Path) -> tuple[list[str], list[str], list[str]]:
    with open(file, newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle)
        if not {"filename", "label"} <= set(reader.fieldnames or ()):
            raise UserError(
                f"list file '{file}' has the columns {reader.fieldnames}: its first line must name filename,label"
            )
        rows = [(row["filename"], row["label"]) for row in reader]
    for line, row in enumerate(rows, start=2):
        if not all(row):
            raise UserError(f"list file '{file}' lacks a filename or a label in line {line}")
    return [name for name, _ in rows], [label for _, label in rows], sorted({label for _, label in rows})
