"""Decoded clips on disk: the same frames, kept, verified, mended."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from episodes.errors import UserError
from tests.video.films import grey_frames, write_film
from video.clips import Clips
from video.clips_cache import FRAMES, HEADER, cached_clips
from video.clips_open import open_clips
from video.clips_views import ClipView
from video.frames import FrameSampling


@pytest.fixture
def films(tmp_path) -> Path:
    root = tmp_path / "films"
    for label, name in enumerate(("run", "walk")):
        for item in range(3):
            write_film(root / name / f"{item}.mp4", grey_frames(6 + 5 * label + item, step=9))
    return root


def test_the_same_frames(films, tmp_path):
    dataset = open_clips(str(films))
    kept = cached_clips(dataset, 16, folder=tmp_path / "store", show=False)
    assert (kept.class_names, kept.names) == (dataset.class_names, dataset.names)
    for item in range(6):
        with dataset.open(item) as video, pickle.loads(pickle.dumps(kept)).open(item) as other:
            assert (len(other), other.fps) == (len(video), video.fps)
            np.testing.assert_array_equal(other.frames([3, 0]), video.frames([3, 0], (16, 24)))
    view, sampling = ClipView(16, resize=16), FrameSampling(frames=4)
    plain, fast = (Clips(d, view, sampling).load([0, 5]) for d in (dataset, kept))
    torch.testing.assert_close(plain, fast)


def test_few_frames(films, tmp_path):
    kept = cached_clips(open_clips(str(films)), 8, 7, tmp_path, show=False)
    with kept.open(5) as video:
        assert len(video) == 7
        assert video.fps == pytest.approx(10 * 7 / 13)
        assert np.diff(video.frames(range(7))[:, 6, 10, 0].astype(int)).min() > 5


def test_nothing_is_decoded_twice(films, tmp_path):
    cached_clips(open_clips(str(films)), 8, folder=tmp_path / "s", show=False)
    (store,) = (p for p in (tmp_path / "s").iterdir() if p.is_dir())
    written = (store / FRAMES).stat().st_mtime_ns
    dataset = open_clips(str(films))
    again = cached_clips(dataset, 8, folder=tmp_path / "s", show=False)
    assert (store / FRAMES).stat().st_mtime_ns == written
    assert len(again) == 6
    cached_clips(dataset, 9, folder=tmp_path / "s", show=False)
    write_film(films / "run" / "0.mp4", grey_frames(20))
    changed = cached_clips(open_clips(str(films)), 8, folder=tmp_path / "s", show=False)
    with changed.open(0) as video:
        assert len(video) == 20
    assert len([p for p in (tmp_path / "s").iterdir() if p.is_dir()]) == 3


def test_damage_is_mended(films, tmp_path):
    dataset = open_clips(str(films))
    kept = cached_clips(dataset, 8, folder=tmp_path / "s", show=False)
    wanted = [kept.open(i).frames(range(len(kept.open(i)))).copy() for i in range(6)]
    (store,) = (p for p in (tmp_path / "s").iterdir() if p.is_dir())
    content = bytearray((store / FRAMES).read_bytes())
    content[100] ^= 255
    (store / FRAMES).write_bytes(content[:-50])
    header = json.loads((store / HEADER).read_text())
    header["rows"][2] = None  # as after a killed run
    (store / HEADER).write_text(json.dumps(header))
    said = []
    again = cached_clips(dataset, 8, folder=tmp_path / "s", show=False, say=said.append)
    assert len(said) == 1 and "2 videos" in said[0]
    for item in range(6):
        np.testing.assert_array_equal(again.open(item).frames(range(len(again.open(item)))), wanted[item])
    (store / HEADER).write_text("{")
    assert len(cached_clips(dataset, 8, folder=tmp_path / "s", show=False).open(0)) == 6


def test_broken_videos_are_named_and_the_rest_is_kept(films, tmp_path):
    (films / "walk" / "1.mp4").write_bytes(b"nothing")
    dataset = open_clips(str(films))
    with pytest.raises(UserError, match=r"1 of 6 videos cannot be read, the first is '.*walk/1\.mp4' \(invalid data"):
        cached_clips(dataset, 8, folder=tmp_path / "s", show=False)
    (store,) = (p for p in (tmp_path / "s").iterdir() if p.is_dir())
    rows = json.loads((store / HEADER).read_text())["rows"]
    assert [row is None for row in rows] == [False] * 4 + [True, False]


def test_bad_folders_and_sizes(films, tmp_path):
    dataset = open_clips(str(films))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="folder of decoded clips"):
        cached_clips(dataset, 8, folder=tmp_path / "file", show=False)
    with pytest.raises(UserError, match="side >= 1"):
        cached_clips(dataset, 0)
