"""Frames by PyAV, which brings an FFmpeg of its own: from the last key frame on, and nothing that nobody needs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from .readers_index import (
    VideoIndex,
    checked_indices,
    checked_size,
    decoding_errors,
    open_container,
    unreadable,
    video_stream,
)

# Decoders of these skip frames that no other frame refers to without changing the others. (In HEVC such a frame may
# still be needed by one of a higher temporal layer.)
SKIPS = ("h264", "mpeg4", "mpeg1video")


class PyavReader:
    """Frames of one file; see `video.readers.VideoReader`.

    source: path, or a binary file object, which no other reader may share. index: of `readers_index.scan`.
    upright: turn frames as the file's rotation says.
    """

    backend = "pyav"

    def __init__(self, source: Any, name: str, index: VideoIndex, upright: bool = True) -> None:
        from av.video.reformatter import VideoReformatter

        self.name, self.index, self.fps, self.times_s = name, index, index.fps, index.times_s
        self.duration_s, self._turns = index.duration_s, (index.rotation // 90) % 4 if upright else 0
        self.height, self.width = index.upright_size if upright else (index.height, index.width)
        self._source, self._container, self._reformatter = source, None, VideoReformatter()

    def __len__(self) -> int:
        return len(self.index)

    def __enter__(self) -> PyavReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; it is opened again when more frames are asked for."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def frames(self, indices: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the frames at `indices` (T,) as uint8 (T, H, W, 3); each is decoded once, however often asked for.

        size: height and width to scale to while decoding (bilinear over the area); default: as shown by a player.
        """
        wanted, back = np.unique(checked_indices(indices, len(self), self.name), return_inverse=True)
        height, width = checked_size(size, (self.height, self.width), len(back), self.name)
        if self._turns % 2:
            height, width = width, height
        out = np.empty((len(wanted), height, width, 3), np.uint8)
        key_of = np.searchsorted(self.index.keys, wanted, side="right") - 1
        for key in np.unique(key_of):
            self._decode(int(key), wanted, np.flatnonzero(key_of == key), out)
        if self._turns:
            out = np.ascontiguousarray(np.rot90(out, self._turns, axes=(1, 2)))
        return out if len(back) == len(wanted) and (back[1:] > back[:-1]).all() else out[back]

    def _decode(self, key: int, wanted: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """Fill `out[places]` with the frames `wanted[places]`, which all lie between key frame `key` and the next."""
        pending = {int(self.index.pts[wanted[place]]): int(place) for place in places}
        unsent = set(pending)
        try:
            packets = self._packets_from(key)
            context = self._stream.codec_context
            skips = context.name in SKIPS
            for packet in packets:
                if skips:
                    context.skip_frame = "DEFAULT" if packet.pts in pending else "NONREF"
                self._keep(context.decode(packet), pending, out)
                unsent.discard(packet.pts)
                if not unsent:  # what is still inside the decoder comes out without more packets
                    self._keep(context.decode(None), pending, out)
                    break
        except decoding_errors() as error:
            self.close()
            number = int(wanted[places[0]])
            raise unreadable(
                self.name, f"decoding fails before or at frame {number} of {len(self)}: {error}"
            ) from error
        if pending:
            self.close()
            number = int(wanted[min(pending.values())])
            raise unreadable(self.name, f"frame {number} of {len(self)} cannot be decoded")

    def _keep(self, frames: Any, pending: dict[int, int], out: np.ndarray) -> None:
        height, width = out.shape[1:3]
        for frame in frames:
            place = pending.pop(frame.pts, None)
            if place is not None:
                if frame.is_corrupt:
                    raise ValueError("the picture is damaged")
                same = (frame.height, frame.width) == (height, width)
                how = {} if same else {"interpolation": "BILINEAR"}
                frame = self._reformatter.reformat(frame, width, height, "rgb24", **how)
                out[place] = frame.to_ndarray()

    def _packets_from(self, key: int):
        """Return an iterator over packets that starts with the one of key frame `key`.

        A seek may land elsewhere: earlier is skipped over, later is tried again from further before.
        """
        pts = int(self.index.pts[self.index.keys[key]])
        for before in (key, key - 1, key - 4):
            if before < 0 or (before == 0 and self._container is None):
                break
            self._open()
            self._container.seek(int(self.index.pts[self.index.keys[before]]), stream=self._stream)
            packets = self._demux_from(pts)
            if packets is not None:
                return packets
        self.close()
        self._open()
        packets = self._demux_from(pts)
        if packets is None:
            raise ValueError("its key frames cannot be found again")
        return packets

    def _demux_from(self, pts: int):
        packets = self._container.demux(self._stream)
        for packet in packets:
            if packet.pts == pts and packet.size:
                return _chain(packet, packets)
            if packet.pts is not None and packet.pts > pts and packet.is_keyframe:
                return None
        return None

    def _open(self) -> None:
        if self._container is None:
            if isinstance(self._source, io.IOBase):
                self._source.seek(0)
            self._container = open_container(self._source, self.name)
            self._stream = video_stream(self._container, self.name)


def _chain(first: Any, rest: Any):
    yield first
    for packet in rest:
        if packet.size:
            yield packet
