"""Frame i is the i-th frame that is shown: every backend, every sample file, and files that cannot be read."""

from __future__ import annotations

import pickle
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from episodes.errors import UserError
from tests.video.films import grey_frames, write_film
from video.readers import MEMBER, VideoOpener, open_video, working_backend
from video.readers_stills import ArrayReader

DAMAGED = ("bitflips.mp4", "truncated.avi", "truncated_faststart.mp4")
UNREADABLE = ("empty.mp4", "not_a_video.mp4", "truncated_no_index.mp4", "audio_only.m4a")
WITHOUT_DECORD = ("anim.gif", "src_av1_video.mkv")  # its FFmpeg is of 2020
EXACT = ("h264", "hevc", "vp9", "mpeg1video", "mpeg4", "mjpeg")  # decoders of these may not differ
TEN_BITS = ("src_h264_10bits.mp4",)  # decord converts the colours of these in another way


def whole(expected: dict) -> list[str]:
    return [name for name in expected if name not in DAMAGED + UNREADABLE]


def test_index_of_every_sample(samples, expected):
    for name in whole(expected):
        with open_video(samples / name) as video:
            wanted = expected[name]
            assert len(video) == wanted["decoded_frames"], name
            np.testing.assert_allclose(video.times_s, wanted["pts_s"], atol=2e-6, err_msg=name)
            turned = wanted["rotation_metadata"] % 180 != 0
            size = (wanted["width"], wanted["height"]) if turned else (wanted["height"], wanted["width"])
            assert (video.height, video.width) == size, name
            assert video.backend == "pyav"
            assert video.duration_s > video.times_s[-1] - video.times_s[0]


def installed(backend: str) -> None:
    """Skip where a backend does not load: torchcodec needs FFmpeg's libraries, decord has wheels for one system."""
    try:
        working_backend(backend)
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
def test_frames_of_every_sample(samples, expected, backend):
    """Spread frames in odd order agree with the recorded colours, and with the whole film at once."""
    installed(backend)
    for name in whole(expected):
        if backend == "decord" and name in WITHOUT_DECORD:
            with pytest.raises(UserError, match="decord"):
                open_video(samples / name, backend).frames([0])
            continue
        with open_video(samples / name, backend) as video:
            spread = np.random.default_rng(len(name)).integers(0, len(video), 6)
            spread = np.append(spread, [len(video) - 1, 0, -1])
            frames = video.frames(spread)
            assert frames.shape == (9, video.height, video.width, 3)
            colours = np.array(expected[name]["mean_rgb"])[spread]
            np.testing.assert_allclose(frames.mean((1, 2)), colours, atol=5 if name in TEN_BITS else 3, err_msg=name)
            half = video.frames(spread[:3], (video.height // 2, video.width // 2))
            assert half.shape[1:3] == (video.height // 2, video.width // 2)
            np.testing.assert_allclose(half.mean((1, 2)), colours[:3], atol=6, err_msg=name)


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_backends_agree_on_frame_numbers(samples, expected, backend):
    """Of all frames of a film, frame i of another backend is nearest to frame i, whatever else colours do."""
    installed(backend)
    for name in whole(expected):
        if backend == "decord" and name in WITHOUT_DECORD:
            continue
        with open_video(samples / name) as one, open_video(samples / name, backend) as other:
            assert len(one) == len(other), name
            count = min(30, len(one))  # neighbours, in any order
            some = (len(one) - count) // 2 + np.random.default_rng(7).permutation(count)
            mine, theirs = (video.frames(some)[:, ::4, ::4].astype(np.float32) for video in (one, other))
            apart = np.abs(mine[None] - theirs[:, None]).mean((2, 3, 4))  # theirs x mine
            nearest = apart.min(1)
            assert (apart.diagonal() <= nearest + 1e-3).all(), name
            if one.index.codec in EXACT and name not in TEN_BITS:
                np.testing.assert_array_less(apart.diagonal(), 2, err_msg=name)


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
@pytest.mark.parametrize("name", ["long_gop.mp4", "vfr.mp4", "start_offset.mkv", "hevc.mp4", "mpeg1.mpg", "vp9.webm"])
def test_backends_agree_to_the_pixel(samples, name, backend):
    installed(backend)
    with open_video(samples / name) as one, open_video(samples / name, backend) as other:
        everything = one.frames(range(len(one)))
        chosen = np.random.default_rng(7).permutation(len(one))[:10]
        np.testing.assert_array_equal(one.frames(chosen), everything[chosen])
        assert np.abs(other.frames(chosen).astype(int) - everything[chosen]).mean() < 0.1


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_rotation(samples, backend):
    """A phone's film stands upright; all backends turn the same way, and none when told not to."""
    installed(backend)
    for angle in (90, 180, 270):
        path = samples / f"src_decord_video_{angle}.mov"
        upright, raw = open_video(path).frames([1]), open_video(path, upright=False).frames([1])
        assert (upright.shape[1:3] == raw.shape[1:3]) == (angle == 180)
        turned = np.rot90(raw, {90: 3, 180: 2, 270: 1}[angle], axes=(1, 2))
        np.testing.assert_array_equal(upright, turned)
        small = open_video(path).frames([1], (upright.shape[1] // 4, upright.shape[2] // 4))
        assert np.abs(small[0].mean((0, 1)) - upright[0].mean((0, 1))).max() < 2
        assert np.abs(open_video(path, backend).frames([1]).astype(int) - upright).mean() < 1
        assert np.abs(open_video(path, backend, upright=False).frames([1]).astype(int) - raw).mean() < 1


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files(samples, name):
    with pytest.raises(UserError, match=f"cannot read video '.*{name}'"):
        open_video(samples / name)


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(samples, name, backend):
    """One error, at once or at the damage; never other frames."""
    installed(backend)
    with pytest.raises(UserError, match=f"cannot read video '.*{name}'"), open_video(samples / name, backend) as video:
        video.frames(range(len(video)))


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_up_to_the_damage(samples, expected, name):
    with open_video(samples / name, damaged="prefix") as video:
        assert 20 < len(video) <= expected[name]["decoded_frames"]  # FFmpeg also gives frames that are half there
        colours = np.array(expected[name]["mean_rgb"])[: len(video)]
        np.testing.assert_allclose(video.frames(range(len(video))).mean((1, 2)), colours, atol=1)


def test_own_films(tmp_path):
    """Frames say their number; gaps, repeats and order do not matter; indices outside are refused."""
    frames = grey_frames(20)
    for codec, suffix in (("mpeg4", "mp4"), ("libx264", "mkv"), ("libvpx", "webm"), ("mpeg2video", "mpg")):
        film = write_film(tmp_path / f"{codec}.{suffix}", frames, codec)
        with open_video(film) as video:
            assert len(video) == 20, codec
            chosen = [19, 3, 3, 0, 11]
            shown = video.frames(chosen)[:, 16:, 24:].mean((1, 2, 3))
            np.testing.assert_allclose(shown, 16 + 8 * np.array(chosen), atol=5, err_msg=codec)
            with pytest.raises(IndexError, match=r"0\.\.19, not 20"):
                video.frames([20])
            assert video.frames([]).shape == (0, 32, 48, 3)


def test_one_frame_and_no_frame(tmp_path):
    with open_video(write_film(tmp_path / "one.mp4", grey_frames(1))) as video:
        assert len(video) == 1
        assert video.frames([0, 0, -1]).shape == (3, 32, 48, 3)
    empty = write_film(tmp_path / "none.avi", grey_frames(0))
    with pytest.raises(UserError, match=r"none\.avi' \(it has no frames\)"):
        open_video(empty)


def test_unknown_codec(tmp_path):
    film = write_film(tmp_path / "odd.avi", grey_frames(4))
    content = film.read_bytes()
    film.write_bytes(content.replace(b"FMP4", b"ZZZ9"))
    with pytest.raises(UserError, match=r"odd\.avi' \(its codec is unknown"):
        open_video(film)


def test_huge_frames_are_refused_before_they_are_decoded(tmp_path):
    film = write_film(tmp_path / "large.mp4", grey_frames(3, 64, 64))
    with pytest.raises(UserError, match=r"64 x 64 pixels are larger than the 1000 allowed"):
        open_video(film, max_pixels=1000)
    with open_video(film) as video, pytest.raises(UserError, match="need more than 2 GB"):
        video.frames([0] * 8, (10_000, 10_000))


def test_a_file_that_vanishes(tmp_path):
    film = write_film(tmp_path / "gone.mp4", grey_frames(6))
    opener = VideoOpener()
    assert len(opener(str(film))) == 6
    film.unlink()
    with pytest.raises(UserError, match=r"gone\.mp4' \(no such file"):
        opener(str(film))
    film = write_film(tmp_path / "soon.mp4", grey_frames(6))
    with open_video(film) as video:
        film.unlink()
        with pytest.raises(UserError, match=r"soon\.mp4"):
            video.frames([1])
    again = write_film(film, grey_frames(9))
    assert len(opener(str(again))) == 9  # another file under the name is looked at anew


def test_clips_of_a_pack(tmp_path):
    film = write_film(tmp_path / "a.mp4", grey_frames(5))
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as pack:
        pack.write(film, "walk/a.mp4")
        pack.writestr("walk/broken.mp4", b"no film")
    opener = pickle.loads(pickle.dumps(VideoOpener()))
    with opener(f"{tmp_path}/pack.zip{MEMBER}walk/a.mp4") as video, open_video(film) as alone:
        np.testing.assert_array_equal(video.frames([0, 4]), alone.frames([0, 4]))
        assert video.frames([3]).shape == (1, 32, 48, 3)
    with pytest.raises(UserError, match=r"pack\.zip!/walk/b\.mp4' \(there is no such clip"):
        opener(f"{tmp_path}/pack.zip{MEMBER}walk/b.mp4")
    with pytest.raises(UserError, match=r"broken\.mp4"):
        opener(f"{tmp_path}/pack.zip{MEMBER}walk/broken.mp4")


def test_folders_of_frames(tmp_path):
    for number in (1, 2, 10):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / f"img_{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    with open_video(tmp_path) as video:
        assert (len(video), video.height, video.width, video.backend) == (3, 30, 40, "stills")
        assert video.frames([2, 0, 1])[:, 0, 0, 0].tolist() == [10, 1, 2]
        assert video.frames([0], (15, 20)).shape == (1, 15, 20, 3)
    Image.new("RGB", (41, 30)).save(tmp_path / "img_11.png")
    (tmp_path / "img_12.png").write_bytes(b"\x89PNG")
    with open_video(tmp_path) as video:
        with pytest.raises(UserError, match=r"img_11\.png' has another size"):
            video.frames([3])
        with pytest.raises(UserError, match=r"img_12\.png"):
            video.frames([4])


def test_frames_in_memory():
    video = ArrayReader(grey_frames(4), "drawn", fps=8)
    np.testing.assert_array_equal(video.frames([3, 0])[:, -1, -1, 0], [40, 16])
    assert video.frames([1], (16, 24)).shape == (1, 16, 24, 3)
    assert video.duration_s == 0.5
    with pytest.raises(UserError, match="no frames"):
        ArrayReader(grey_frames(0), "nothing")


def test_backends_by_name():
    assert working_backend() == "pyav"
    with pytest.raises(UserError, match="did you mean 'decord'"):
        working_backend("decort")


def test_a_backend_that_is_not_installed(monkeypatch):
    """One sentence says how to get it; `auto` goes on to the next."""
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(
        UserError, match=r"backend torchcodec does not load \(.*\): pip install -r requirements-torchcodec.txt, and"
    ):
        working_backend("torchcodec")
    monkeypatch.setitem(sys.modules, "av", None)
    installed("decord")
    assert working_backend("auto") == "decord"
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UserError, match=r"no video can be decoded \(pyav: .*torchcodec: .*\): pip install av"):
        working_backend("auto")
