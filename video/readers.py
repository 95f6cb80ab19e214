"""Read videos: one small interface over PyAV, decord, torchcodec, folders of frames, and packs of clips.

Frame i is the i-th frame that a player shows, whatever the backend: with a variable frame rate, B-frames, a clock that
starts late, a container that counts wrongly. Frames are turned upright as the file's rotation says (phones; decord does
that by itself, so TAMT's reference did it too), unless `upright=False`. Pixel aspect ratios are left alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from episodes.errors import UserError, nearest

from .readers_index import MAX_PIXELS, VideoIndex, scan, unreadable

BACKENDS = {  # in the order in which `auto` tries them
    "pyav": ("av", "video.readers_pyav", "PyavReader"),
    "decord": ("decord", "video.readers_decord", "DecordReader"),
    "torchcodec": ("torchcodec", "video.readers_torchcodec", "TorchcodecReader"),
}
INSTALL = {
    "pyav": "pip install av",
    "decord": "pip install decord, which has wheels for Linux on x86-64 alone",
    "torchcodec": "pip install -r requirements-torchcodec.txt, and FFmpeg's libraries with the system's packages",
}
MEMBER = "!/"  # between a pack and the name of a clip in it: clips.zip!/walk/3.mp4


@runtime_checkable
class VideoReader(Protocol):
    """An open video; a context manager.

    height, width: of frames as they are returned, pixels. fps: mean frames a second. duration_s: seconds.
    times_s: (N,) time stamp of every frame. backend: who decodes.
    """

    name: str
    backend: str
    height: int
    width: int
    fps: float
    duration_s: float
    times_s: np.ndarray

    def __len__(self) -> int: ...

    def frames(self, indices: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return uint8 (T, H, W, 3) RGB; indices may repeat and come in any order, size is (height, width)."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> VideoReader: ...

    def __exit__(self, *error: object) -> None: ...


def working_backend(backend: str = "auto") -> str:
    """Return the backend to use: the one named, or for `auto` the first that is installed and loads.

    Raises UserError when it is unknown or does not load. The index of frames always comes from PyAV, which `auto`
    prefers: it decodes as fast as decord (see `tools.bench clips`), knows all codecs, and has wheels everywhere.
    """
    if backend not in ("auto", *BACKENDS):
        raise UserError(f"there is no video backend '{backend}'{nearest(backend, ['auto', *BACKENDS])}")
    reasons = []
    for name in BACKENDS if backend == "auto" else [backend]:
        try:
            importlib.import_module(BACKENDS[name][0])
            return name
        except (ImportError, OSError, RuntimeError) as error:  # torchcodec without FFmpeg: RuntimeError
            reasons.append(f"{name}: {str(error).splitlines()[0]}")
    if backend == "auto":
        raise UserError(f"no video can be decoded ({'; '.join(reasons)}): {INSTALL['pyav']}")
    raise UserError(f"the video backend {reasons[0].replace(':', ' does not load (', 1)}): {INSTALL[backend]}")


@dataclass
class VideoOpener:
    """Opens videos by name, `opener(name) -> VideoReader`; picklable, and opens nothing by itself.

    A name is a file, a folder of frames, or a clip in a pack, as in ``clips.zip!/walk/3.mp4``.
    backend: auto, pyav, decord or torchcodec. upright: turn frames as the file's rotation says.
    damaged: refuse files that are cut off or damaged, or keep the frames before the damage (`prefix`; every file is
        then decoded once, which is slow).
    max_pixels: of the largest frame. fps: of folders of frames.
    """

    backend: str = "auto"
    upright: bool = True
    damaged: Literal["refuse", "prefix"] = "refuse"
    max_pixels: int = MAX_PIXELS
    fps: float = 25.0
    _known: dict[Any, VideoIndex] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, name: str) -> VideoReader:
        """Open a video; raises UserError with its name when there is nothing that can be read."""
        name = os.fspath(name)
        pack, _, member = name.partition(MEMBER)
        if not member and os.path.isdir(name):
            from .readers_stills import FolderReader

            return FolderReader(Path(name), name, self.fps, self.max_pixels)
        facts = _facts(pack if member else name, name)
        source: Any = read_member(pack, member) if member else name
        key = (name, facts)
        if key not in self._known:
            if len(self._known) >= 8192:
                self._known.pop(next(iter(self._known)))
            self._known[key] = scan(source, name, decode=self.damaged == "prefix", max_pixels=self.max_pixels)
        index = self._known[key]
        if index.damage is not None and self.damaged == "refuse":
            raise unreadable(name, index.damage)
        _, module, reader = BACKENDS[working_backend(self.backend)]
        return getattr(importlib.import_module(module), reader)(source, name, index, self.upright)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}}  # workers look for themselves


def open_video(name: str | Path, backend: str = "auto", **options: Any) -> VideoReader:
    """Open one video: ``with open_video("run.mp4") as video: clip = video.frames([0, 10, 20])``.

    options: of `VideoOpener`.
    """
    return VideoOpener(backend, **options)(os.fspath(name))


def _facts(path: str, name: str) -> tuple[int, int]:
    try:
        facts = os.stat(path)
    except OSError as error:
        raise unreadable(name, _lower(error.strerror or str(error))) from error
    if not facts.st_size:
        raise unreadable(name, "the file is empty")
    return facts.st_size, facts.st_mtime_ns


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


_archives: dict[tuple[str, int], zipfile.ZipFile] = {}


def read_member(pack: str, member: str) -> io.BytesIO:
    """Return a clip of a zip file, in memory; the archive stays open, once per process."""
    key = (pack, os.getpid())  # forked workers must not share a file position
    try:
        if key not in _archives:
            for old in [k for k in _archives if k[1] != os.getpid() or len(_archives) > 16]:
                del _archives[old]
            _archives[key] = zipfile.ZipFile(pack)
        return io.BytesIO(_archives[key].read(member))
    except KeyError:
        raise unreadable(f"{pack}{MEMBER}{member}", "there is no such clip in the pack") from None
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        _archives.pop(key, None)
        raise unreadable(f"{pack}{MEMBER}{member}", _lower(str(error))) from error


Opener = Callable[[str], VideoReader]
