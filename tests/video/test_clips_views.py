"""Clip transforms: one set of parameters a clip, the recorded boxes of TSN, and naive counterparts."""

from __future__ import annotations

import json
import random
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as F

from episodes.errors import UserError
from tests.conftest import SHARED
from tests.video.films import grey_frames, write_film
from video import clips_crops as crops
from video import clips_views
from video.clips_randaug import OPERATIONS, apply_to_clip, apply_to_image, draw_operations, level
from video.clips_views import MEAN, STD, ClipView, Draws, crop_while_decoding, normalise, reference_clip, resized_crop
from video.readers import open_video
from video.readers_stills import ArrayReader


def picture(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """A smooth coloured picture, so that resampling methods differ little."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def still(frames: int = 4, **size: int) -> ArrayReader:
    """A film in which nothing moves."""
    return ArrayReader(np.repeat(picture(**size)[None], frames, 0), "still")


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
@settings(deadline=None)
def test_boxes_lie_in_the_frame(height, width, seed):
    rng = random.Random(seed)
    boxes = [crops.random_crop_box(height, width, rng), crops.random_erase_box(height, width, rng, probability=1.0)]
    for top, left, h, w in filter(None, boxes):
        assert top >= 0 and left >= 0 and h >= 0 and w >= 0
        assert top + h <= height and left + w <= width
    if min(height, width) >= 8:
        top, left, h, w = crops.multi_scale_box(height, width, min(height, width) // 2, rng)
        assert 0 <= top <= height - h and 0 <= left <= width - w


def test_multi_scale_boxes_against_the_recorded_ones():
    index = SHARED / "golden" / "tcp" / "tcp.json"
    if not index.is_file():
        pytest.skip(f"no reference vectors at {index}")
    checked = 0
    for item in json.loads(index.read_text())["vectors"]:
        if item["kind"] not in ("crop_candidates", "crop_offsets", "crop_draw", "three_crops"):
            continue
        cases = item.get("cases")
        if cases is None:
            cases = json.loads((index.parent / item["table"]).read_text())[item.get("part", "cases")]
        for case in cases:
            args = {**item["args"], **case.get("args", {})}
            wanted = {**item.get("expected", {}), **case.get("expected", {})}
            width, height = args["image_size"]
            if item["kind"] == "crop_candidates":
                limits = (args["input_size"], args["scales"], args["max_distort"])
                assert [list(pair) for pair in crops.crop_candidates(height, width, *limits)] == wanted["pairs"]
            elif item["kind"] == "crop_offsets":
                crop_width, crop_height = args["crop_size"]
                found = crops.crop_offsets(height, width, crop_height, crop_width, args["offsets"])
                assert [list(place) for place in found] == wanted["offsets"]
            elif item["kind"] == "crop_draw":
                limits = (args["scales"], args["max_distort"])
                rng = random.Random(args["seed"])
                top, left, h, w = crops.multi_scale_box(height, width, args["input_size"], rng, *limits)
                assert [[w, h], [left, top]] == [list(wanted["crop_size"]), list(wanted["offset"])]
            else:
                found = crops.three_offsets(height, width, args["crop_size"])
                assert [list(place) for place in found] == wanted["offsets"]
            checked += 1
    assert checked >= 4


def test_center_view_against_torchvision():
    video = still(height=90, width=160)
    clip = ClipView(56).clip(video, [0, 2])
    assert clip.shape == (3, 2, 56, 56)
    image = torch.from_numpy(picture(90, 160).copy()).permute(2, 0, 1)
    small = F.center_crop(F.resize(image, [64], antialias=True), [56, 56])
    naive = F.normalize(small / 255, list(MEAN), list(STD))
    assert (clip[:, 0] - naive).abs().max() < 0.05
    torch.testing.assert_close(clip[:, 0], clip[:, 1])


def test_normalise():
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    naive = (frames.astype(np.float64) / 255 - MEAN) / STD
    np.testing.assert_allclose(normalise(frames).permute(1, 2, 3, 0), naive, atol=1e-5)


@pytest.mark.parametrize(
    "view", [ClipView(32, "train"), ClipView(32, "reference"), ClipView(32, "train", "multiscale")]
)
def test_all_frames_get_the_same(view):
    """Nothing moves before, nothing moves after; only erased noise may differ."""
    video, moved = still(), 0
    for seed in range(12):
        clip = view.clip(video, range(4), Draws.of(seed))
        assert clip.shape == (3, 4, 32, 32)
        difference = (clip - clip[:, :1]).abs().amax((0, 1)) > 1e-5
        moved += bool(difference.any())
        assert difference.float().mean() <= 0.36  # at most the erased third, with rounding
        torch.testing.assert_close(clip, view.clip(video, range(4), Draws.of(seed)))
        assert not torch.equal(clip, view.clip(video, range(4), Draws.of(seed + 100)))
    assert moved < 12


def test_flips():
    """About half of the clips are mirrored, none where that is off, and mirroring is all that the option changes."""
    video = still(1)
    mirrored = 0
    for seed in range(60):
        one = ClipView(24, "train", "crop").clip(video, [0], Draws.of(seed))
        other = ClipView(24, "train", "crop", flip=False).clip(video, [0], Draws.of(seed))
        mirrored += not torch.equal(one, other)
        assert torch.equal(one, other) or torch.equal(one, other.flip(-1))
    assert 15 < mirrored < 45
    seeds = range(20)
    same = [
        torch.equal(
            reference_clip(video.frames([0]), 24, Draws.of(s), flip=False),
            reference_clip(video.frames([0]), 24, Draws.of(s)),
        )
        for s in seeds
    ]
    assert 0 < sum(same) < len(same)


@pytest.mark.parametrize("whole_bytes", [0, 1 << 20])
def test_crop_while_decoding_is_a_crop(monkeypatch, whole_bytes):
    """Scaled by the decoder, or cut from whole frames."""
    monkeypatch.setattr(clips_views, "WHOLE_BYTES", whole_bytes)
    video = still(1, height=120, width=200)
    box = (20, 50, 64, 96)
    fast = crop_while_decoding(video, [0], box, 32)[0].astype(float)
    part = Image.fromarray(picture(120, 200)[20:84, 50:146])
    naive = np.asarray(part.resize((32, 32), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(fast - naive).mean() < 2
    assert crop_while_decoding(video, [0], (0, 0, 5, 7), 32).shape == (1, 32, 32, 3)  # larger than it was


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_on_clips_and_on_images_agree(operation):
    frame = picture()
    clip = torch.from_numpy(np.stack([frame, frame[::-1]])).permute(0, 3, 1, 2)
    for argument in level(operation, 7.0) or [None]:
        mine = apply_to_clip(clip, operation, argument).permute(0, 2, 3, 1).numpy().astype(float)
        for changed, source in zip(mine, (frame, frame[::-1]), strict=True):
            naive = np.asarray(apply_to_image(Image.fromarray(np.ascontiguousarray(source)), operation, argument))
            assert np.abs(changed - naive).mean() < 4


@pytest.mark.parametrize("factor", [0.1, 0.4, 1.0, 1.7])
def test_sharpness_is_torchvisions(factor):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 21, 30), dtype=np.uint8))
    for clip in (pixels, pixels[..., :2], pixels[..., ::2]):
        assert torch.equal(apply_to_clip(clip, "SharpnessIncreasing", factor), F.adjust_sharpness(clip, factor))


def test_solarising_is_pillows_for_every_value():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    image = Image.fromarray(values[0].permute(1, 2, 0).numpy())
    for operation, argument in (("SolarizeIncreasing", 77), ("SolarizeIncreasing", 256), ("SolarizeAdd", 128)):
        mine = apply_to_clip(values, operation, argument)[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(mine, np.asarray(apply_to_image(image, operation, argument)))


def test_what_torchvision_would_do():
    """Crops are its own; a clip normalised in one pass differs by rounding."""
    clip = torch.randn(3, 4, 40, 50)
    naive = torch.nn.functional.interpolate(clip[:, :, 5:35, 7:47], (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(resized_crop(clip, (5, 7, 30, 40), 16), naive)
    frames = still().frames(range(4))
    theirs = F.normalize(F.to_dtype(torch.from_numpy(frames).permute(0, 3, 1, 2), torch.float32, scale=True), MEAN, STD)
    torch.testing.assert_close(normalise(frames), theirs.transpose(0, 1), atol=2e-6, rtol=0)


@pytest.mark.parametrize("view", [ClipView(16), ClipView(16, "train"), ClipView(16, "train", "multiscale")])
def test_large_frames_take_no_more_memory_than_one_of_them(tmp_path, view):
    """Frames are scaled as they leave the decoder; eight whole ones would be 50 MB here."""
    film = write_film(tmp_path / "large.mp4", grey_frames(8, 1080, 1920))
    with open_video(film) as video:
        view.clip(video, [0], Draws.of(1))
        tracemalloc.start()
        try:
            view.clip(video, range(8), Draws.of(1))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 3 * 1080 * 1920


def test_operations_are_drawn_with_replacement_and_half_of_them_apply():
    drawn = [draw_operations(d.numpy, d.python) for d in map(Draws.of, range(300))]
    assert {place for chosen, _ in drawn for place in chosen} == set(range(15))
    assert abs(np.mean([len(applied) for _, applied in drawn]) - 2) < 0.25


def test_bad_views():
    for options in (
        {"view": "centre"},
        {"augment": "colour"},
        {"order": "slow"},
        {"size": 64, "resize": 50},
        {"size": 0},
    ):
        with pytest.raises(UserError):
            ClipView(**options)
    with pytest.raises(ValueError, match="give it Draws"):
        ClipView(view="train").clip(still(), [0])
