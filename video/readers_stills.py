"""Videos that need no decoder: folders of extracted frames, and frames in memory or mapped from disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from episodes.errors import UserError

from .readers_index import MAX_PIXELS, checked_indices, checked_size, unreadable

STILL_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FRAME_RATE = 25.0  # of frames that say nothing about it


def scale(frames: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Scale uint8 frames (T, H, W, 3) to `size` (height, width), bilinear over the area; None leaves them alone."""
    if size is None or frames.shape[1:3] == tuple(size):
        return frames
    return np.stack([_scaled(Image.fromarray(frame), size) for frame in frames])


def _scaled(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


class ArrayReader:
    """Frames that are there already; see `video.readers.VideoReader`.

    stills: uint8 (N, H, W, 3), in memory or a memory map. fps: frames a second.
    """

    backend = "array"

    def __init__(self, stills: np.ndarray, name: str, fps: float = FRAME_RATE) -> None:
        if stills.ndim != 4 or stills.shape[-1] != 3 or stills.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 (N, H, W, 3), not {stills.dtype} {stills.shape}")
        if not len(stills):
            raise unreadable(name, "it has no frames")
        self.name, self.fps, self._stills = name, fps, stills
        self.height, self.width = stills.shape[1:3]
        self.times_s, self.duration_s = np.arange(len(stills)) / fps, len(stills) / fps

    def __len__(self) -> int:
        return len(self._stills)

    def __enter__(self) -> ArrayReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: there is no file to give back."""

    def frames(self, indices: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the frames at `indices` (T,) as uint8 (T, H, W, 3)."""
        indices = checked_indices(indices, len(self), self.name)
        checked_size(size, (self.height, self.width), len(indices), self.name)
        return scale(self._stills[indices], size)


def still_files(folder: Path) -> list[Path]:
    """Return the picture files of a folder as frames in order: by the numbers in their names, then by name."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in STILL_SUFFIXES and not p.name.startswith(".")]
    return sorted(files, key=lambda p: ([int(n) for n in re.findall(r"\d+", p.stem)], p.name))


class FolderReader:
    """A folder of extracted frames, one picture file each; see `video.readers.VideoReader`.

    fps: frames a second, which pictures don't say.
    """

    backend = "stills"

    def __init__(self, folder: Path, name: str, fps: float = FRAME_RATE, max_pixels: int = MAX_PIXELS) -> None:
        try:
            self._files = still_files(folder)
        except OSError as error:
            raise unreadable(name, str(error.strerror)) from error
        if not self._files:
            raise unreadable(name, "the folder holds no picture")
        self.name, self.fps = name, fps
        self.times_s, self.duration_s = np.arange(len(self._files)) / fps, len(self._files) / fps
        with self._open(0) as image:
            self.width, self.height = image.size
        if self.width * self.height > max_pixels:
            raise unreadable(name, f"its frames of {self.width} x {self.height} pixels are larger than allowed")

    def __len__(self) -> int:
        return len(self._files)

    def __enter__(self) -> FolderReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: every picture is closed when it has been read."""

    def frames(self, indices: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the frames at `indices` (T,) as uint8 (T, H, W, 3); JPEG at reduced size where that does."""
        wanted, back = np.unique(checked_indices(indices, len(self), self.name), return_inverse=True)
        height, width = checked_size(size, (self.height, self.width), len(back), self.name)
        out = np.empty((len(wanted), height, width, 3), np.uint8)
        for place, index in enumerate(wanted):
            with self._open(int(index)) as image:
                if image.size != (self.width, self.height):
                    raise unreadable(self.name, f"'{self._files[index].name}' has another size than the first frame")
                try:
                    image.draft("RGB", (width, height))
                    image = image.convert("RGB")
                except (OSError, SyntaxError, ValueError) as error:
                    raise unreadable(self.name, f"frame '{self._files[index].name}': {error}") from error
                out[place] = np.asarray(image) if image.size == (width, height) else _scaled(image, (height, width))
        return out[back]

    def _open(self, index: int) -> Image.Image:
        try:
            return Image.open(self._files[index])
        except (OSError, UserError) as error:
            raise unreadable(self.name, f"frame '{self._files[index].name}': {error}") from error
