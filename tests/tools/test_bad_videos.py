"""Bad videos, lists and checkpoints in a whole test: one sentence that names the thing, before long work or at it."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from backbones import UserError
from tests.tools import tiny_video
from tests.video.films import grey_frames, write_film
from tools.evaluate import evaluate


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    return Path(tiny_video.films(tmp_path_factory.mktemp("films"), classes=5, items=4))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny_video.source(tmp_path_factory.mktemp("source") / "source.safetensors")


def run(folder: Path, checkpoint: Path, test: str | Path, **options) -> dict:
    options = {"k_shot": [1], "n_query": 2, "episodes": 3, **options}
    return evaluate(tiny_video.evaluate_options(folder / "run", checkpoint, str(test), **options))


def with_one(folder: Path, films: Path, write) -> tuple[Path, Path]:
    """Return a list of the films with one more video, and that video."""
    odd = folder / "odd.avi"
    write(odd)
    rows = [f"{path},{path.parent.name}" for path in sorted(films.glob("*/*.mp4"))]
    place = folder / "all.csv"
    place.write_text("\n".join(["file,class", *rows, f"{odd},action00"]))
    return place, odd


def sound(path: Path) -> None:
    """Half a second of silence."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 4000, "NONE", ""))
        file.writeframes(bytes(8000))


def odd_codec(path: Path) -> None:
    write_film(path, grey_frames(4))
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZ9"))


def cut(path: Path) -> None:
    write_film(path, np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:9000])


BAD = {
    "no frame": (lambda path: write_film(path, grey_frames(0)), "it has no frames"),
    "sound alone": (sound, "it holds sound alone"),
    "unknown codec": (odd_codec, "its codec is unknown"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path: path.write_text("no film"), "invalid data"),
    "cut off": (cut, "cut off|decoding fails"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_video_ends_a_test_by_name_or_is_left_out_by_name(tmp_path, films, source, what):
    write, reason = BAD[what]
    place, odd = with_one(tmp_path, films, write)
    with pytest.raises(UserError, match=rf"cannot read video '{odd}' \(.*({reason})"):
        run(tmp_path, source, place)
    with pytest.warns(UserWarning, match=rf"1 of 21 videos cannot be read and are left out: '{odd}'"):
        metrics = run(tmp_path, source, place, skip_broken=True, overwrite=True)
    assert metrics["scores"][0]["episodes"] == 3


def test_one_frame_is_a_video(tmp_path, films, source):
    place, _ = with_one(tmp_path, films, lambda path: write_film(path, grey_frames(1)))
    assert run(tmp_path, source, place)["scores"][0]["episodes"] == 3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "a.mp4;4;0\n", "separated by semicolons"),
        ("l.json", '{"image_names": ["a"], "image_labels": [3], "label_names": ["x"]}', "label 3, which is missing"),
        ("l.txt", "a.mp4 0\nb.mp4 1\n", "2 of 2 videos of .* do not exist, the first is '.*a.mp4'"),
    ],
)
def test_bad_lists(tmp_path, source, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        run(tmp_path, source, tmp_path / name)
    if "exist" in message:  # nothing is left to leave out
        with pytest.raises(UserError, match=message):
            run(tmp_path, source, tmp_path / name, skip_broken=True, overwrite=True)


def test_more_ways_than_classes_and_other_checkpoints(tmp_path, films, source):
    with pytest.raises(UserError, match="need 9 classes, but there are 5: lower n_way"):
        run(tmp_path, source, films, n_way=9)
    (tmp_path / "garbage.pt").write_bytes(b"hello" * 50)
    with pytest.raises(UserError, match="is no readable checkpoint"):
        run(tmp_path, tmp_path / "garbage.pt", films, overwrite=True)
    with pytest.raises(UserError, match="no checkpoint at"):
        run(tmp_path, tmp_path / "none.pt", films, overwrite=True)
