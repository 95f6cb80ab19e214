"""`open_clips`: find labelled videos by a short text."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np

from episodes.class_splits import load_split, split_classes
from episodes.dataset import select_classes
from episodes.errors import UserError, nearest
from episodes.sources.folder import SPLIT_NAMES, split_folders

from .clips import ClipSet, drop_broken
from .clips_check import check_clips
from .lists import VideoList, folder_list, pack_list, read_list
from .lists_paths import absent, groups_of, held_out, place
from .readers import MEMBER, Opener, VideoOpener

LIST_NAMES = {"train": ("base", "train", "train_few_shot"), "val": ("val", "val_few_shot")}
LIST_NAMES["test"] = ("novel", "test", "test_few_shot")
LIST_SUFFIXES = (".json", ".txt", ".csv")
DRAWN = {"motions": ("size", "items", "split"), "strokes": ("frames", "alphabets")}
OPTIONS = ("split", "by", "root", "strip", "suffix", "names", "groups", "side", "share", "seed", "flip", "fps")


def open_clips(spec: str, *, skip_broken: bool = False, workers: int = 2, backend: str = "auto") -> ClipSet:
    """Open the videos that `spec` names: ``SOURCE`` or ``SOURCE?option=value&option=value``.

    SOURCE: a list (.json, .txt, .csv), a folder of lists (base/val/novel or train/val/test), a folder of class folders
        (with or without train, val, test above), a .zip pack of class/clip, ``motions:DOMAIN`` (drawn, nothing to
        download, see `video.motions`), or ``strokes:FILE.npz`` (drawings over time, see `video.strokes`).
    Options: ``split`` (train, val, test, or several as train+val), ``by`` (how classes fall into splits, as of images);
        ``root``, ``strip``, ``suffix`` (where the videos of a list lie, see `video.lists_paths.place`); ``names`` (file
        of class names); ``groups`` with ``side=train`` or ``side=test``, ``share`` and ``seed`` (hold whole groups out:
        a column of the list, or ucf); ``flip=false`` (no mirror images); ``fps`` of folders of frames.
    skip_broken: leave out videos that do not exist or of which not every frame can be decoded, with a warning that
        names them. Everything is decoded once for that, in `workers` processes, and the result remembered.
    backend: who decodes, see `video.readers`.
    Raises UserError with one sentence for anything that does not fit; nothing is decoded otherwise.
    """
    source, options = parse(spec)
    parts = [name for name in options.get("split", "").split("+") if name]
    for name in parts:
        if name not in SPLIT_NAMES:
            raise UserError(f"'{spec}' asks for the split '{name}'{nearest(name, SPLIT_NAMES)}")
    by = options.get("by")
    if by is not None and not parts:
        raise UserError(f"'{spec}' has by={by} but no split: add split=train, split=val or split=test")
    if by is not None:
        load_split(by)  # a wrong name should fail before the data are read
    kind, colon, target = source.partition(":")
    if kind in DRAWN and (colon or kind == "motions"):
        dataset = _drawn(kind, target, options, backend, [] if by is not None else parts)
    else:
        place, wanted = Path(source).expanduser(), None if by is not None else parts
        dataset = _stored(place, source, options, backend, wanted, skip_broken)
    if by is not None:
        chosen = split_classes(by, dataset.class_names)
        dataset = select_classes(dataset, [name for part in parts for name in chosen[part]])
    if skip_broken:
        dataset = drop_broken(dataset, check_clips(dataset, workers))
    return dataset


def parse(spec: str) -> tuple[str, dict[str, str]]:
    """Split ``SOURCE?a=b&c=d`` into the source and its options."""
    source, _, query = spec.partition("?")
    kind = source.partition(":")[0]
    known = (*OPTIONS, *DRAWN.get(kind, ()))
    options = {}
    for item in filter(None, query.split("&")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise UserError(f"'{spec}' has the option '{item}': options are written key=value and joined by &")
        if key not in known:
            raise UserError(f"'{spec}' has the option '{key}', which videos do not know{nearest(key, known)}")
        options[key] = unquote(value)
    return source, options


def _drawn(kind: str, target: str, options: dict[str, str], backend: str, parts: list[str]) -> ClipSet:
    if kind == "motions":
        from .motions import motion_set

        size, items = _number(options, "size", 64), _number(options, "items", 20)
        return motion_set(target or "digits", parts, size, items, VideoOpener(backend))
    from .strokes import stroke_set

    if parts:
        raise UserError(f"'{target}' has no splits of its own: add by=mod5, or leave split= out")
    alphabets = options["alphabets"].split(",") if "alphabets" in options else None
    return stroke_set(Path(target).expanduser(), _number(options, "frames", 32), alphabets)


def _stored(
    path: Path, source: str, options: dict[str, str], backend: str, parts: list[str] | None, skip_missing: bool
) -> ClipSet:
    """Videos on disk. parts: the wanted splits, none for the whole set, None where a class split will choose."""
    lists, opener = find_lists(path, source, parts, options), VideoOpener(backend)
    opener.fps = float(_number(options, "fps", 25))
    root = Path(options["root"]).expanduser() if "root" in options else None
    names, classes, order, groups = [], [], [], []
    for found in lists:
        if found.origin.suffix.lower() == ".zip":
            names += [f"{found.origin}{MEMBER}{name}" for name in found.names]
        else:
            names += place(found, root, options.get("strip"), options.get("suffix", ""))
        called = _apart(found, order)
        classes += [called[name] for name in found.classes]
        order += [name for name in called.values() if name not in set(order)]
        groups += groups_of(found, options["groups"]) if "groups" in options else []
    missing = [] if path.suffix.lower() == ".zip" else absent(names)
    if missing and (not skip_missing or len(missing) == len(names)):
        raise UserError(
            f"{len(missing)} of {len(names)} videos of '{source}' do not exist, the first is '{names[missing[0]]}': "
            "give their folder with root=, or look at the list with `python -m tools.videos check`"
        )
    number = {name: i for i, name in enumerate(order)}
    flip = None if "flip" not in options else options["flip"].lower() in ("true", "yes", "1")
    labels = np.array([number[name] for name in classes], dtype=np.int64)
    read: Opener = PackOpener(str(path), opener) if path.suffix.lower() == ".zip" else opener
    dataset = ClipSet(names, labels, order, read, str(path), flip)
    if missing:
        dataset = drop_broken(dataset, [(item, "it does not exist") for item in missing])
        groups = np.delete(groups, missing).tolist() if groups else []
    return _side(dataset, groups, options) if groups else dataset


class PackOpener:
    """Opens the clips of one pack; `path` lets a data set be told from another by one file."""

    def __init__(self, path: str, opener: VideoOpener) -> None:
        self.path, self.opener = path, opener

    def __call__(self, name: str):
        """Open the clip `name` of the pack."""
        return self.opener(name)


def find_lists(path: Path, source: str, parts: list[str] | None, options: dict[str, str]) -> list[VideoList]:
    """Return the lists of a source: one for a file, pack or folder of classes, one a split where there are several."""
    class_names = Path(options["names"]).expanduser() if "names" in options else None
    if path.is_file() and path.suffix.lower() in (*LIST_SUFFIXES, ".zip"):
        if parts:
            raise UserError(f"'{source}' has no splits of its own: add by=mod5, or leave split= out")
        return [pack_list(path) if path.suffix.lower() == ".zip" else read_list(path, class_names)]
    if path.is_file():
        raise UserError(
            f"'{source}' is a file of an unknown kind: give a .json, .txt or .csv list, a .zip, or a folder"
        )
    if not path.is_dir():
        raise UserError(
            f"there is no file, folder or source '{source}': give a list, a folder of class folders, a .zip of "
            "class/clip, or motions:digits"
        )
    files = {part: _list_of(path, part) for part in SPLIT_NAMES}
    present = [part for part in SPLIT_NAMES if files[part]] or split_folders(path)
    if not present:
        if parts:
            raise UserError(f"'{source}' has no splits of its own: add by=mod5, or leave split= out")
        return [folder_list(path)]
    if parts is not None and not parts:
        raise UserError(f"'{source}' has the splits {', '.join(present)}: add ?split={present[0]} or several with +")
    absent_part = next((part for part in parts or () if part not in present), None)
    if absent_part:
        raise UserError(f"'{source}' has no split '{absent_part}': it has {', '.join(present)}")
    wanted = parts or present
    return [read_list(files[p], class_names) if files[p] else folder_list(path / p) for p in wanted]


def _list_of(folder: Path, part: str) -> Path | None:
    names = [f"{name}{suffix}" for name in LIST_NAMES[part] for suffix in LIST_SUFFIXES]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _apart(found: VideoList, order: list[str]) -> dict[str, str]:
    """Return class -> name, other than those in use where a bare number would make two classes one."""
    return {
        name: f"{found.origin.stem} {name}" if name.startswith("class ") and name in order else name
        for name in found.order
    }


def _side(dataset: ClipSet, groups: list[str], options: dict[str, str]) -> ClipSet:
    side = options.get("side", "")
    if side not in ("train", "test"):
        raise UserError(f"groups={options['groups']} needs side=train or side=test, not '{side}'")
    try:
        share = float(options.get("share", 0.25))
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise UserError(f"the option share={options['share']} must be a fraction between 0 and 1")
    out = held_out(groups, share, _number(options, "seed", 0))
    keep = np.flatnonzero(out if side == "test" else ~out)
    sizes = np.bincount(dataset.labels[keep], minlength=len(dataset.class_names))
    if sizes.min() == 0:
        name = dataset.class_names[int(sizes.argmin())]
        raise UserError(f"no video of class '{name}' is on the {side} side of the groups: choose another share or seed")
    return dataset.take(keep, dataset.labels[keep], dataset.class_names)


def _number(options: dict[str, str], key: str, default: int) -> int:
    try:
        return int(options.get(key, default))
    except ValueError as error:
        raise UserError(f"the option {key}={options[key]} must be a whole number") from error
