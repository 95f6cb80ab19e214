"""Any image classification set of torchvision by its class name, with class splits instead of its item splits."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..dataset import FileSet
from ..errors import UserError, nearest

# The parts of a set, as arguments of its class: together they are all its images.
TRAIN_TEST = ({"train": True}, {"train": False})
THREE = ({"split": "train"}, {"split": "val"}, {"split": "test"})
TWO = ({"split": "train"}, {"split": "test"})
PARTS: dict[str, tuple[dict[str, Any], ...]] = {
    "CIFAR10": TRAIN_TEST,
    "CIFAR100": TRAIN_TEST,
    "MNIST": TRAIN_TEST,
    "FashionMNIST": TRAIN_TEST,
    "KMNIST": TRAIN_TEST,
    "QMNIST": ({"what": "train"}, {"what": "test"}),
    "USPS": TRAIN_TEST,
    "EMNIST": ({"split": "balanced", "train": True}, {"split": "balanced", "train": False}),
    "Omniglot": ({"background": True}, {"background": False}),
    "FGVCAircraft": THREE,
    "Flowers102": THREE,
    "DTD": THREE,
    "StanfordCars": TWO,
    "Food101": TWO,
    "GTSRB": TWO,
    "SVHN": TWO,
    "STL10": TWO,
    "OxfordIIITPet": ({"split": "trainval"}, {"split": "test"}),
    "Country211": ({"split": "train"}, {"split": "valid"}, {"split": "test"}),
    "RenderedSST2": THREE,
    "FER2013": ({"split": "train"},),
    "Imagenette": ({"split": "train"}, {"split": "val"}),
    "ImageNet": ({"split": "train"}, {"split": "val"}),
    "EuroSAT": ({},),
    "Caltech101": ({},),
    "Caltech256": ({},),
    "SUN397": ({},),
    "SEMEION": ({},),
    "INaturalist": ({},),
    "FakeData": ({"size": 60, "image_size": (3, 16, 16)},),
}
NEEDS_NO_FILES = {"FakeData"}


class PartReader:
    """Reads item (part, index) of several torchvision sets."""

    def __init__(self, parts: list[Any]):
        self.parts = parts

    def __call__(self, name: tuple[int, int]) -> Image.Image:
        part, index = name
        return self.parts[part][index][0]


def torchvision_set(name: str, root: Path, splits: list[str] | None, download: bool = False) -> FileSet:
    """All images of torchvision's set `name` in `root`, its own train, val and test items joined (few-shot splits
    are by class); with `splits`, only those parts that carry these names.

    Nothing is downloaded unless `download`. Class names are those that torchvision knows, else numbers.
    """
    from torchvision import datasets

    if name not in PARTS:
        raise UserError(f"there is no torchvision set '{name}' here{nearest(name, PARTS)}")
    builder = getattr(datasets, name)
    chosen = [arguments for arguments in PARTS[name] if not splits or _part_name(arguments) in splits]
    if splits and len(chosen) < len(splits):
        own = [part for arguments in PARTS[name] if (part := _part_name(arguments))]
        raise UserError(
            f"torchvision:{name} has the parts {', '.join(own) or 'none'}, not {'+'.join(splits)}: by= splits classes"
        )
    takes_download = "download" in inspect.signature(builder.__init__).parameters
    fetch = {"download": True} if download and takes_download else {}
    where = () if name in NEEDS_NO_FILES else (str(root),)
    try:
        parts = [builder(*where, **arguments, **fetch) for arguments in chosen]
    except (RuntimeError, OSError) as error:
        can_fetch = takes_download and not download
        mend = ", or --download (download=True from Python) to fetch it" if can_fetch else ""
        reason = str(error).split("\n")[0].rstrip(". ")
        raise UserError(f"torchvision:{name} is not complete in '{root}' ({reason}): say root=FOLDER{mend}") from error
    except ImportError as error:
        raise UserError(f"torchvision:{name} needs another package: {error}") from error
    return _joined(name, parts, chosen)


def _joined(name: str, parts: list[Any], chosen: list[dict[str, Any]]) -> FileSet:
    """The items of all parts as one set, classes matched by name."""
    found = [part_classes(part, f"torchvision:{name}") for part in parts]
    if name == "Omniglot":  # its two image sets hold different characters, the class splits name the set first
        prefixes = ["background" if arguments["background"] else "evaluation" for arguments in chosen]
        found = [
            (labels, [f"{prefix}/{n}" for n in names]) for prefix, (labels, names) in zip(prefixes, found, strict=True)
        ]
    orders = [names for _, names in found]
    shared = all(names == orders[0] for names in orders) and name != "Omniglot"  # Omniglot's order is the file system's
    order = orders[0] if shared else sorted(set().union(*orders))
    position = {class_name: i for i, class_name in enumerate(order)}
    labels = np.concatenate([np.array([position[n] for n in names])[own] for own, names in found])
    keys = [(number, index) for number, part in enumerate(parts) for index in range(len(part))]
    if name == "Omniglot":  # items too come in the order of the file system
        files = [file for part in parts for file, _ in getattr(part, "_flat_character_images", [("", 0)] * len(part))]
        ranked = sorted(range(len(keys)), key=lambda i: (labels[i], files[i]))
        keys, labels = [keys[i] for i in ranked], labels[ranked]
    used = np.unique(labels)  # a part may lack classes
    names = [order[label] for label in used]
    return FileSet(keys, np.searchsorted(used, labels), names, PartReader(parts), f"torchvision:{name}")


def _part_name(arguments: dict[str, Any]) -> str:
    if "train" in arguments:
        return "train" if arguments["train"] else "test"
    if "background" in arguments:
        return "train" if arguments["background"] else "test"
    return {"trainval": "train", "valid": "val"}.get(
        arguments.get("split", arguments.get("what", "")), arguments.get("split", "")
    )


def part_classes(part: Any, name: str) -> tuple[np.ndarray, list[str]]:
    """Labels (N,) and class names of one torchvision set, without opening images where it keeps a list of labels.

    torchvision has no common attribute for the labels. The private ones tried here only save time: when a release
    renames them, the items are read once instead.
    """
    labels = next((v for a in ("targets", "labels", "y", "_labels") if (v := getattr(part, a, None)) is not None), None)
    if labels is None:
        pairs = next(
            (v for a in ("_samples", "_flat_character_images", "samples", "index") if (v := getattr(part, a, None))),
            None,
        )
        if pairs and isinstance(pairs[0], (tuple, list)):
            labels = [pair[-1] if isinstance(pair[-1], int) else pair[0] for pair in pairs]
    if labels is None:
        warnings.warn(f"{name} has no list of labels: all {len(part)} items are read once to learn them", stacklevel=4)
        labels = [part[index][1] for index in range(len(part))]
    labels = np.asarray([int(label) for label in labels], dtype=np.int64)
    names = getattr(part, "classes", None) or getattr(part, "categories", None) or getattr(part, "_characters", None)
    count = int(labels.max()) + 1 if len(labels) else 0
    if not names or len(names) < count:
        names = [f"{label:03d}" for label in range(count)]
    return labels, [" / ".join(n) if isinstance(n, (tuple, list)) else str(n) for n in names]
