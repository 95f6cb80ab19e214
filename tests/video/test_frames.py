"""Frame indices: properties, naive oracles, and the recorded draws of both specifications."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episodes.errors import UserError
from tests.conftest import SHARED
from video import frames, frames_tsn


@given(st.integers(1, 400), st.integers(1, 20), st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
def test_segments_stay_in_the_video_and_in_order(count, segments, clip_len, step, seed):
    for rng in (None, np.random.default_rng(seed), np.random.RandomState(seed)):
        chosen = frames.segment_indices(count, segments, clip_len, step, rng).reshape(segments, clip_len)
        assert chosen.min() >= 0
        assert chosen.max() < count
        assert (np.diff(chosen[:, 0]) >= 0).all()
        inside = chosen < count - 1
        assert (np.diff(chosen, axis=1)[inside[:, 1:]] == step).all()


@given(st.integers(1, 300), st.integers(1, 20))
def test_every_frame_can_be_chosen(count, segments):
    """Naive: part i owns the frames from i * count / segments on; a long video shows all of them in time."""
    rng = np.random.default_rng(0)
    chosen = frames.segment_indices(count, segments, rng=rng)
    for part, index in enumerate(chosen):
        assert int(part * count / segments) <= index <= (part + 1) * count / segments
    middles = frames.segment_indices(count, segments)
    np.testing.assert_array_equal(middles, [(2 * part + 1) * count // (2 * segments) for part in range(segments)])


def test_all_frames_occur():
    rng = np.random.default_rng(1)
    seen = {int(i) for _ in range(400) for i in frames.segment_indices(37, 16, rng=rng)}
    assert seen == set(range(37))


def test_short_videos_are_spread_not_frozen():
    np.testing.assert_array_equal(frames.segment_indices(4, 8), [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(frames.segment_indices_reference(4, 8), [-1] * 8)  # the reference: its last frame
    np.testing.assert_array_equal(frames.window_indices(4, 8, 4), [0, 0, 1, 1, 2, 2, 3, 3])


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 5), st.integers(0, 5))
def test_windows(count, clip_len, step, seed):
    for rng in (None, np.random.default_rng(seed)):
        chosen = frames.window_indices(count, clip_len, step, rng)
        assert len(chosen) == clip_len
        assert (chosen >= 0).all()
        assert (chosen < count).all()
        if count > (clip_len - 1) * step:
            assert (np.diff(chosen) == step).all()


def test_same_generator_same_frames():
    sampling = frames.FrameSampling("segments", 16)
    one, two = (sampling.indices(90, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert (one != sampling.indices(90, np.random.default_rng(6))).any()
    assert (one != sampling.indices(90)).any()


def test_bad_numbers():
    for call in (
        lambda: frames.segment_indices(0),
        lambda: frames.window_indices(5, 0),
        lambda: frames.FrameSampling("dense"),
        lambda: frames.FrameSampling(step=0),
    ):
        with pytest.raises(UserError):
            call()


def snippets(args: dict) -> np.ndarray:
    count, segments, length = args["num_frames"], args["num_segments"], args["frames_per_snippet"]
    rng = None if args.get("seed") is None else np.random.RandomState(args["seed"])
    how = args["sampling"]
    if how == "train_uniform":
        return frames_tsn.tsn_train(count, segments, length, rng=rng)
    if how.startswith("uniform"):
        return frames_tsn.tsn_middle(count, segments, length, "zeros" if how == "uniform_val" else "repeat")
    if how == "ten_clips":
        return frames_tsn.tsn_ten(count, segments, length)
    return frames_tsn.tsn_dense(count, segments, None if how == "dense_test" else rng)


def test_snippets_against_the_recorded_ones():
    index = SHARED / "golden" / "tcp" / "tcp.json"
    if not index.is_file():
        pytest.skip(f"no reference vectors at {index}")
    items = [v for v in json.loads(index.read_text())["vectors"] if v["kind"] == "snippet_indices"]
    checked = 0
    for item in items:
        cases = item.get("cases")
        if cases is None:
            table = json.loads((index.parent / item["table"]).read_text())
            cases = table[item.get("part", "cases")]
        for case in cases:
            args = {**item["args"], **case.get("args", {})}
            wanted = {**item.get("expected", {}), **case.get("expected", {})}["indices"]
            np.testing.assert_array_equal(snippets(args) + args["index_base"], wanted, err_msg=str(args))
            checked += 1
    assert checked > 100
