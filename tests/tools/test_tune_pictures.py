"""The picture of the first training episode: every class in a row of its own, clips as the network sees them."""

from __future__ import annotations

import pytest

from episodes import EpisodeSampler
from tests.tools import tiny_video
from tools.video.tune_pictures import draw_first_episode
from video.clips import Clips
from video.clips_open import open_clips
from video.clips_views import ClipView
from video.frames import FrameSampling


@pytest.mark.parametrize(("k_shot", "n_query", "sides"), [(1, 2, "sqq"), (3, 4, "ssqq"), (2, 1, "ssq")])
def test_every_class_has_a_row(tmp_path, k_shot, n_query, sides):
    dataset = open_clips(tiny_video.films(tmp_path / "films", classes=3, items=8))
    clips = Clips(dataset, ClipView(16), FrameSampling("segments", 4), limit_s=0)
    sampler = EpisodeSampler(dataset.labels, n_way=3, k_shot=k_shot, n_query=n_query, n_episodes=1)
    figure = draw_first_episode(clips, sampler, tmp_path / "pictures")
    assert (tmp_path / "pictures" / "first_episode.png").is_file()
    rows: dict[float, list[str]] = {}
    for text in figure.axes[0].texts:
        rows.setdefault(text.get_position()[1], []).append(text.get_text())
    assert len(rows) == 3
    for words in rows.values():
        assert len(set(words[::2])) == 1 and "".join(word[0] for word in words[1::2]) == sides
