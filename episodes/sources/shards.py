"""WebDataset shards: tar files that hold pictures, each followed by its label, read at random by an index of their own.

The index (where each picture lies, and its label) is made once from the headers of a shard and kept in the cache
folder. It is what makes batches the same for any number of workers and processes, and a resumed epoch go on at the
very picture, which a stream through tar files cannot. (The webdataset library writes such files and reads them as
streams; it is not needed here.)
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np
from PIL import Image

from ..dataset import FileSet
from ..errors import UserError
from ..progress import Progress
from ..rgb import reason, to_rgb
from .cache import cache_folder, cached_arrays
from .folder import IMAGE_SUFFIXES

LABELS = (".cls", ".json")
JSON_KEYS = ("label", "cls", "class", "class_name")
THREADS = 8  # that read headers, which is waiting for a disk or a network


class TarMembers(Sequence):
    """Names "SHARD:MEMBER" of N pictures in S shards, kept as arrays since there may be millions.

    paths: S. shards, offsets, sizes (N,): the shard of each, and where its bytes lie. members (N,): names as bytes.
    """

    def __init__(
        self, paths: list[str], shards: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, members: np.ndarray
    ):
        self.paths, self.shards, self.offsets, self.sizes, self.members = paths, shards, offsets, sizes, members

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return f"{os.path.basename(self.paths[self.shards[index]])}:{self.members[index].decode()}"

    def take(self, indices: np.ndarray) -> TarMembers:
        """Return those at `indices`."""
        chosen = (array[indices] for array in (self.shards, self.offsets, self.sizes, self.members))
        return TarMembers(self.paths, *chosen)

    def content(self, index: int) -> bytes:
        """Read one picture's bytes; raises OSError where the shard has become shorter."""
        with open(self.paths[self.shards[index]], "rb") as file:
            file.seek(self.offsets[index])
            found = file.read(self.sizes[index])
        if len(found) < self.sizes[index]:
            raise OSError("the shard ends before it")
        return found


class _Reader:
    """Stands for the archive in the places that ask a set of files how it reads."""

    def __init__(self, path: str) -> None:
        self.path = path


class ShardSet(FileSet):
    """Pictures in shards. `shards` (N,): in which one each item lies; items come in the order of the files."""

    names: TarMembers

    def __init__(self, names: TarMembers, labels: np.ndarray, class_names: Sequence[str], origin: str) -> None:
        super().__init__(names, labels, class_names, _Reader(origin), origin)

    @property
    def shards(self) -> np.ndarray:
        """Return the number of each item's shard."""
        return self.names.shards

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        try:
            with Image.open(io.BytesIO(self.names.content(index))) as image:
                return to_rgb(image), int(self.labels[index])
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise UserError(
                f"cannot read image {self.where(index)} ({reason(error)}): write the shard again, "
                "or leave such pictures out with --skip-broken"
            ) from error

    def take(self, indices: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> ShardSet:
        """Return the items at `indices`, with new labels and class names."""
        return ShardSet(self.names.take(np.asarray(indices)), labels, class_names, self.origin)


def find_shards(pattern: str) -> list[str]:
    """Return the paths that a pattern names: a folder of .tar files, a path with * or with {000..127} or {a,b}.

    Raises UserError where there is none, and for the first that a {...} names and that does not exist.
    """
    spelt = list(_braces(str(Path(pattern).expanduser())))
    if len(spelt) == 1 and Path(spelt[0]).is_dir():
        spelt = [f"{glob.escape(spelt[0])}/*.tar"]
    paths: list[str] = []
    for one in spelt:
        found = [one] if os.path.isfile(one) else sorted(glob.glob(one)) if glob.has_magic(one) else []
        if not found:
            raise UserError(f"there is no shard '{one}'" + (f" (of '{pattern}')" if one != pattern else ""))
        paths += found
    return paths


def _braces(pattern: str) -> Iterator[str]:
    """Spell out {000..127} and {a,b} as the shell does."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        yield pattern
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if last < first or last - first >= 10**7:
            raise UserError(f"'{pattern}' counts from {first} to {last}: write {{000..127}}, the smaller number first")
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        words = [str(number).zfill(width) for number in range(first, last + 1)]
    else:
        words = found[1].split(",")
    for word, rest in itertools.product(words, _braces(pattern[found.end() :])):
        yield pattern[: found.start()] + word + rest


def shard_set(pattern: str, classes: Path | None = None) -> ShardSet:
    """Open shards. Labels stand beside the pictures as KEY.cls (a number or a name) or KEY.json, or are their folders.

    classes: text file with one class name a line, in the order of the numbers; default: classes.txt beside the shards,
        else the numbers themselves are the names.
    Raises UserError for a shard that is missing, empty, damaged or compressed, and for a picture without a label.
    """
    paths = find_shards(pattern)
    tables = _indexed(paths)
    shards = np.repeat(np.arange(len(paths), dtype=np.int32), [len(table["offset"]) for table in tables])
    joined = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
    words, labels = np.unique(joined["label"], return_inverse=True)
    names, place = _class_names([word.decode() for word in words], classes or _beside(paths[0]))
    members = TarMembers(paths, shards, joined["offset"], joined["size"], joined["member"])
    return ShardSet(members, place[labels], names, pattern)


def _beside(path: str) -> Path | None:
    file = Path(path).with_name("classes.txt")
    return file if file.is_file() else None


def _class_names(words: list[str], file: Path | None) -> tuple[list[str], np.ndarray]:
    """Return the names of the classes that occur, in their order, and the place of each word among them."""
    if not all(word.isdigit() for word in words):
        order = sorted(range(len(words)), key=lambda i: words[i])
    else:
        order = sorted(range(len(words)), key=lambda i: int(words[i]))
        if file is not None:
            lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else None
            if lines is None:
                raise UserError(f"there is no file '{file}' of class names")
            if int(words[order[-1]]) >= len(lines):
                raise UserError(
                    f"'{file}' names {len(lines)} classes and the shards have the label {words[order[-1]]}: write one "
                    "name a line, the first for label 0"
                )
            words = [lines[int(word)].strip() for word in words]
    place = np.empty(len(words), dtype=np.int64)
    place[order] = np.arange(len(words))
    return [words[i] for i in order], place


def _indexed(paths: list[str]) -> list[dict[str, np.ndarray]]:
    """Return the index of every shard; of several processes on a machine one makes what is not there yet."""
    with _one_at_a_time(), Progress(len(paths), "reading the headers of shards", on=len(paths) > 50) as bar:

        def one(path: str) -> dict[str, np.ndarray]:
            table = cached_arrays(_key(path), lambda: index_shard(path))
            bar.advance()
            return table

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(one, paths))


def _one_at_a_time() -> contextlib.AbstractContextManager:
    folder = cache_folder() / "shards"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(folder / "index.lock")
    except OSError:  # nothing can be kept there: every process reads for itself
        return contextlib.nullcontext()


def _key(path: str) -> str:
    facts = os.stat(path)
    text = f"1 {os.path.abspath(path)} {facts.st_size} {facts.st_mtime_ns}"
    return f"shards/{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def index_shard(path: str) -> dict[str, np.ndarray]:
    """Read the headers of a shard: offset, size, member and label of every picture in it, in the order of the file."""
    rows: list[tuple[int, int, bytes, bytes]] = []
    try:
        with tarfile.open(path, "r:") as archive:
            files = [member for member in archive if member.isfile()]
            _check_end(path, files)
            for key, members in itertools.groupby(files, key=lambda member: sample_key(member.name)):
                rows += _sample(path, key, list(members), archive.extractfile)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"the shard '{path}' cannot be read ({str(error).splitlines()[0]}): copy it again, or leave it out"
            + (" (compressed shards must be unpacked)" if path.endswith(("gz", "bz2", "xz", "zst")) else "")
        ) from error
    if not rows:
        raise UserError(f"the shard '{path}' holds no picture: write it again, or leave it out")
    offsets, sizes, members, labels = zip(*rows, strict=True)
    return {
        "offset": np.array(offsets, dtype=np.int64),
        "size": np.array(sizes, dtype=np.int64),
        "member": np.array(members),
        "label": np.array(labels),
    }


def _check_end(path: str, files: list[tarfile.TarInfo]) -> None:
    """Refuse a shard without the empty block that every tar file ends with: one that was cut off lacks it."""
    if not files:
        return
    with open(path, "rb") as file:
        file.seek(files[-1].offset_data + -(-files[-1].size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it has no end: it was cut off")


def sample_key(name: str) -> str:
    """Return what the files of one sample share: the path up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".")[0]


def _sample(
    path: str, key: str, members: list[tarfile.TarInfo], extract: Callable
) -> list[tuple[int, int, bytes, bytes]]:
    """Return one row for the picture of a sample; samples without a picture (notes, say) give none."""
    pictures = [m for m in members if os.path.splitext(m.name)[1].lower() in IMAGE_SUFFIXES]
    if not pictures:
        return []
    texts = {os.path.splitext(m.name)[1].lower(): m for m in members}
    label = next((_label(path, texts[kind], extract) for kind in LABELS if kind in texts), None)
    if label is None:
        label = os.path.basename(os.path.dirname(key))
    if not label:
        raise UserError(
            f"'{pictures[0].name}' of the shard '{path}' has no label: add {os.path.basename(key)}.cls with its class"
        )
    picture = pictures[0]
    return [(picture.offset_data, picture.size, picture.name.encode(), label.encode())]


def _label(path: str, member: tarfile.TarInfo, extract: Callable) -> str | None:
    try:
        text = extract(member).read().decode("utf-8").strip()
        if member.name.lower().endswith(".cls"):
            return str(int(text)) if text.isdigit() else text
        content = json.loads(text)
        found = next((content[key] for key in JSON_KEYS if key in content), None)
        return None if found is None else str(found)
    except (UnicodeDecodeError, ValueError, TypeError) as error:
        raise UserError(f"the label '{member.name}' of the shard '{path}' is damaged: write the shard again") from error
