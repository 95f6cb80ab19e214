"""Labelled videos as a data set: opening, sampling, loading, and workers that die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from episodes.errors import UserError
from episodes.features import open_features
from episodes.loaders import BatchImages, EpisodeImages, numbered_loader
from episodes.sampler import EpisodeSampler
from tests.video.films import grey_frames, write_film
from video.clips import Clips, ClipSet, mirrors
from video.clips_check import check_videos
from video.clips_open import open_clips
from video.clips_views import ClipView
from video.crew import in_processes
from video.frames import FrameSampling
from video.readers import VideoOpener
from video.readers_stills import ArrayReader

SMALL = {"sampling": FrameSampling(frames=4)}
SEEDED = ClipView(16, "train", "crop")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Three classes of five films in class folders; the film's length tells the class."""
    root = tmp_path_factory.mktemp("films")
    for label, name in enumerate(("jump", "run", "walk")):
        for item in range(5):
            write_film(root / name / f"{item}.mp4", grey_frames(8 + 4 * label, step=5 + item))
    return root


def test_folders(films):
    dataset = open_clips(str(films))
    assert dataset.class_names == ["jump", "run", "walk"]
    np.testing.assert_array_equal(dataset.labels, np.repeat([0, 1, 2], 5))
    clip, label = dataset[7]
    assert (clip.shape, clip.dtype, label) == ((16, 32, 48, 3), torch.uint8, 1)
    with dataset.open(14) as video:
        assert len(video) == 16
    few = open_clips(f"{films}?by={_split_file(films)}&split=test")
    assert (few.class_names, len(few)) == (["walk"], 5)


def _split_file(films: Path) -> Path:
    path = films.parent / "split.json"
    path.write_text('{"train": ["jump"], "val": ["run"], "test": ["walk"]}')
    return path


def test_lists_and_packs(films, tmp_path):
    (tmp_path / "base.txt").write_text("jump/0.mp4 8 0\nrun/1.mp4 12 1\n")
    (tmp_path / "novel.txt").write_text("walk/2.mp4 16 0\n")
    both = open_clips(f"{tmp_path}?split=train+test&root={films}")
    assert both.class_names == ["jump", "run", "walk"]
    with pytest.raises(UserError, match=r"has the splits train, test: add \?split=train"):
        open_clips(f"{tmp_path}?root={films}")
    with pytest.raises(UserError, match=r"1 of 1 videos of .* do not exist, the first is '.*walk/2\.mp4': give their"):
        open_clips(f"{tmp_path}/novel.txt")
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as pack:
        for path in sorted(films.glob("*/*.mp4")):
            pack.write(path, str(path.relative_to(films)))
    pack = open_clips(str(tmp_path / "pack.zip"))
    assert pack.class_names == ["jump", "run", "walk"]
    torch.testing.assert_close(pack[3][0], open_clips(str(films))[3][0])
    assert "pack.zip!/jump/3.mp4" in pack.where(3)


def test_numbers_of_two_lists_are_two_classes(films, tmp_path):
    for name in ("base", "novel"):
        (tmp_path / f"{name}.txt").write_text("jump/0.mp4 0\nrun/1.mp4 0\n")
    both = open_clips(f"{tmp_path}?split=train+test&root={films}")
    assert both.class_names == ["class 0", "novel class 0"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{films}?splits=test", "did you mean 'split'"),
        ("{films}?split=novel", "asks for the split 'novel'"),
        ("{films}?split=test", "has no splits of its own"),
        ("{films}?by=mod5", "but no split"),
        ("{films}?groups=person&side=test", "no column 'person'"),
        ("{films}/none", "there is no file, folder or source"),
        ("{films}/run/1.mp4", "of an unknown kind"),
        ("{films}?fps=fast", "must be a whole number"),
    ],
)
def test_bad_specs(films, spec, message):
    with pytest.raises(UserError, match=message):
        open_clips(spec.format(films=films))


def test_real_packs(shared_videos):
    people = open_clips(str(shared_videos / "weizmann4" / "weizmann4.zip"))
    assert (len(people), len(people.class_names)) == (48, 4)
    pack = shared_videos / "weizmann4" / "weizmann4.zip"
    sides = [open_clips(f"{pack}?groups=person&side={side}") for side in ("train", "test")]
    assert sum(map(len, sides)) == 48
    persons = [{name.split("person")[1][0] for name in side.names} for side in sides]
    assert not persons[0] & persons[1]
    traffic = open_clips(f"{shared_videos}/traffic_tracks/traffic_tracks.zip?by=mod5&split=test")
    assert len(traffic.class_names) == 6
    assert Clips(traffic, ClipView(32), FrameSampling(frames=8)).load([0, 3]).shape == (2, 3, 8, 32, 32)
    with pytest.raises(UserError, match="needs side=train or side=test"):
        open_clips(f"{pack}?groups=person")
    assert not open_clips(f"{shared_videos}/traffic_tracks/traffic_tracks.zip").flip  # "keep left", "turn left"
    assert people.flip


def test_mirrors():
    assert mirrors(["run", "bright light"])
    assert not mirrors(["push left to right", "run"])
    assert not mirrors(["push"], "/data/ssv2_full/base.json")


def test_clips_of_a_set(films):
    """What a clip shows depends on the seed and its place, not on its neighbours."""
    clips = Clips(open_clips(str(films)), SEEDED, **SMALL)
    whole = clips.load([3, 9, 4], 1, 2)
    assert whole.shape == (3, 3, 4, 16, 16)
    torch.testing.assert_close(clips.load([4], 1, 2, places=[2]), whole[2:])
    assert not torch.equal(clips.load([4], 1, 3, places=[2]), whole[2:])
    plain = Clips(open_clips(str(films)), ClipView(16), **SMALL)
    torch.testing.assert_close(plain.load([3], 1), plain.load([3], 2))


def test_loaders_of_images_take_clips(films):
    """Workers change nothing; steps of episodes have the shape of the specification."""
    clips = Clips(open_clips(str(films)), SEEDED, **SMALL)
    batches = BatchImages(clips, 6, seed=3)
    one, two = (list(numbered_loader(batches, workers)) for workers in (0, 2))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a["images"], b["images"])
    sampler = EpisodeSampler(clips.dataset.labels, n_way=3, k_shot=1, n_query=2, n_episodes=3)
    steps = list(numbered_loader(EpisodeImages(clips, sampler, 2)))
    assert steps[0]["images"].shape == (2, 9, 3, 4, 16, 16)


def test_features_of_clips_are_kept(films, tmp_path):
    plain = Clips(open_clips(str(films)), ClipView(16), **SMALL)

    def encode(x):
        return x.mean((2, 3, 4))

    store = open_features(encode, plain, "k", tmp_path, show=False)
    torch.testing.assert_close(store.tensor(), encode(plain.load(range(15))))
    again = open_features(lambda x: 1 / 0, plain, "k", tmp_path, show=False)
    assert len(again) == 15
    other = Clips(open_clips(str(films)), ClipView(16), FrameSampling(frames=5))
    assert len(open_features(encode, other, "k", tmp_path, show=False)) == 15
    assert len(list(tmp_path.glob("*/store.json"))) == 2
    with pytest.raises(UserError, match="use the center view"):
        open_features(encode, Clips(plain.dataset, SEEDED, **SMALL), "k", tmp_path, show=False)


def test_broken_videos(films, tmp_path, monkeypatch):
    for path in films.glob("*/*.mp4"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run" / "0.mp4").write_bytes(b"nothing")
    (tmp_path / "walk" / "3.mp4").write_bytes((films / "walk" / "3.mp4").read_bytes()[:300])
    dataset = open_clips(str(tmp_path))
    loader = numbered_loader(BatchImages(Clips(dataset, ClipView(16), **SMALL), 15), workers=1)
    with pytest.raises(UserError, match=r"cannot read video '.*(run/0|walk/3)\.mp4'"):
        list(loader)
    with pytest.warns(UserWarning, match=r"2 of 15 videos cannot be read and are left out: '.*run/0.*walk/3"):
        sound = open_clips(str(tmp_path), skip_broken=True)
    np.testing.assert_array_equal(np.bincount(sound.labels), [5, 4, 4])
    monkeypatch.setattr("video.clips_check.check_videos", None)  # remembered: nothing is decoded again
    with pytest.warns(UserWarning, match="2 of 15 videos"):
        open_clips(str(tmp_path), skip_broken=True)
    monkeypatch.undo()
    for path in (tmp_path / "jump").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="every video of class 'jump' is broken"):
        open_clips(str(tmp_path), skip_broken=True)


def test_damage_in_the_middle_and_missing_videos_are_left_out_and_named(films, tmp_path):
    """With skip_broken; without it, there is one sentence for the first of them."""
    film = write_film(tmp_path / "run" / "long.mp4", grey_frames(40, 64, 64, step=5), g="40")
    content = bytearray(film.read_bytes())
    start = content.index(b"mdat") + 400
    content[start : start + 500] = bytes(500)
    film.write_bytes(content)
    (tmp_path / "run" / "sound.mp4").write_bytes((films / "run" / "1.mp4").read_bytes())
    (tmp_path / "walk").mkdir()
    (tmp_path / "walk" / "sound.mp4").write_bytes((films / "walk" / "1.mp4").read_bytes())
    lines = ["file,class,person", "run/long.mp4,run,a", "run/sound.mp4,run,b", "walk/none.mp4,walk,c"]
    (tmp_path / "all.csv").write_text("\n".join([*lines, "walk/sound.mp4,walk,b"]))
    with pytest.raises(UserError, match=r"1 of 4 videos of .* do not exist, the first is '.*walk/none\.mp4'"):
        open_clips(f"{tmp_path}/all.csv")
    with pytest.warns(UserWarning) as said:
        kept = open_clips(f"{tmp_path}/all.csv", skip_broken=True)
    texts = [str(warning.message) for warning in said]
    assert "1 of 4 videos cannot be read and are left out: " in texts[0] and "walk/none.mp4" in texts[0]
    assert "1 of 3 videos cannot be read and are left out: " in texts[1] and "run/long.mp4" in texts[1]
    assert [Path(name).name for name in kept.names] == ["sound.mp4"] * 2 and kept.labels.tolist() == [0, 1]
    (film.parent / "long.mp4").write_bytes((films / "run" / "2.mp4").read_bytes())
    with pytest.warns(UserWarning, match="none.mp4"):  # another file is looked at anew; groups stay aligned
        side = open_clips(f"{tmp_path}/all.csv?groups=person&side=train&share=0.4", skip_broken=True)
    assert [Path(name).name for name in side.names] == ["sound.mp4"] * 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_video_that_vanishes_or_is_cut_in_the_midst_of_a_training(films, tmp_path, workers):
    for name in "abcdef":
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / f"{name}.mp4").write_bytes((films / "run" / "0.mp4").read_bytes())
    clips = Clips(open_clips(str(tmp_path)), ClipView(16), **SMALL)
    batches = numbered_loader(EpisodeSteps(clips), workers)
    assert next(batches).shape == (1, 3, 4, 16, 16)
    (tmp_path / "run" / "e.mp4").unlink()
    with pytest.raises(UserError, match=r"cannot read video '.*run/e\.mp4' \(no such file or directory\)"):
        list(batches)


class EpisodeSteps(torch.utils.data.Dataset):
    """One clip a step, in order."""

    def __init__(self, pictures: Clips) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures.dataset)

    def __getitem__(self, step: int) -> torch.Tensor:
        return self.pictures.load([step])


def test_a_video_of_one_frame_is_a_clip(tmp_path):
    write_film(tmp_path / "run" / "one.mp4", grey_frames(1))
    for sampling in ("segments", "window", "reference"):
        for view in (ClipView(16), SEEDED):
            clip = Clips(open_clips(str(tmp_path)), view, FrameSampling(sampling, 8)).load([0], 1)[0]
            assert clip.shape == (3, 8, 16, 16)
            assert torch.equal(clip, clip[:, :1].expand_as(clip))


class Deadly:
    """An opener whose video `bad` does to the process what native code may do."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, name: str) -> ArrayReader:
        if name == "bad" and self.how == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "bad" and self.how == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
            while True:  # no signal handler of Python's could end this any better than native code
                time.monotonic()
        return ArrayReader(grey_frames(6), name)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["crash", "hang"])
def test_a_worker_that_dies_names_the_video(how, workers):
    """The loader ends with one sentence, and soon; without workers too."""
    names = [f"good {i}" for i in range(11)]
    names[7] = "bad"
    dataset = ClipSet(names, np.zeros(11, np.int64), ["one"], Deadly(how))
    clips = Clips(dataset, ClipView(16), FrameSampling(frames=2), limit_s=1.0)
    before = signal.getsignal(signal.SIGCHLD)
    what = "takes longer than 1 s" if how == "hang" else r"ended the process that read it \(SIGKILL\)"
    with pytest.raises(UserError, match=f"video 'bad' {what}"):
        for _ in numbered_loader(BatchImages(clips, 2), workers=workers):
            time.monotonic()
    after = signal.getsignal(signal.SIGCHLD)
    assert after is before or not callable(before)
    assert clips.load([0, 3]).shape == (2, 3, 2, 16, 16)  # whoever caught the error goes on


def test_clips_read_apart_are_those_read_here(films):
    """Random views too; what is wrong comes back as it was raised; and no process is left."""
    dataset = open_clips(str(films))
    here = Clips(dataset, SEEDED, **SMALL, limit_s=0)
    others = set(multiprocessing.active_children())
    for readers in (1, 3):
        apart = Clips(dataset, SEEDED, **SMALL, limit_s=60, readers=readers)
        torch.testing.assert_close(apart.load([3, 9, 4, 0], 1, 2), here.load([3, 9, 4, 0], 1, 2))
        assert len(set(multiprocessing.active_children()) - others) == readers
        apart.view = here.view = ClipView(16, resize=20)
        torch.testing.assert_close(apart.load([5]), here.load([5]))
        here.view = SEEDED
        del apart
        assert not set(multiprocessing.active_children()) - others
    mistaken = ClipSet(["a", "b"], np.array([0, 0]), ["one"], lambda name: ArrayReader(np.zeros(3), name))
    with pytest.raises(ValueError, match="frames must be uint8"):
        Clips(mistaken, ClipView(16), **SMALL).load([1])


def test_checks_survive_what_they_check(films):
    names = [str(path) for path in sorted(films.glob("*/*.mp4"))[:3]]
    reports = check_videos(VideoOpener(), [*names, str(films / "no.mp4")], show=False)
    assert [r.frames for r in reports] == [8, 8, 8, 0]
    assert reports[3].problem == "no such file or directory"
    for how, reason in (("crash", "ended the process that read it (SIGKILL)"), ("hang", "longer than 0.3 s")):
        reports = check_videos(Deadly(how), ["a", "bad", "b", "bad", "c", "d"], 2, limit_s=0.3, show=False)
        assert [r.frames for r in reports] == [6, 0, 6, 0, 6, 6]
        assert all(reason in r.problem for r in reports if r.name == "bad")
    assert dict(in_processes(abs, [-1, -2, 3], 2, 5.0)) == {0: 1, 1: 2, 2: 3}
    assert list(in_processes(abs, [], 2, 5.0)) == []
