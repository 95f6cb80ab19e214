"""Frames by torchcodec, where it and the FFmpeg libraries that it needs are installed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .readers_index import VideoIndex, checked_indices, checked_size, unreadable, walk
from .readers_stills import scale

JUMPS_WRONGLY = ("mpeg1video", "mpeg2video")  # measured with 0.17: after a jump it returns other frames


class TorchcodecReader:
    """Frames of one file; see `video.readers.VideoReader`. Frames are scaled after decoding: it has no option for less.

    source, index, upright: as of `PyavReader`.
    """

    backend = "torchcodec"

    def __init__(self, source: Any, name: str, index: VideoIndex, upright: bool = True) -> None:
        self.name, self.index, self.fps, self.times_s = name, index, index.fps, index.times_s
        self.duration_s, self._upright = index.duration_s, upright
        self.height, self.width = index.upright_size if upright else (index.height, index.width)
        self._source, self._decoder = source, None

    def __len__(self) -> int:
        return len(self.index)

    def __enter__(self) -> TorchcodecReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; it is opened again when more frames are asked for."""
        self._decoder = None

    def frames(self, indices: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the frames at `indices` (T,) as uint8 (T, H, W, 3)."""
        indices = checked_indices(indices, len(self), self.name)
        checked_size(size, (self.height, self.width), len(indices), self.name)
        try:
            decoder = self._open()
            # Whether this release turns frames by itself: then it also tells the rotation.
            turned = getattr(decoder.metadata, "rotation", None) is not None
            if self.index.codec in JUMPS_WRONGLY:
                stored = self.index.upright_size if turned else (self.index.height, self.index.width)
                out = walk(lambda batch: decoder.get_frames_at(batch).data.numpy(), indices, len(self), stored)
            else:
                out = decoder.get_frames_at(indices.tolist()).data.numpy()
        except Exception as error:
            self.close()
            raise unreadable(self.name, f"torchcodec: {(str(error).splitlines() or ['?'])[0]}") from error
        turns = (self.index.rotation // 90) % 4
        if turned != self._upright:
            out = np.rot90(out, turns if self._upright else -turns, axes=(1, 2))
        return scale(np.ascontiguousarray(out), size)

    def _open(self) -> Any:
        from torchcodec.decoders import VideoDecoder

        if self._decoder is None:
            options = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "seek_mode": "exact"}
            self._decoder = VideoDecoder(self._source, stream_index=self.index.stream, **options)
            if len(self._decoder) != len(self.index):
                raise ValueError(f"it counts {len(self._decoder)} frames where there are {len(self.index)}: use pyav")
        return self._decoder
