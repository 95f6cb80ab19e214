"""The command that checks and writes lists of videos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.video.films import grey_frames, write_film
from tools.videos import main
from video.clips_open import open_clips


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("films")
    for label, name in enumerate(("jump", "run")):
        for item in range(3):
            write_film(root / name / f"{item}.mp4", grey_frames(15 + 3 * label))
    return root


def test_a_list_is_written_and_is_sound(films, tmp_path, capsys):
    out = tmp_path / "all.txt"
    assert main(["list", str(films), "--out", str(out), "--frames"]) == 0
    assert out.read_text().splitlines()[0] == "jump/0.mp4 15 0"
    told = capsys.readouterr().out.splitlines()[1].split("'")[1]
    assert len(open_clips(told)) == 6  # as the command says that it is opened
    assert main(["check", str(out)]) == 1
    assert "not one video is where the list says: name their folder with --root" in capsys.readouterr().out
    assert main(["check", str(out), "--root", str(films)]) == 0
    text = capsys.readouterr().out
    assert "--root" not in text
    assert "decoded by pyav" in text
    assert "6 videos, 2 classes, smallest 'jump' with 3, frames 15-18 (median 18)" in text
    assert "note: 3 videos have fewer than 16 frames" in text
    assert main(["list", str(films), "--out", str(tmp_path / "all.json"), "--absolute"]) == 0
    assert "--root" not in capsys.readouterr().out  # whole paths need none
    assert main(["check", str(tmp_path / "all.json"), str(films), "--decode", "none", "--clip", "4"]) == 1
    assert f"6 also in {tmp_path / 'all.json'}" in capsys.readouterr().out


def test_everything_that_is_wrong_is_named(films, tmp_path, capsys):
    root = shutil.copytree(films, tmp_path / "films")
    (root / "run" / "1.mp4").write_bytes(b"nothing")
    lines = ["jump/0.mp4 15 0", "jump/1.mp4 14 0", "jump/none.mp4 3 0", "run/1.mp4 18 4", "run/2.mp4 18 4"]
    (tmp_path / "base.txt").write_text("\n".join([*lines, lines[0]]))
    (tmp_path / "novel.txt").write_text("run/2.mp4 18 0\nrun/0.mp4 18 0\n")
    assert main(["check", str(tmp_path / "base.txt"), str(tmp_path / "novel.txt"), "--root", str(root), "--json"]) == 1
    base, novel = map(json.loads, capsys.readouterr().out.splitlines())
    assert base["problems"] == {
        "missing": [f"{root}/jump/none.mp4"],
        "unreadable": [f"{root}/run/1.mp4: invalid data found when processing input"],
        "other number of frames than listed": [f"{root}/jump/1.mp4: 15 frames, listed 14"],
        "listed twice": [f"{root}/jump/0.mp4"],
    }
    assert "3 numbers unused" in " ".join(base["notes"])
    assert novel["problems"] == {f"also in {tmp_path}/base.txt": [f"{root}/run/2.mp4"]}
    assert main(["check", str(tmp_path / "base.txt"), "--root", str(root)]) == 1
    text = capsys.readouterr().out
    assert "  1 unreadable:\n" in text and "run/1.mp4: invalid data" in text


def test_damage_in_the_middle_shows_when_all_is_decoded(films, tmp_path, capsys):
    root = shutil.copytree(films, tmp_path / "films")
    film = write_film(root / "run" / "3.mp4", grey_frames(40, 64, 64, step=5), g="40")
    content = bytearray(film.read_bytes())
    start = content.index(b"mdat") + 400
    content[start : start + 500] = bytes(500)
    film.write_bytes(content)
    assert main(["check", str(root)]) == 0
    assert main(["check", str(root), "--decode", "all"]) == 1
    assert "run/3.mp4: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "none.json"], "there is no file, folder or source 'none.json'"),
        (["check", "{films}", "--backend", "vlc"], "no video backend 'vlc'"),
        (["check", "{films}", "--limit", "0"], "--limit 0 must be above 0"),
        (["check", "{films}", "--root", "none"], "--root 'none' is no folder"),
        (["list", "{films}/none", "--out", "a.json"], "does not exist"),
        (["list", "{films}", "--out", "a.xml"], "as .json, .csv or .txt"),
        (["list", "{films}", "--out", "/proc/none/a.json"], "cannot write '/proc/none/a.json'"),
    ],
)
def test_bad_input(films, arguments, message, capsys):
    assert main([text.format(films=films) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_real_packs_are_sound(capsys):
    from tests.conftest import SHARED

    pack = SHARED / "data" / "video" / "weizmann4" / "weizmann4.zip"
    if not pack.is_file():
        pytest.skip(f"no pack at {pack}")
    assert main(["check", str(pack)]) == 0
    assert "48 videos, 4 classes, smallest 'bend' with 12, frames 53-146" in capsys.readouterr().out
