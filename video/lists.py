"""Lists of labelled videos: JSON, text and CSV files, folders of class folders, and packs; nothing is opened for them.

Formats of files:
- JSON: `image_names`, `image_labels`, and `label_names` if there are names (TAMT's lists);
- text: `path frames label` or `path label`, separated by spaces (TCPNet, VideoMAE); or `split + label/path`, as in
  `train12/videos/run/3.avi` (MoLo);
- CSV with a header: `file` (or path, filename), `class` (or label, a number or a name), and whatever else; without a
  header: `path,label`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from episodes.errors import UserError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".gif", ".3gp", ".ts", ".ogv"}
)
PARTS = {"base": "train", "novel": "test"}  # other words for the splits
_SPLIT_LABEL = re.compile(r"(train|val|test)(\d+)/(.+)")


@dataclass
class VideoList:
    """What a list says, in its order.

    names: of the videos, as written. classes: the class of each, a name or the number that stood there.
    order: the classes in the order of their labels. frames: promised number of frames, None where none is.
    columns: further columns of a CSV file. origin: the file. labels: the numbers that stood there, where numbers did.
    """

    names: list[str]
    classes: list[str]
    order: list[str]
    frames: list[int | None]
    origin: Path
    columns: dict[str, list[str]] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)


def read_list(path: Path, class_names: Path | None = None) -> VideoList:
    """Read a list file; raises UserError with the line for what does not fit.

    class_names: file with one class name a line (line 0 is label 0), or a CSV with split, label and class_name;
        default: the `classes.csv` beside the list, if there is one. Where nothing names a class, the folder does that
        all its videos lie in and no others do; else it is called "class 12".
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"list file '{path}' does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"list file '{path}' is not text: give a .json, .csv or .txt list") from error
    read = {".json": _read_json, ".csv": _read_csv}.get(path.suffix.lower(), _read_text)
    found = read(path, text)
    if not found.names:
        raise UserError(f"list file '{path}' names no video")
    return _named(found, class_names)


def _read_json(path: Path, text: str) -> VideoList:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"list file '{path}' is not JSON ({error})") from error
    keys = ("image_names", "image_labels")
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"list file '{path}' lacks the list '{key}': it needs {' and '.join(keys)}")
    names, labels = (content[key] for key in keys)
    if len(names) != len(labels):
        raise UserError(f"list file '{path}' has {len(names)} image_names but {len(labels)} image_labels")
    bad = next((label for label in labels if type(label) is not int or label < 0), None)
    if bad is not None:
        raise UserError(f"list file '{path}' has the label {bad!r}: labels are whole numbers from 0 on")
    known = content.get("label_names")
    if known is not None and labels and max(labels) >= len(known):
        raise UserError(
            f"list file '{path}' has the label {max(labels)}, which is missing in its {len(known)} label_names"
        )
    order = sorted(set(labels))
    called = {label: str(known[label]) if known else str(label) for label in order}
    classes = [called[label] for label in labels]
    return VideoList([str(n) for n in names], classes, list(called.values()), [None] * len(names), path)


def _read_text(path: Path, text: str) -> VideoList:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        return VideoList([], [], [], [], path)
    if _SPLIT_LABEL.fullmatch(lines[0][1]):
        return _read_split_labels(path, lines)
    counted = len(lines[0][1].split()) > 2 and all(word.isdecimal() for word in lines[0][1].split()[-2:])
    names, labels, frames = [], [], []
    for number, line in lines:
        words = line.rsplit(maxsplit=2 if counted else 1)
        if len(words) != (3 if counted else 2) or not all(word.isdecimal() for word in words[1:]):
            wanted = "path frames label" if counted else "path label"
            other = next((name for sign, name in ((",", "commas"), (";", "semicolons")) if sign in line), None)
            hint = f"; it seems to be separated by {other}: write spaces, or a .csv file" if other else ""
            raise UserError(f"line {number} of '{path}' is '{line[:80]}', not '{wanted}' separated by spaces{hint}")
        names.append(words[0])
        labels.append(int(words[-1]))
        frames.append(int(words[1]) if counted else None)
    order = [str(label) for label in sorted(set(labels))]
    return VideoList(names, [str(label) for label in labels], order, frames, path)


def _read_split_labels(path: Path, lines: list[tuple[int, str]]) -> VideoList:
    names, labels = [], []
    for number, line in lines:
        found = _SPLIT_LABEL.fullmatch(line)
        if not found:
            raise UserError(
                f"line {number} of '{path}' is '{line[:80]}', not split, label and path as in train12/run.avi"
            )
        names.append(found[3])
        labels.append(int(found[2]))
    order = [str(label) for label in sorted(set(labels))]
    return VideoList(names, [str(label) for label in labels], order, [None] * len(names), path)


def _read_csv(path: Path, text: str) -> VideoList:
    first = text.partition("\n")[0]
    sign = next((s for s in (",", ";", "\t") if s in first), None)
    if sign is None:
        if first.rpartition(" ")[2].strip().isdecimal():  # VideoMAE's .csv lists have spaces
            return _read_text(path, text)
        raise UserError(f"line 1 of '{path}' is '{first[:80]}': columns must be separated by commas")
    rows = list(csv.reader(io.StringIO(text), delimiter=sign))
    head = [cell.strip().lower() for cell in rows[0]]
    file_at = next((head.index(name) for name in ("file", "path", "filename", "video") if name in head), None)
    class_at = next((head.index(name) for name in ("class", "class_name", "label") if name in head), None)
    if file_at is None and class_at is None and len(head) == 2:
        rows, head, file_at, class_at = [["file", "class"], *rows], ["file", "class"], 0, 1
    if file_at is None or class_at is None:
        raise UserError(f"list file '{path}' has the columns {', '.join(head)}: it needs file and class (or label)")
    columns: dict[str, list[str]] = {name: [] for name in head}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(head):
            raise UserError(f"line {number} of '{path}' has {len(row)} columns, not {len(head)} as its first line")
        for name, cell in zip(head, row, strict=True):
            columns[name].append(cell.strip())
    names, classes = columns[head[file_at]], columns[head[class_at]]
    numbers = all(c.isdecimal() for c in classes)
    order = sorted(set(classes), key=int) if numbers else sorted(set(classes))
    counts = [int(cell) if cell.isdecimal() else None for cell in columns.get("frames", [""] * len(names))]
    return VideoList(names, classes, order, counts, path, columns)


def _named(found: VideoList, file: Path | None) -> VideoList:
    """Give numbered classes their names."""
    if not all(name.isdecimal() for name in found.order):
        return found
    found.labels = [int(name) for name in found.classes]
    beside = found.origin.with_name("classes.csv")
    if file is not None:
        known = _class_file(file, found.origin.stem)
        missing = next((label for label in found.order if label not in known), None)
        if missing is not None:
            raise UserError(f"list file '{found.origin}' has the label {missing}, which is missing in '{file}'")
    else:
        known = _class_table(beside, found.origin.stem) if beside.is_file() and beside != found.origin else {}
    if not any(known.get(label) for label in found.order):
        known = _folder_names(found)
    called = {label: known.get(label) or f"class {label}" for label in found.order}
    if len(set(called.values())) < len(called):
        called = {label: f"{name} ({label})" for label, name in called.items()}
    found.classes = [called[label] for label in found.classes]
    found.order = list(called.values())
    return found


def _class_file(file: Path, stem: str) -> dict[str, str]:
    """Return label -> name from a text file of one name a line, or a CSV."""
    if not file.is_file():
        raise UserError(f"the file of class names '{file}' does not exist")
    if file.suffix.lower() == ".csv":
        return _class_table(file, stem)
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {str(label): name for label, name in enumerate(lines)}


def _class_table(file: Path, stem: str) -> dict[str, str]:
    """Return label -> name from a CSV of split, label, class_name, without the rows of other splits than the list's."""
    split = stem.removesuffix("_few_shot").lower()
    split = PARTS.get(split, split)
    known: dict[str, str] = {}
    with open(file, newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            part = (row.get("split") or "").strip()
            if split not in ("train", "val", "test") or PARTS.get(part, part) in (split, ""):
                known[(row.get("label") or "").strip()] = (row.get("class_name") or "").strip()
    return known


def _folder_names(found: VideoList) -> dict[str, str]:
    """Return label -> folder where every class has one folder of its own, else nothing."""
    folders: dict[str, set[str]] = {}
    for name, label in zip(found.names, found.classes, strict=True):
        folders.setdefault(label, set()).add(name.rpartition("/")[0].rpartition("/")[2])
    single = {label: next(iter(names)) for label, names in folders.items() if len(names) == 1}
    return single if len(single) == len(folders) == len(set(single.values()) - {""}) else {}


def pack_list(path: Path) -> VideoList:
    """List the clips of a zip of `<class>/<clip>`; the columns are those of its index.csv, if there is one."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = sorted(e for e in archive.namelist() if not e.endswith("/"))
            index = archive.read("index.csv").decode() if "index.csv" in entries else None
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"cannot open '{path}' as a zip file ({error})") from error
    clips = [e for e in entries if Path(e).suffix.lower() in VIDEO_SUFFIXES and not e.startswith((".", "__"))]
    wrong = next((e for e in clips if e.count("/") != 1), None)
    if wrong or not clips:
        raise UserError(f"the clips of '{path}' must be named class/clip, but there is {wrong or 'no video in it'}")
    classes = [e.split("/")[0] for e in clips]
    columns: dict[str, list[str]] = {}
    if index is not None:
        table = {row["file"]: row for row in csv.DictReader(io.StringIO(index))}
        if all(clip in table for clip in clips):
            columns = {key: [table[clip][key] for clip in clips] for key in table[clips[0]]}
    frames = [int(n) if n.isdecimal() else None for n in columns.get("frames", [""] * len(clips))]
    return VideoList(clips, classes, sorted(set(classes)), frames, path, columns)


def folder_list(root: Path) -> VideoList:
    """List the videos of class folders: files, or folders of extracted frames. Classes are sorted by name."""
    from episodes.sources.folder import visible

    from .readers_stills import STILL_SUFFIXES

    if not root.is_dir():
        raise UserError(f"folder '{root}' does not exist: give the folder that holds one folder per class")
    names, classes, others = [], [], []
    for folder in (p for p in visible(root) if p.is_dir()):
        inside = visible(folder)
        stills = {p for p in inside if p.is_dir() and any(q.suffix.lower() in STILL_SUFFIXES for q in p.iterdir())}
        videos = [p for p in inside if p in stills or (p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())]
        if not videos:
            raise UserError(f"class folder '{folder}' has no video: add videos, or remove the folder")
        others += [p for p in inside if p not in videos]
        names += [f"{folder.name}/{p.name}" for p in videos]
        classes += [folder.name] * len(videos)
    if not names:
        raise UserError(f"'{root}' holds no class folders: put the videos of each class in a folder of its own")
    if others:
        import warnings

        warnings.warn(f"{len(others)} entries of '{root}' are no videos, the first is '{others[0]}'", stacklevel=2)
    return VideoList(names, classes, sorted(set(classes)), [None] * len(names), root)


def write_list(path: Path, found: VideoList) -> None:
    """Write a list, atomically, in the format of its suffix: .json, .csv, or `path frames label` (.txt)."""
    from episodes.run import write_json, write_text

    number = {name: i for i, name in enumerate(found.order)}
    labels = [number[name] for name in found.classes]
    if path.suffix.lower() == ".json":
        write_json(path, {"label_names": found.order, "image_names": found.names, "image_labels": labels})
    elif path.suffix.lower() == ".csv":
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["file", "class"])
        writer.writerows(zip(found.names, found.classes, strict=True))
        write_text(path, table.getvalue())
    elif path.suffix.lower() == ".txt":
        counts = [f" {n}" if n is not None else "" for n in found.frames]
        rows = zip(found.names, counts, labels, strict=True)
        write_text(path, "".join(f"{name}{count} {label}\n" for name, count, label in rows))
    else:
        raise UserError(f"a list is written as .json, .csv or .txt, not as '{path.name}'")
