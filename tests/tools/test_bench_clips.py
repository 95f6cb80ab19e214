"""The bench case of clips: both sides decode the same frames."""

from __future__ import annotations

import numpy as np
import pytest

from tools.bench import clips
from tools.bench.case import Case
from video.readers import open_video


def test_all_sides_see_the_same_frames(tmp_path):
    film = clips.write_film(tmp_path / "film.mp4", 48, 64)
    with open_video(film) as video:
        assert len(video) == clips.SECONDS * clips.RATE
        wanted = video.frames(clips.chosen(1))
    np.testing.assert_array_equal(clips.pyav_decode(film, 1), wanted)
    assert (clips.chosen(1) != clips.chosen(2)).any()
    pytest.importorskip("decord")
    np.testing.assert_allclose(clips.decord_decode(film, 1), wanted, atol=1)
    assert clips.decord_clip(film, 1).shape == (3, clips.FRAMES, clips.SIDE, clips.SIDE)


def test_cases(monkeypatch):
    monkeypatch.setattr(clips, "SIZES", {"tiny": (48, 64)})
    monkeypatch.setattr(clips, "SECONDS", 2)
    monkeypatch.setattr(clips, "CLIPS", 1)
    found = []
    for case in clips.cases():
        if isinstance(case, Case):
            found.append(case)
            case.ours()  # while its film is there
            case.other()
    assert len(found) in (5, 7)  # with decord
    assert {case.clock for case in found} == {"process"}
    assert len({(case.shape, case.other_name) for case in found}) == len(found)


def test_later_looks_see_the_same(tmp_path):
    """A kept list of frames changes nothing but the time."""
    film = clips.write_film(tmp_path / "film.mp4", 48, 64)
    anew, kept = clips.reading(film, "train"), clips.reading(film, "train", known=True)
    for number in (1, 2, 1):
        np.testing.assert_array_equal(kept(number), anew(number))
    assert (anew(1) != anew(2)).any()
