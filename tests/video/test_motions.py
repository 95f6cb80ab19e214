"""Drawn films: motions (real files) and strokes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from episodes.errors import UserError
from episodes.sampler import EpisodeSampler
from video import motions
from video.clips_open import open_clips
from video.motions_programs import MOTIONS
from video.strokes import draw


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVEY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_clips("motions:digits?items=2&size=32")


def mass(frames: np.ndarray) -> np.ndarray:
    """Centre of the ink (T, 2) as x, y in -1..1, and its amount (T,)."""
    ink = 255.0 - frames.mean(-1)
    ink = np.clip(ink - np.median(ink, axis=(1, 2), keepdims=True) - 25, 0, None)
    amount = ink.sum((1, 2))
    line = np.linspace(-1, 1, frames.shape[1])
    x, y = (ink.sum(1) * line).sum(1), (ink.sum(2) * line).sum(1)
    return np.stack([x / amount, y / amount, amount], 1)


def film(dataset, name: str, item: int = 0) -> np.ndarray:
    with dataset.open(dataset.class_names.index(name) * 2 + item) as video:
        return video.frames(range(len(video)))


def test_domains_can_be_joined(digits):
    """The same classes, the films of one domain after those of the other."""
    both = open_clips("motions:digits+night?items=2&size=32&split=val")
    one, other = (open_clips(f"motions:{name}?items=2&size=32&split=val") for name in ("digits", "night"))
    assert both.names == one.names + other.names and both.class_names == one.class_names
    np.testing.assert_array_equal(both.labels, np.concatenate([one.labels, other.labels]))
    with pytest.raises(UserError, match="no domain 'nihgt' among the motions; did you mean 'night'"):
        open_clips("motions:digits+nihgt")


def test_what_moves_where(digits):
    assert (len(digits.class_names), len(digits)) == (len(MOTIONS), 2 * len(MOTIONS))
    right, left = mass(film(digits, "move_right")), mass(film(digits, "move_left"))
    assert right[-1, 0] - right[0, 0] > 0.8 > -0.8 > left[-1, 0] - left[0, 0]
    up = mass(film(digits, "move_up"))
    assert up[-1, 1] - up[0, 1] < -0.8
    grow = mass(film(digits, "grow"))
    assert grow[-1, 2] > 3 * grow[0, 2]
    shape = film(digits, "jump").shape
    assert shape == (24, 32, 32, 3)


def test_films_differ_within_a_class_and_are_drawn_again_alike(digits):
    assert (film(digits, "swing", 0) != film(digits, "swing", 1)).any()
    figures = motions._figures("digits")
    one, two = (motions.draw_film("digits", 3, 1, 32, figures) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    other = motions.draw_film("night", 3, 1, 32, figures)
    assert other.mean() < 110 < one.mean()


def test_pairs_are_not_parted():
    """Opposite motions are on one side of the split, and there are classes enough on every side."""
    programs: dict = {}
    for motion in MOTIONS.values():
        programs.setdefault(motion.program, set()).add(motion.part)
    assert all(len(parts) == 1 for parts in programs.values())
    assert Counter(motion.part for motion in MOTIONS.values()) == {"train": 18, "val": 8, "test": 10}
    t = np.linspace(0, 1, 7)
    for one, other in (("move_right", "move_left"), ("grow", "shrink"), ("spiral_in", "spiral_out")):
        np.testing.assert_allclose(MOTIONS[one].course(t).table(7), MOTIONS[other].course(t).table(7)[::-1], atol=1e-12)
    tables = [motion.course(np.linspace(0, 1, 24)).table(24) for motion in MOTIONS.values()]
    assert len({table.round(6).tobytes() for table in tables}) == len(MOTIONS)


def test_splits_and_episodes(digits, monkeypatch):
    folder = os.path.dirname(os.path.dirname(os.path.dirname(digits.names[0])))
    monkeypatch.setenv("COVEY_CACHE", folder)
    test = open_clips("motions:digits?items=2&size=32&split=test")
    assert len(test.class_names) == 10
    both = open_clips("motions:digits?items=2&size=32&split=test+val")
    assert both.class_names[:10] == test.class_names
    assert not test.flip
    episode = EpisodeSampler(test.labels, n_way=5, k_shot=1, n_query=1, n_episodes=2)[1]
    assert len(set(test.labels[episode.support])) == 5
    assert len(open_clips("motions:digits?items=2&size=32&by=mod5&split=test").class_names) == 7


def test_a_damaged_cache_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(motions, "MOTIONS", dict(list(MOTIONS.items())[:2]))
    dataset = motions.motion_set("digits", size=16, items=1)
    film = Path(dataset.names[1])
    content = film.read_bytes()
    film.write_bytes(content[:50])
    again = motions.motion_set("digits", size=16, items=1)
    assert again.names == dataset.names
    assert film.read_bytes() == content


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("motions:digit", "did you mean 'digits'"),
        ("motions:digits?size=15", "even size"),
        ("motions:digits?scale=2", "which videos do not know"),
        ("strokes:none.npz", "no file of strokes 'none.npz'"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(UserError, match=message):
        open_clips(spec)


def test_strokes_grow(shared_videos):
    path = shared_videos / "omniglot_strokes" / "omniglot_strokes.npz"
    drawings = open_clips(f"strokes:{path}?frames=12&by=mod5&split=test")
    assert len(drawings.class_names) == 40
    with drawings.open(5) as video:
        ink = (video.frames(range(12))[..., 0] < 128).sum((1, 2))
    assert (np.diff(ink) >= 0).all()
    assert ink[-1] > 2 * ink[0] > 0
    greek = open_clips(f"strokes:{path}?alphabets=Greek")
    assert len(greek) == 20 * len(greek.class_names)
    with pytest.raises(UserError, match="did you mean 'Greek'"):
        open_clips(f"strokes:{path}?alphabets=Greak")


def test_pauses_and_backward_clocks():
    """A pause of a minute between two strokes takes no more of the clip than a short one."""
    points = np.array([[10, 10], [40, 10], [70, 10], [10, 60], [40, 60], [70, 60]], float)
    times = np.array([0, 100, 200, 60_000, 60_100, 60_050])
    frames = draw(points, times, np.array([3]), 10)[..., 0] < 128
    assert frames[-1, 60, 11:69].all() and frames[-1, 10, 11:69].all()
    assert not frames[-1, 20:50].any()  # the pen was up between the strokes
    half = frames[:, 60].any(1)
    assert 3 < half.argmax() < 8
