"""Features of a frozen encoder on disk: computed once, checked when opened, read without loading them all.

A store is a folder <folder>/<key>, where the key is a hash of weights, data set, preparation of the pictures and dtype.
Other weights therefore have another store. In it, `features.bin` holds the rows one after the other and `store.json`
says what they are, and has the checksum of every finished block of rows. A block is marked as finished after its bytes
have reached the disk, so a killed run goes on at the block where it stood. A lock of the operating system, which dies
with its process, keeps a second writer waiting until the first is done.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor

from episodes.blocks import HEADER, ROWS, Header, create, inspect, write_block
from episodes.errors import UserError
from episodes.evaluate import encode_batch
from episodes.fingerprint import dataset_key, picture_facts
from episodes.loaders import Pictures
from episodes.processes import ALONE, Team, assist, leading, together
from episodes.progress import Progress
from episodes.sources.cache import cache_folder

DTYPES = ("float32", "float16")
# Ranges of items (first, behind the last) -> each with the rows of its features.
Share = Callable[[Sequence[tuple[int, int]]], Iterator[tuple[tuple[int, int], np.ndarray]]]
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class FeatureStore:
    """Features of N items, mapped from disk: only the rows that are asked for are read, and the system keeps them.

    path: the store's folder. shape: (N, ...). parts: what the features are of. row_bytes: of one row in float32.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.parts, self.shape = path, header.parts, tuple(header.shape)
        self._rows = np.memmap(path / ROWS, header.parts["dtype"], mode="r", shape=self.shape)
        self.row_bytes = 4 * int(np.prod(self.shape[1:], dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def gather(self, indices: np.ndarray, out: Tensor | None = None) -> Tensor:
        """Return the rows at `indices` (E, S) as float32 (E, S, ...).

        out: contiguous tensor of that shape to write to; fresh memory can cost more than the copy.
        """
        flat = np.asarray(indices).reshape(-1)
        # as unsigned numbers, negative ones are huge: one pass finds both ends
        if len(flat) and flat.astype(np.int64, copy=False).view(np.uint64).max() >= len(self):
            bad = flat.min() if flat.min() < 0 else flat.max()
            raise IndexError(f"item {bad} is not in the feature store '{self.path}' of {len(self)} items")
        if out is None:
            # NumPy asks the system for large pages, torch does not: first writes to fresh memory cost half
            out = torch.from_numpy(np.empty((*np.shape(indices), *self.shape[1:]), np.float32))
        rows = out.view(-1, *self.shape[1:]).numpy()
        if self._rows.dtype == rows.dtype:
            self._rows.take(flat, axis=0, out=rows, mode="clip")  # in range as checked; the other modes copy twice
        else:
            rows[...] = self._rows.take(flat, axis=0, mode="clip")
        return out

    def mean(self, rows: int = 1024) -> Tensor:
        """Return the mean row (...), float32, added up in float64; `rows` of them are in memory at a time."""
        total = np.zeros(self.shape[1:])
        for start in range(0, len(self), rows):
            total += self._rows[start : start + rows].sum(0, dtype=np.float64)
        return torch.from_numpy((total / len(self)).astype(np.float32))

    def tensor(self) -> Tensor:
        """Return all features in memory, float32 (N, ...)."""
        return torch.from_numpy(self._rows.astype(np.float32))


def open_features(
    encode: Callable[[Tensor], Tensor],
    pictures: Pictures,
    weights_key: str,
    folder: str | Path | None = None,
    dtype: str = "float32",
    *,
    batch_size: int = 128,
    block_rows: int = 256,
    device: torch.device | str = "cpu",
    verify: bool = True,
    show: bool = True,
    say: Callable[[str], None] = print,
    team: Team = ALONE,
) -> FeatureStore:
    """Open the store of a data set's features; what it lacks, and what is damaged, is computed and kept.

    encode: images (B, 3, S, S) -> (B, ...), in eval mode. weights_key: see `episodes.fingerprint.weights_key`.
    folder: of all stores; default features/ in the cache folder (COVEY_CACHE, else ~/.cache/covey).
    dtype: float32, or float16, which halves the file and rounds to three digits.
    block_rows: of a new store; a killed run loses a block at most.
    verify: compare every checksum, which reads the whole file once; False looks at its size alone.
    say: receives a line when it goes on, waits for another process, or mends a damaged store.
    team: processes that call this together: each computes blocks, and the first one checks and writes them.
    Raises UserError for augmented pictures, features that are not finite (or too large for float16), and a disk that is
    full or cannot be written.
    """
    if dtype not in DTYPES:
        raise UserError(f"features are stored as {' or '.join(DTYPES)}, not {dtype}")
    if not len(pictures.dataset):
        raise UserError("there are no images to represent: the data set is empty")
    parts, path = _place(pictures, weights_key, folder, dtype)
    work = functools.partial(_represent, encode, pictures, dtype, batch_size, device)
    with together(team):
        if team.main:
            with leading(team, work) as share:
                store = _open_or_compute(path, parts, share, len(pictures.dataset), block_rows, verify, show, say)
        else:
            assist(team, work)
    with together(team):
        return store if team.main else _read_of_main(path, weights_key)


def bytes_to_write(
    row_bytes: int, pictures: Pictures, weights_key: str, folder: str | Path | None = None, dtype: str = "float32"
) -> int:
    """Return how many more bytes `open_features` will take on disk.

    row_bytes: of one row as it is stored. The other arguments are those of `open_features`.
    """
    rows = _place(pictures, weights_key, folder, dtype)[1] / ROWS
    there = rows.stat().st_blocks * 512 if rows.is_file() else 0  # a file that is being filled has holes
    return max(0, row_bytes * len(pictures.dataset) - there)


def _place(pictures: Pictures, weights_key: str, folder: str | Path | None, dtype: str) -> tuple[dict[str, Any], Path]:
    """Return what the features of a store are of, and its folder."""
    parts = {"weights": weights_key, "dataset": dataset_key(pictures.dataset), "pictures": picture_facts(pictures)}
    parts["dtype"] = dtype
    root = Path(folder) if folder is not None else cache_folder() / "features"
    return parts, root / _hash(parts)


def _open_or_compute(
    path: Path,
    parts: dict[str, Any],
    share: Share,
    count: int,
    block_rows: int,
    verify: bool,
    show: bool,
    say: Callable[[str], None],
) -> FeatureStore:
    """Do what the first process does in `open_features`. share: gives the features of ranges of items, one by one."""
    try:
        with _locked(path, say):
            header = inspect(path, parts, verify, lambda text: say(f"{text}: computing what is missing"))
            if header is None or header.missing():
                header = _compute(path, header, parts, share, count, block_rows, show)
    except OSError as error:
        if error.errno in READ_ONLY and (path / HEADER).is_file():  # somebody else's, which can still be read
            return read_features(path, parts["weights"], verify)
        raise UserError(
            f"cannot keep features in '{path}' ({error.strerror or error}): give another folder, or do without a store"
        ) from error
    return FeatureStore(path, header)


def _read_of_main(path: Path, weights_key: str) -> FeatureStore:
    """Open what the first process has just checked or written."""
    if not (path / HEADER).is_file():
        raise UserError(
            f"the feature store '{path}' of the first process is not to be seen from this node: "
            "give a folder on a disk that all nodes share, or keep features in memory"
        )
    return read_features(path, weights_key, verify=False)


def read_features(path: str | Path, weights_key: str | None = None, verify: bool = True) -> FeatureStore:
    """Open the finished store in this very folder, without an encoder to mend it.

    weights_key: what the features must have been computed with.
    Raises UserError when there is no store, it is unfinished, cut off or damaged, or of other weights.
    """
    path, said = Path(path), []
    header = inspect(path, {"weights": weights_key} if weights_key else {}, verify, said.append)
    if header is None:
        raise UserError(f"there is no feature store in '{path}'" + "".join(f" ({text})" for text in said))
    if header.missing():
        reason = said[0] if said else "it is unfinished"
        raise UserError(f"the feature store '{path}' can't be read: {reason}; open it with its encoder to complete it")
    return FeatureStore(path, header)


def _hash(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


@contextlib.contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a store; it lies beside the folder, so that the folder may be deleted at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"another process is computing the features of '{path}': waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _compute(
    path: Path, header: Header | None, parts: dict[str, Any], share: Share, count: int, block_rows: int, show: bool
) -> Header:
    """Compute and write the blocks that are missing; returns the header of the whole store. count: of all items."""
    size = header.block_rows if header else block_rows
    todo = header.missing() if header else list(range(-(-count // size)))
    done = count - sum(min(size, count - block * size) for block in todo)
    for left in path.glob(".*.tmp"):  # of a killed run
        left.unlink()
    with Progress(count, "features", done, on=show) as bar:
        ranges = [(block * size, min((block + 1) * size, count)) for block in todo]
        for (start, stop), content in share(ranges):
            if header is None:
                header = create(path, parts, [count, *content.shape[1:]], size)
            write_block(path, header, start // size, content)
            bar.advance(stop - start)
    return header


def _represent(
    encode: Callable[[Tensor], Tensor],
    pictures: Pictures,
    dtype: str,
    batch_size: int,
    device: torch.device | str,
    items: tuple[int, int],
) -> np.ndarray:
    """Return the rows of a range of items, in the same batches whether a run is resumed, or shared out, or not."""
    rows = []
    for start in range(*items, batch_size):
        part = np.arange(start, min(start + batch_size, items[1]))
        rows.append(_cast(encode_batch(encode, pictures, part, device).cpu(), dtype, part))
    return np.concatenate(rows)


def _cast(features: Tensor, dtype: str, items: np.ndarray) -> np.ndarray:
    if dtype == "float16" and float(features.abs().max()) > torch.finfo(torch.float16).max:
        bad = int((features.flatten(1).abs() > torch.finfo(torch.float16).max).any(1).nonzero()[0])
        raise UserError(
            f"the features of item {items[bad]} reach {float(features.abs().max()):.3g}, which float16 can't hold: "
            "keep them as float32"
        )
    return np.ascontiguousarray(features.numpy(), dtype)  # a network may lay its channels out last
