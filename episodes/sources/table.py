"""Where images come from: one builder per source, found by the text given to `open_dataset`.

Options: `split`, `by`, `items` everywhere; ``groups=Latin,Greek`` (packs), ``root=`` (lists, torchvision),
``size= variants= seed=`` (glyphs), ``size=`` (digits), ``classes=`` (shards),
``warn_small=false`` (folders and lists, see `warn_if_small`).
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from ..class_splits import load_split, split_classes
from ..dataset import FileSet, select_classes
from ..errors import UserError, nearest

# Every option that a source understands besides split, by and items.
OPTIONS = {
    "folder": ("warn_small",),
    "json": ("root", "warn_small"),
    "csv": ("root", "warn_small"),
    "pack": ("groups",),
    "glyphs": ("size", "variants", "seed"),
    "digits": ("size",),
    "torchvision": ("root",),
    "shards": ("classes",),
}


def open_source(spec: str, download: bool = False) -> Any:
    """The data set of a ``SOURCE?option=value`` text, see `episodes.opening.open_dataset`."""
    kind, target, options = parse_spec(spec)
    splits = [name for name in options.pop("split", "").split("+") if name]
    for name in splits:
        if name not in ("train", "val", "test"):
            raise UserError(f"'{spec}' asks for the split '{name}'{nearest(name, ('train', 'val', 'test'))}")
    items = options.pop("items", None)
    if items is not None:
        return some_items(_open(kind, target, splits, options, download, spec), items, spec)
    return _open(kind, target, splits, options, download, spec)


def _open(kind: str, target: str, splits: list[str], options: dict[str, str], download: bool, spec: str) -> Any:
    by = options.pop("by", None)
    if by is not None:
        if not splits:
            raise UserError(f"'{spec}' has by={by} but no split: add split=train, split=val or split=test")
        load_split(by)  # a wrong name should fail before the data are read
        whole = SOURCES[kind](target, None, options, download)
        lists = split_classes(by, whole.class_names)
        wanted = [name for split in splits for name in lists[split]]
        if not wanted:
            raise UserError(f"the class split '{by}' has no classes for split={'+'.join(splits)}")
        return select_classes(whole, wanted)
    return SOURCES[kind](target, splits, options, download)


def some_items(dataset: Any, parts: str, spec: str) -> Any:
    """Return some items of every class: of its items 0, 1, ... those with i % 5 < 3 are train, 3 is val, 4 is test.

    parts: names of these, joined by +. Pictures of one class then stand on both sides, as classification wants it.
    """
    places = {"train": (0, 1, 2), "val": (3,), "test": (4,)}
    wanted = [name for name in parts.split("+") if name]
    for name in wanted:
        if name not in places:
            raise UserError(f"'{spec}' asks for the items '{name}'{nearest(name, places)}")
    sizes = np.bincount(dataset.labels, minlength=len(dataset.class_names))
    if sizes.min() < 5:
        small = int(sizes.argmin())
        raise UserError(
            f"class '{dataset.class_names[small]}' of '{spec}' has {sizes[small]} items: items= needs five at least"
        )
    order = np.argsort(dataset.labels, kind="stable")
    number = np.empty(len(order), dtype=np.int64)  # of an item within its class
    number[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = np.flatnonzero(np.isin(number % 5, [place for name in wanted for place in places[name]]))
    return dataset.take(kept, dataset.labels[kept], dataset.class_names)


def parse_spec(spec: str) -> tuple[str, str, dict[str, str]]:
    """Split ``SOURCE?a=b&c=d`` into kind (a key of SOURCES), target (what follows the kind) and options."""
    source, _, query = spec.partition("?")
    options = {}
    for item in filter(None, query.split("&")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise UserError(f"'{spec}' has the option '{item}': options are written key=value and joined by &")
        options[key] = unquote(value)
    kind, colon, target = source.partition(":")
    if source in ("digits", "glyphs"):
        kind, target = source, "latin" if source == "glyphs" else ""
    elif not colon or kind not in SOURCES:
        kind, target = _kind_of_path(source), source
    if kind == "digits" and target:
        raise UserError(f"'{spec}' asks for '{target}' of the digits, which have no parts: write digits")
    known = ("split", "by", "items", *OPTIONS[kind])
    for key in options:
        if key not in known:
            raise UserError(f"'{spec}' has the option '{key}', which {kind} does not know{nearest(key, known)}")
    return kind, target, options


def _kind_of_path(source: str) -> str:
    path = Path(source).expanduser()
    if path.is_dir():
        from .lists import has_lists

        found = next((kind for kind in ("json", "csv") if has_lists(path, f".{kind}")), None)
        return found or ("shards" if next(path.glob("*.tar"), None) else "folder")
    kinds = {".json": "json", ".csv": "csv", ".npz": "pack", ".zip": "pack", ".tar": "shards"}
    if source.endswith((".tar", ".tar}")):
        return "shards"
    if path.suffix.lower() in kinds and path.is_file():
        return kinds[path.suffix.lower()]
    if path.is_file() and ".tar." in path.name:
        raise UserError(
            f"'{source}' is a compressed shard, of which no picture can be read alone: unpack it to a .tar file"
        )
    if path.is_file():
        raise UserError(
            f"'{source}' is a file of an unknown kind: give a folder, or a .json, .csv, .npz, .zip or .tar file"
        )
    word, colon, _ = source.partition(":")
    hint = nearest(word, SOURCES) if colon and "/" not in word else _near_path(source)
    raise UserError(f"there is no file, folder or source '{source}'{hint}")


def _near_path(source: str) -> str:
    """Return a hint: what lies where `source` was looked for under the closest name, else what may be given."""
    path = Path(source).expanduser()
    while not path.parent.is_dir():  # the first part of the path that is missing
        path = path.parent
    try:
        names = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        names = []
    here = {name: str(path.parent / name) for name in names}
    if len(Path(source).parts) == 1:
        here |= {name: name for name in ("digits", "glyphs")}
    close = difflib.get_close_matches(path.name, here, n=1)
    if close:
        return f"; did you mean '{here[close[0]]}'?"
    return ": give a folder, a .json, .csv, .npz or .zip file, or one of glyphs:latin, digits, torchvision:CIFAR100"


def _number(options: dict[str, str], key: str, default: int) -> int:
    try:
        return int(options.get(key, default))
    except ValueError as error:
        raise UserError(f"the option {key}={options[key]} must be a whole number") from error


def _flag(options: dict[str, str], key: str, default: bool) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    text = options.get(key, str(default)).lower()
    if text not in words:
        raise UserError(f"the option {key}={options[key]} must be true or false")
    return words[text]


def warn_if_small(dataset: FileSet, options: dict[str, str]) -> FileSet:
    """Warn when the classes are ImageNet's and a few images are all 84 x 84.

    Shrunken copies of miniImageNet or tieredImageNet cost about 7 points (DeepBDC issue 4).
    """
    wordnet = all(re.fullmatch(r"n\d{8}", name) for name in dataset.class_names)
    if not _flag(options, "warn_small", True) or not wordnet:
        return dataset
    probes = range(0, len(dataset), max(1, len(dataset) // 5))
    try:
        sizes = {dataset[i][0].size for i in probes}
    except UserError:
        return dataset  # broken files are reported where they are used or checked
    if sizes == {(84, 84)}:
        warnings.warn(
            f"the {len(probes)} pictures probed are 84 x 84 and the class names are ImageNet's: shrunken copies of "
            "miniImageNet cost several points of accuracy, use the original sizes (or silence this by "
            "?warn_small=false behind the data set, as in photos/train?warn_small=false)",
            stacklevel=2,
        )
    return dataset


def _folder(target: str, splits: list[str] | None, options: dict[str, str], download: bool) -> Any:
    from .folder import folder_set, split_folders

    root = Path(target).expanduser()
    present = split_folders(root) if root.is_dir() else []
    if splits is None:
        splits = present  # a class list chooses from everything that is there
    elif splits and not present and root.is_dir():
        raise _no_split(target)
    elif present and not splits:
        raise UserError(
            f"'{target}' has the splits {', '.join(present)}: add ?split={present[0]} or ?split={'+'.join(present)}"
        )
    return warn_if_small(folder_set(root, splits), options)


def _lists(suffix: str) -> Callable[..., Any]:
    def build(target: str, splits: list[str] | None, options: dict[str, str], download: bool) -> Any:
        from .lists import find_list, list_set

        path = Path(target).expanduser()
        root = Path(options["root"]).expanduser() if "root" in options else None
        if not path.is_dir():
            if splits:
                raise _no_split(target)
            return warn_if_small(list_set([path], root), options)
        found = {split: find_list(path, split, suffix) for split in ("train", "val", "test")}
        present = [split for split, file in found.items() if file]
        if splits is not None and not splits:
            raise UserError(
                f"'{target}' has the splits {', '.join(present)}: add ?split={'+'.join(present)} or one of them"
            )
        for split in splits or present:
            if not found[split]:
                raise UserError(f"'{target}' has no list of the split '{split}': it has {', '.join(present) or 'none'}")
        return warn_if_small(list_set([found[split] for split in splits or present], root), options)

    return build


def _pack(target: str, splits: list[str] | None, options: dict[str, str], download: bool) -> Any:
    from .packs import npz_set, zip_set, zip_splits

    path = Path(target).expanduser()
    if not path.is_file():
        raise UserError(f"pack '{target}' does not exist")
    groups = options["groups"].split(",") if "groups" in options else None
    present = zip_splits(path) if path.suffix.lower() == ".zip" else []
    if splits and not present:
        raise _no_split(target)
    if present and splits is not None and not splits:
        raise UserError(
            f"'{target}' has the splits {', '.join(present)}: add ?split={present[0]} or ?split={'+'.join(present)}"
        )
    return zip_set(path, splits or present or None, groups) if path.suffix.lower() == ".zip" else npz_set(path, groups)


def _glyphs(target: str, splits: list[str] | None, options: dict[str, str], download: bool) -> Any:
    from .glyphs import glyph_set

    if splits:
        raise _no_split("glyphs")
    scripts = list(dict.fromkeys(filter(None, target.replace("+", ",").split(",")))) or ["latin"]
    return glyph_set(
        scripts, _number(options, "size", 32), _number(options, "variants", 3), _number(options, "seed", 0)
    )


def _digits(target: str, splits: list[str] | None, options: dict[str, str], download: bool) -> Any:
    from .digits import digit_set

    if splits:
        raise _no_split("digits")
    return digit_set(_number(options, "size", 32))


def _torchvision(target: str, splits: list[str] | None, options: dict[str, str], download: bool) -> Any:
    from .torchvision_sets import torchvision_set

    return torchvision_set(target, Path(options.get("root", "data")).expanduser(), splits, download)


def _shards(target: str, splits: list[str] | None, options: dict[str, str], download: bool) -> Any:
    from .shards import shard_set

    if splits:
        raise _no_split(target)
    return shard_set(target, Path(options["classes"]).expanduser() if "classes" in options else None)


def _no_split(target: str) -> UserError:
    return UserError(f"'{target}' has no splits of its own: add by=mod5, another class split, or leave split= out")


# name -> builder(target, splits, options, download). splits: the wanted ones in order, empty if none was named, None
# if a class split (by=) will choose from the whole set.
SOURCES: dict[str, Callable[..., Any]] = {
    "folder": _folder,
    "json": _lists(".json"),
    "csv": _lists(".csv"),
    "pack": _pack,
    "glyphs": _glyphs,
    "digits": _digits,
    "torchvision": _torchvision,
    "shards": _shards,
}
