"""The list of a video's frames, without decoding them where the packets tell: time stamps in presentation order."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from episodes.errors import UserError

# Side x side of the largest frame that is decoded, unless asked otherwise: 8K film has 3.4e7 pixels, 100 MB in RGB.
MAX_PIXELS = 2**26
MAX_BYTES = 2**31  # of the frames that one call returns
# Packets of these codecs may be invisible (VP8) or halves of a frame (interlaced MPEG-2): only decoding tells.
COUNT_BY_DECODING = ("vp8", "mpeg2video", "vc1")


@dataclass(frozen=True)
class VideoIndex:
    """What is known of a file before its frames are decoded.

    pts: (N,) int64 time stamps in presentation order, in units of `time_base` seconds; frame i has pts[i].
    keys: (K,) indices of the frames at which decoding can start, the first is 0.
    height, width: of a frame as it is stored, pixels. fps: mean frames a second.
    rotation: degrees counter-clockwise by which a player turns the frames.
    stream: number of the video stream. codec: its name. damage: what is wrong with the file, None for a whole one.
    """

    pts: np.ndarray
    keys: np.ndarray
    time_base: float
    height: int
    width: int
    fps: float
    rotation: int
    stream: int
    codec: str
    damage: str | None = None

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def times_s(self) -> np.ndarray:
        """Time stamps (N,) in seconds; the first need not be 0."""
        return self.pts * self.time_base

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return float(self.pts[-1] - self.pts[0]) * self.time_base + (1 / self.fps if self.fps else 0.0)

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width as a player shows the frames."""
        return (self.width, self.height) if self.rotation % 180 else (self.height, self.width)


def decoding_errors() -> tuple[type[BaseException], ...]:
    """Return what PyAV raises about a file; whatever else is raised is a mistake of ours."""
    import av

    return (av.FFmpegError, OSError, ValueError)


def open_container(source: Any, name: str) -> Any:
    """Open a file (a path or a binary file object) with PyAV; raises UserError with its `name`."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"PyAV, which lists the frames of videos, does not load ({error}): pip install av") from error
    try:
        return av.open(source, metadata_errors="ignore")
    except decoding_errors() as error:
        size = len(source.getbuffer()) if isinstance(source, io.BytesIO) else None
        raise unreadable(name, "the file is empty" if size == 0 else _reason(error)) from error


def video_stream(container: Any, name: str) -> Any:
    """Return the stream that a player would show; raises UserError for sound alone and for unknown codecs."""
    stream = container.streams.best("video") if container.streams.video else None
    if stream is None:
        what = "it holds sound alone" if container.streams.audio else "it holds no video stream"
        raise unreadable(name, what)
    if stream.codec_context is None:
        raise unreadable(name, "its codec is unknown to this FFmpeg")
    stream.codec_context.thread_count = 1  # loaders run one process a core
    return stream


def unreadable(name: str, reason: str) -> UserError:
    """Return the one error for a video that cannot be read."""
    return UserError(f"cannot read video '{name}' ({reason}): replace it, or leave such files out with --skip-broken")


def scan(source: Any, name: str, *, decode: bool = False, max_pixels: int = MAX_PIXELS) -> VideoIndex:
    """Find the frames of a video.

    source: path or binary file object. decode: decode every frame, instead of reading packets where these tell all.
    max_pixels: refuse larger frames before memory is taken for one.
    A container's own count is never believed: packets are read through (fast; nothing is decoded). They do not tell
    where time stamps are absent or double, or the codec has packets that are no frame; then every frame is decoded.
    The first frame is decoded in any case, on the way: it shows the rotation, that the codec works, and that decoding
    starts at the first packet. A file cut off, or damaged in a way that packets show, has `damage`, and `pts` of the
    frames before it.
    """
    with open_container(source, name) as container:
        stream = video_stream(container, name)
        context = stream.codec_context
        if context.width * context.height > max_pixels:
            raise unreadable(
                name,
                f"its frames of {context.width} x {context.height} pixels are larger than the {max_pixels} allowed",
            )
        base, average, codec = float(stream.time_base), float(stream.average_rate or 0), context.name
        facts = {
            "rotation": 0,
            "stream": stream.index,
            "codec": codec,
            "height": context.height,
            "width": context.width,
        }
        promised, seen, packets, damage, first = stream.frames, 0, [], None, _FirstFrame()
        try:
            for packet in container.demux(stream):
                first.look(packet)
                seen += packet.size > 0 or packet.pts is not None  # AVI has empty packets: "the last frame again"
                if packet.size and not packet.is_discard:  # discarded: what an edit list cuts away
                    packets.append((packet.pts, packet.is_keyframe))
                    damage = damage or ("it is cut off or damaged" if packet.is_corrupt else None)
        except decoding_errors() as error:
            damage = damage or _reason(error)
        if not packets:
            raise unreadable(name, "it has no frames")
        if promised > seen and damage is None and codec not in COUNT_BY_DECODING:
            damage = f"it is cut off: it promises {promised} frames and holds {seen}"
        stamps = [pts for pts, _ in packets]
        unclear = decode or codec in COUNT_BY_DECODING or None in stamps or len(set(stamps)) < len(stamps)
        key_stamps = [pts for pts, key in packets if key]
    alone = not unclear and damage is None
    if alone and first.facts is not None:
        facts.update(first.facts)
        pts, found = [first.pts], None
    else:
        pts, found = _decoded(source, name, first_only=alone, facts=facts)
    if pts[0] is None:
        raise unreadable(name, "its frames have no time stamps")
    if unclear or damage is not None:
        damage = damage or found
    elif pts[0] != min(stamps):  # the first packets cannot be decoded, as in a film cut between its key frames
        pts, damage = _decoded(source, name, first_only=False, facts=facts)
    else:
        pts = sorted(stamps)
    pts = np.array(pts, dtype=np.int64)
    keys = np.searchsorted(pts, np.array([p for p in key_stamps if p is not None], dtype=np.int64))
    span = float(pts[-1] - pts[0]) * base
    rate = average or ((len(pts) - 1) / span if span else 0.0)
    return VideoIndex(pts, np.unique(np.append(keys[keys < len(pts)], 0)), base, fps=rate, damage=damage, **facts)


class _FirstFrame:
    """Decodes packets as they pass by until a frame comes out; `facts` stays None where none does."""

    def __init__(self) -> None:
        self.pts: int | None = None
        self.facts: dict[str, int] | None = None
        self._failed = False

    def look(self, packet: Any) -> None:
        """Take the next packet."""
        if self._failed or self.facts is not None:
            return
        try:
            for frame in packet.decode():
                self.pts = frame.pts
                self.facts = {"rotation": round(frame.rotation), "height": frame.height, "width": frame.width}
                return
        except decoding_errors():  # what is wrong is said when the file is decoded by itself
            self._failed = True


def _decoded(source: Any, name: str, first_only: bool, facts: dict[str, Any]) -> tuple[list[int], str | None]:
    """Decode frames; returns their time stamps in order and what stopped it. Fills in rotation and size in `facts`."""
    stamps: list[int] = []
    damage = None
    if hasattr(source, "seek"):
        source.seek(0)
    with open_container(source, name) as container:
        try:
            for frame in container.decode(video_stream(container, name)):
                if not stamps:
                    facts.update(rotation=round(frame.rotation), height=frame.height, width=frame.width)
                if frame.is_corrupt and stamps:
                    damage = f"frame {len(stamps)} is damaged"
                    break
                stamps.append(frame.pts)
                if first_only:
                    break
        except decoding_errors() as error:
            damage = f"decoding fails after {len(stamps)} frames: {_reason(error)}"
    if hasattr(source, "seek"):
        source.seek(0)
    if not stamps:
        raise unreadable(name, damage or "it has no frames")
    return stamps, damage


def _reason(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or error)
    return text[:1].lower() + text[1:] or type(error).__name__


def checked_indices(indices: Any, count: int, name: str) -> np.ndarray:
    """Return frame indices (T,) within 0..count-1; negative ones count from the end, as everywhere in Python."""
    indices = np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(indices) and not -count <= indices.min() <= indices.max() < count:
        wrong = indices.max() if indices.max() >= count else indices.min()
        raise IndexError(f"video '{name}' has the frames 0..{count - 1}, not {wrong}")
    return indices % count


def checked_size(size: tuple[int, int] | None, shown: tuple[int, int], count: int, name: str) -> tuple[int, int]:
    """Return the height and width to decode at; raises UserError when `count` such frames take too much memory."""
    height, width = size or shown
    if min(height, width) < 1:
        raise ValueError(f"frames of {height} x {width} pixels cannot be made: give a size of at least 1 x 1")
    if count * height * width * 3 > MAX_BYTES:
        raise unreadable(
            name,
            f"{count} frames of {width} x {height} pixels need more than {MAX_BYTES // 2**30} GB: ask for fewer, "
            "or for smaller ones",
        )
    return height, width


def walk(
    read: Callable[[list[int]], np.ndarray], indices: np.ndarray, count: int, size: tuple[int, int], step: int = 8
) -> np.ndarray:
    """Return the frames at `indices` by reading all before them too, for decoders that jump to the wrong place.

    read: indices -> uint8 (T, H, W, 3). size: height and width. step: frames in memory at once on the way.
    """
    out = np.empty((len(indices), *size, 3), np.uint8)
    for start in range(0, int(indices.max(initial=-1)) + 1, step):
        batch = read(list(range(start, min(start + step, count))))
        here = np.flatnonzero((indices >= start) & (indices < start + step))
        out[here] = batch[indices[here] - start]
    return out
