"""What the network sees of clips, in pictures."""

from __future__ import annotations

import numpy as np
import torch

from tests.video.films import grey_frames
from tools.picturing import plain_pixels, video_strips
from video.clips import Clips, ClipSet
from video.clips_views import ClipView
from video.frames import FrameSampling
from video.readers_stills import ArrayReader


def films(view: ClipView) -> Clips:
    """Three classes of two films; film i has frames of grey level 16 + 10 i and on."""
    names = [str(i) for i in range(6)]
    dataset = ClipSet(names, np.repeat([0, 1, 2], 2), ["run", "jump", "walk"], drawn)
    return Clips(dataset, view, FrameSampling(frames=4), limit_s=0)


def drawn(name: str) -> ArrayReader:
    frames = grey_frames(8, step=4) // 2 + 10 * int(name)
    return ArrayReader(frames, name)


def test_pixels_of_clips_are_those_before_normalisation():
    """Of a random view the middle of the frames is shown."""
    seen = plain_pixels(films(ClipView(16)), np.array([3, 0]))
    assert (seen.shape, seen.dtype) == ((2, 3, 4, 16, 16), torch.uint8)
    video = drawn("3")
    chosen = FrameSampling(frames=4).indices(len(video))
    np.testing.assert_allclose(seen[0, 0, :, -1, -1], video.frames(chosen)[:, -1, -1, 0], atol=1)
    torch.testing.assert_close(plain_pixels(films(ClipView(16, "train")), np.array([3, 0])), seen)
    assert plain_pixels(films(ClipView(16)), np.array([], dtype=int)).shape == (0, 3, 4, 16, 16)


def test_training_clips_are_drawn_as_they_are_augmented(tmp_path):
    clips = films(ClipView(16, "train"))
    video_strips(tmp_path / "a.png", clips, 4, seed=1)
    video_strips(tmp_path / "b.png", clips, 4, seed=1)
    video_strips(tmp_path / "c.png", clips, 4, seed=2)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a.startswith(b"\x89PNG") and a == b and a != c
    video_strips(tmp_path / "all.png", clips, 40)  # more than there are
