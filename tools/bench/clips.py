"""Bench: from a video file to a clip of 16 frames at 112 px, against decoders called in the plain way.

Our side returns the normalised tensor; the others only decode the same frames at the size of the film ("decode"), or
crop, resize and normalise them too ("with transforms"). A first look reads the list of the film's frames as well, which
later looks by the same loader know. "Whole frames first" is TAMT's order, which augments 16 whole frames and then
crops. The film: ten seconds of moving blobs at 25 frames a second, H.264, a key frame every 2 s.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from tools.bench.case import Case, PeerMissing

SIZES = {"240p": (240, 320), "720p": (720, 1280)}
SECONDS, RATE, FRAMES, SIDE = 10, 25, 16, 112
CLIPS = 4  # a call
# Seconds of the released code's transform of a clip, without decoding, on another machine (mean of six draws).
PUBLISHED = {"240p": "0.09 s, decoding excluded", "720p": "1.0 s, decoding excluded"}


def cases(device: str = "cpu") -> Iterator[Case | PeerMissing]:
    """One unit is one clip; runs on the CPU alone. decord is left out where it is not installed."""
    folder = Path(tempfile.mkdtemp(prefix="covey-bench-"))
    try:
        for name, size in SIZES.items():
            film = write_film(folder / f"{name}.mp4", *size)
            plain = functools.partial(repeat, functools.partial(pyav_decode, film))
            for view in ("center", "train"):
                yield case(name, f"{view}, first look", ours(film, view), plain, "PyAV decode")
                yield case(name, f"{view}, later looks", ours(film, view, known=True), plain, "PyAV decode")
            whole = ours(film, "reference", known=True)
            yield replace(
                case(name, "train, later looks", ours(film, "train", known=True), whole, "whole frames first"),
                facts={"published, whole frames first": PUBLISHED[name]} if name in PUBLISHED else {},
            )
            try:
                import decord  # noqa: F401
            except (ImportError, OSError) as error:
                yield PeerMissing(
                    f"decord, which this case compares with, can't be imported ({error}): pip install decord"
                )
                continue
            for what, run in (("decord decode", decord_decode), ("decord with transforms", decord_clip)):
                other = functools.partial(repeat, functools.partial(run, film))
                yield case(name, "center, first look", ours(film, "center"), other, what)
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def case(size: str, look: str, ours: Callable[[], None], other: Callable[[], None], other_name: str) -> Case:
    """Return a case; CPU time, since other load on the machine would decide otherwise."""
    shape = f"{size}, {FRAMES} of {SECONDS * RATE} frames, {look}"
    return Case("clips", shape, ours, other, other_name, unit_count=CLIPS, clock="process")


def write_film(path: Path, height: int, width: int) -> Path:
    """Write the film."""
    import av
    from PIL import Image

    rng = np.random.default_rng(0)
    blobs = Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)).resize((2 * width, 2 * height))
    scene = np.asarray(blobs)
    options = {"preset": "veryfast", "crf": "23", "g": str(2 * RATE), "threads": "1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE), options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for i in range(SECONDS * RATE):
            top, left = height * i // (SECONDS * RATE), (width * (1 + np.sin(i / 20)) / 2).astype(int)
            part = np.ascontiguousarray(scene[top : top + height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, "rgb24")))
        container.mux(stream.encode())
    return path


def chosen(call: int) -> np.ndarray:
    """Return the frames of a clip: spread over the film, others in every call."""
    from video.frames import segment_indices

    return segment_indices(SECONDS * RATE, FRAMES, rng=np.random.default_rng(call))


def repeat(clip: Callable[[int], object]) -> None:
    """Make the clips of one call."""
    for call in range(CLIPS):
        clip(call)


def ours(film: Path, view: str, known: bool = False) -> Callable[[], None]:
    """Return the call of our side, see `reading`."""
    return functools.partial(repeat, reading(film, view, known))


def reading(film: Path, view: str, known: bool = False) -> Callable[[int], object]:
    """Return what makes clip number n as a loader does: it opens the film and gives what the network takes.

    known: the list of its frames is kept between looks.
    """
    from video.clips_views import ClipView, Draws
    from video.readers import VideoOpener

    look, kept = ClipView(SIDE, view), VideoOpener()

    def clip(call: int) -> object:
        with (kept if known else VideoOpener())(str(film)) as video:
            return look.clip(video, chosen(call), Draws.of(call))

    return clip


def pyav_decode(film: Path, call: int) -> np.ndarray:
    """Decode from the start and keep what is wanted, as PyAV's own examples do."""
    import av

    wanted = set(chosen(call).tolist())
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        last = max(wanted)
        kept = []
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                kept.append(frame.to_ndarray(format="rgb24"))
            if number >= last:
                break
    return np.stack(kept)


def decord_decode(film: Path, call: int) -> np.ndarray:
    """Decode by decord, with one thread as TAMT's code does."""
    import decord

    return decord.VideoReader(str(film), num_threads=1).get_batch(chosen(call).tolist()).asnumpy()


def decord_clip(film: Path, call: int) -> object:
    """Decode by decord, then resize, crop and normalise by torchvision."""
    import torch
    from torchvision.transforms.v2 import functional as F

    from video.clips_views import MEAN, STD

    frames = torch.from_numpy(decord_decode(film, call)).permute(0, 3, 1, 2)
    small = F.center_crop(F.resize(frames, [SIDE * 8 // 7], antialias=True), [SIDE, SIDE])
    return F.normalize(small.float() / 255, list(MEAN), list(STD)).transpose(0, 1)
