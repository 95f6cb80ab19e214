"""Decoded clips on disk, for machines that decode slowly: small uint8 frames in one mapped file, with checksums.

A store is a folder: `clips.bin` holds the frames of one video after the other, `clips.json` what they are of and where
each video lies. Rows are named in the JSON only after their bytes have reached the disk, so a killed run goes on where
it stood.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from episodes.errors import UserError
from episodes.fingerprint import dataset_key
from episodes.progress import Progress
from episodes.run import write_json
from episodes.sources.cache import cache_folder

from .clips import ClipSet
from .clips_check import Report, failed
from .clips_crops import short_side
from .crew import in_processes
from .frames import segment_indices
from .readers import Opener
from .readers_stills import ArrayReader

FORMAT = "covey-clips-1"
HEADER, FRAMES = "clips.json", "clips.bin"
EVERY = 64  # videos after which the header is written


@dataclass(frozen=True)
class Row:
    """Where a video lies in the file: bytes from `offset` on hold uint8 (frames, height, width, 3)."""

    offset: int
    frames: int
    height: int
    width: int
    fps: float
    checksum: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.frames * self.height * self.width * 3


def cached_clips(
    dataset: ClipSet,
    side: int = 128,
    max_frames: int | None = None,
    folder: str | Path | None = None,
    *,
    workers: int = 2,
    limit_s: float = 300.0,
    verify: bool = True,
    show: bool = True,
    say: Callable[[str], None] = print,
) -> ClipSet:
    """Return the same videos, read from a store of decoded frames; what it lacks is decoded and kept.

    side: short side of the kept frames, pixels (smaller videos are enlarged); take the short side of the view, or more.
    max_frames: keep at most so many frames of a video, spread evenly; None keeps all.
    folder: of all stores; default clips/ in the cache folder (COVEY_CACHE, else ~/.cache/covey).
    workers: processes that decode. limit_s: seconds for one video.
    verify: compare every checksum, which reads the whole file once; False looks at its size alone.
    Raises UserError that names videos which cannot be read, and for a disk that is full or cannot be written.
    """
    if side < 1 or (max_frames is not None and max_frames < 1):
        raise UserError(f"a store of clips needs side >= 1 and max_frames >= 1, not {side} and {max_frames}")
    upright = getattr(getattr(dataset.read, "opener", dataset.read), "upright", True)
    parts = {"dataset": dataset_key(dataset), "side": side, "max_frames": max_frames, "upright": upright}
    root = Path(folder) if folder is not None else cache_folder() / "clips"
    path = root / hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{path}.lock"):
            rows = _sound_rows(path, parts, len(dataset), verify, say)
            todo = [item for item, row in enumerate(rows) if row is None]
            if todo:
                work = functools.partial(decode, dataset.read, side=side, max_frames=max_frames)
                _fill(path, parts, rows, dataset, todo, work, workers, limit_s, show)
    except OSError as error:
        what = "is full" if error.errno == errno.ENOSPC else f"cannot be used ({error.strerror or error})"
        raise UserError(f"the folder of decoded clips '{path}' {what}: give another folder, or do without") from error
    read = CacheOpener(str(path))
    return ClipSet(dataset.names, dataset.labels, dataset.class_names, read, dataset.origin, dataset.flip)


class CacheOpener:
    """Opens videos of a store by the names that they had; picklable, mapped once per process."""

    harmless = True  # runs no decoder

    def __init__(self, folder: str) -> None:
        self.folder, self.path = folder, os.path.join(folder, FRAMES)
        self._rows: dict[str, Row] | None = None

    def __call__(self, name: str) -> ArrayReader:
        """Return the video's frames; only those that are asked for are read from disk."""
        if self._rows is None:
            content = json.loads((Path(self.folder) / HEADER).read_text())
            self._rows = {n: Row(*row) for n, row in zip(content["names"], content["rows"], strict=True)}
            self._bytes = np.memmap(self.path, np.uint8, mode="r")
        row = self._rows[name]
        stills = self._bytes[row.offset : row.offset + row.size].reshape(row.frames, row.height, row.width, 3)
        return ArrayReader(stills, name, row.fps)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "path": self.path, "_rows": None}


def decode(read: Opener, name: str, side: int, max_frames: int | None) -> tuple[np.ndarray, float] | Report:
    """Return a video's frames at a short side of `side`, and how many there are a second; or why there are none."""
    try:
        with read(name) as video:
            count = len(video)
            kept = np.arange(count) if max_frames is None or count <= max_frames else segment_indices(count, max_frames)
            size = short_side(video.height, video.width, side)
            frames = [video.frames(kept[start : start + 64], size) for start in range(0, len(kept), 64)]
            return np.concatenate(frames), video.fps * len(kept) / count
    except (UserError, OSError) as error:
        return failed(error, name)


def _sound_rows(
    path: Path, parts: dict[str, Any], count: int, verify: bool, say: Callable[[str], None]
) -> list[Row | None]:
    """Return where each video lies, None for those that are not there as they were written."""
    try:
        content = json.loads((path / HEADER).read_text())
        rows = [None if row is None else Row(*row) for row in content["rows"]]
        if content["format"] != FORMAT or content["parts"] != parts or len(rows) != count:
            raise ValueError("another store")
        size = (path / FRAMES).stat().st_size
    except (OSError, ValueError, TypeError, LookupError):
        return [None] * count
    bad = []
    with open(path / FRAMES, "rb") as file:
        for item, row in enumerate(rows):
            if row is None:
                continue
            whole = row.offset + row.size <= size
            if whole and verify:
                file.seek(row.offset)
                whole = zlib.crc32(file.read(row.size)) == row.checksum
            if not whole:
                bad.append(item)
    for item in bad:
        rows[item] = None
    if bad:
        say(f"{len(bad)} videos of '{path / FRAMES}' are cut off or damaged: decoding them again")
    return rows


def _fill(path, parts, rows, dataset, todo, work, workers, limit_s, show) -> None:
    """Decode the videos `todo` and append them."""
    problems: list[tuple[int, str]] = []
    end = max((row.offset + row.size for row in rows if row is not None), default=0)
    tasks = [dataset.names[item] for item in todo]
    unsaved = 0
    with open(path / FRAMES, "r+b" if (path / FRAMES).exists() else "w+b") as file:
        file.truncate(end)  # what was written and not named
        file.seek(end)
        with Progress(len(rows), "decoding", len(rows) - len(todo), on=show) as bar:
            for position, found in in_processes(work, tasks, workers, limit_s):
                bar.advance()
                if not isinstance(found, tuple):
                    problems.append((todo[position], getattr(found, "problem", None) or str(found)))
                    continue
                frames, fps = found
                content = np.ascontiguousarray(frames).data
                file.write(content)
                rows[todo[position]] = Row(end, *frames.shape[:3], fps, zlib.crc32(content))
                end, unsaved = end + frames.nbytes, unsaved + 1
                if unsaved >= EVERY:
                    _save(path, file, parts, rows, dataset.names)
                    unsaved = 0
        _save(path, file, parts, rows, dataset.names)
    if problems:
        item, reason = problems[0]
        raise UserError(
            f"{len(problems)} of {len(rows)} videos cannot be read, the first is {dataset.where(item)} ({reason}): "
            "replace them, or leave such files out with --skip-broken"
        )


def _save(path: Path, file: Any, parts: dict[str, Any], rows: list[Row | None], names: list[str]) -> None:
    file.flush()
    os.fsync(file.fileno())
    listed = [None if row is None else list(asdict(row).values()) for row in rows]
    write_json(path / HEADER, {"format": FORMAT, "parts": parts, "names": names, "rows": listed})
