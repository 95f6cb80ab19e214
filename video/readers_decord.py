"""Frames by decord 0.6: a wheel of 2021 for Linux on x86-64, with an FFmpeg of its own."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from .readers_index import VideoIndex, checked_indices, checked_size, unreadable, walk

# Where decord 0.6 seeks to the frame that was asked for. After a seek in HEVC or MPEG-1, say, it returns others
# (measured), so there the frames before are decoded too.
SEEKS = ("h264", "mpeg4", "mjpeg", "vp9", "ffv1")


class DecordReader:
    """Frames of one file; see `video.readers.VideoReader`. decord turns frames as the file's rotation says, by itself.

    source, index, upright: as of `PyavReader`; the frames are numbered by `index`, and decord must count as many.
    """

    backend = "decord"

    def __init__(self, source: Any, name: str, index: VideoIndex, upright: bool = True) -> None:
        self.name, self.index, self.fps, self.times_s = name, index, index.fps, index.times_s
        self.duration_s, self._turns_back = index.duration_s, 0 if upright else -(index.rotation // 90) % 4
        self.height, self.width = index.upright_size if upright else (index.height, index.width)
        self._source, self._reader, self._size = source, None, None

    def __len__(self) -> int:
        return len(self.index)

    def __enter__(self) -> DecordReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; it is opened again when more frames are asked for."""
        self._reader = self._size = None

    def frames(self, indices: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the frames at `indices` (T,) as uint8 (T, H, W, 3), scaled while decoding if `size` is given."""
        indices = checked_indices(indices, len(self), self.name)
        height, width = checked_size(size, (self.height, self.width), len(indices), self.name)
        if self._turns_back % 2:
            height, width = width, height
        try:
            reader = self._open(height, width)
            if self.index.codec in SEEKS:
                out = _array(reader.get_batch(indices.tolist()))
            else:
                self.close()  # the position will be moved; the next call starts anew
                out = walk(lambda batch: _array(reader.get_batch(batch)), indices, len(self), (height, width))
        except Exception as error:
            self.close()
            raise unreadable(self.name, f"decord: {_first_line(error)}") from error
        if out.shape[1:3] != (height, width):
            raise unreadable(self.name, f"decord returns frames of {out.shape[2]} x {out.shape[1]} pixels")
        return np.ascontiguousarray(np.rot90(out, self._turns_back, axes=(1, 2))) if self._turns_back else out

    def _open(self, height: int, width: int) -> Any:
        """Return decord's reader at a size of the turned frames; it must be opened anew for every size."""
        import decord

        if self._size != (height, width):
            source = self._source
            if isinstance(source, io.IOBase):
                source.seek(0)
            stored = self.index.upright_size == (height, width)
            scale = {} if stored else {"width": width, "height": height}
            self._reader = decord.VideoReader(source, num_threads=1, **scale)
            self._size = (height, width)
            if len(self._reader) != len(self.index):
                raise ValueError(f"it counts {len(self._reader)} frames where there are {len(self.index)}: use pyav")
        return self._reader


def _array(batch: Any) -> np.ndarray:
    return batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)  # decord's bridge may be torch's


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
