"""Small films for tests: every frame says its number by its grey level."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np


def grey_frames(count: int, height: int = 32, width: int = 48, step: int = 8) -> np.ndarray:
    """uint8 (T, H, W, 3), frame i of grey level 16 + step * i, with a brighter square that tells left from right."""
    levels = (16 + step * np.arange(count)) % 256
    frames = np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).astype(np.uint8)
    frames[:, : height // 4, : width // 4] = 255
    return frames


def write_film(path: Path, frames: np.ndarray, codec: str = "mpeg4", rate: int = 10, **options) -> Path:
    """Encode frames; options: width of the group of pictures as gop_size, and of the codec."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options={"threads": "1", **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path
