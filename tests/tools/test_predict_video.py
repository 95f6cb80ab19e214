"""Naming the class of videos: by tuned adapters and other heads, broken and odd files, frames in folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones import UserError
from tests.tools import tiny, tiny_video
from tools.deployment import Predict
from tools.predict import predict
from tools.video_groups import View
from video.loose import find_videos
from video.readers import open_video


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Supports of three classes (2, 3 and 4 films), and queries of them in folders of their own."""
    root = tmp_path_factory.mktemp("films")
    tiny_video.films(root / "all", classes=3, items=7)
    for number in range(3):
        for file in sorted((root / "all" / f"action{number:02d}").iterdir()):
            part = "support" if int(file.stem) < 2 + number else "query"
            place = root / part / file.parent.name / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            file.rename(place)
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny_video.source(tmp_path_factory.mktemp("source") / "source.safetensors")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, source) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "adapters.safetensors"
    tiny_video.tuned(path, source)
    return path


def options(run: Path, folders: Path, checkpoint: Path | None, **more) -> Predict:
    values = {"support": str(folders / "support"), "query": [str(folders / "query")], "sheets": 0, "machine": tiny.CPU}
    return Predict(str(run), checkpoint=checkpoint and str(checkpoint), **{**values, **more})


def rows_of(run: Path) -> list[dict]:
    with open(run / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_written(tmp_path, folders, source, tuned, capsys):
    metrics = predict(options(tmp_path, folders, tuned, sheets=2))
    out = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.yaml", "environment.json", "metrics.json", "predictions.csv", "predictions.json"),
        *("sheet_01.png", "confusion.png"),
    }
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert metrics["videos"] == metrics["labelled"] == 5 + 4 + 3 and "pictures" not in metrics
    assert metrics["accuracy"] > 0.7 and metrics["method"] == "tamt" and metrics["source"] == str(source)
    assert metrics["video"] == {"size": 16, "frames": 8, "sampling": "segments", "step": 2}
    assert metrics["shots"] == {"action00": 2, "action01": 3, "action02": 4}
    rows = rows_of(tmp_path)
    right = [row["class"] == row["true_class"] == Path(row["file"]).parent.name for row in rows]
    assert metrics["accuracy"] == np.mean(right)
    for row in rows:
        assert sum(float(row[f"p(action{k:02d})"]) for k in range(3)) == pytest.approx(1, abs=1e-5)
    assert "% right of 12 videos in folders named like the classes" in out and "12 videos" in out


@pytest.mark.parametrize("method", ["protonet", "good_embed", "otam", "trx", "stl_deepbdc"])
def test_other_heads_on_source_weights_and_batches(tmp_path, folders, source, method):
    """Batches and reading processes change nothing."""
    if method == "trx":  # has weights, which must have been trained
        tiny_video.tuned(tmp_path / "trx.safetensors", source, "trx", "head")
        source = tmp_path / "trx.safetensors"
    for size, workers in ((3, 0), (16, 1)):
        predict(options(tmp_path / str(size), folders, source, method=method, batch_size=size, workers=workers))
    for few, many in zip(rows_of(tmp_path / "3"), rows_of(tmp_path / "16"), strict=True):
        assert few["file"] == many["file"]
        assert [float(few[f"p(action{k:02d})"]) for k in range(3)] == pytest.approx(
            [float(many[f"p(action{k:02d})"]) for k in range(3)], abs=1e-3
        )


def test_single_files_and_folders_of_frames(tmp_path, folders, source):
    film = folders / "query" / "action01" / "6.mp4"
    with open_video(film) as video:
        for number, frame in enumerate(video.frames(range(len(video)))):
            place = tmp_path / "stills" / "some" / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(place)
    asked = [str(film), str(tmp_path / "stills")]
    metrics = predict(options(tmp_path / "run", folders, source, query=asked, sheets=1))
    assert metrics["videos"] == 2 and "accuracy" not in metrics
    one, other = rows_of(tmp_path / "run")
    assert float(one["p(action01)"]) == pytest.approx(float(other["p(action01)"]), abs=0.02)  # scaled by other code
    assert (tmp_path / "run" / "sheet_01.png").read_bytes().startswith(b"\x89PNG")


def test_broken_videos_are_named_or_left_out(tmp_path, folders, source):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.mp4").write_bytes((folders / "query" / "action01" / "6.mp4").read_bytes())
    (tmp_path / "new" / "b.mp4").write_bytes(b"no film")
    config = options(tmp_path / "run", folders, source, query=[str(tmp_path / "new")])
    with pytest.raises(UserError, match=r"cannot read video '.*new/b\.mp4'"):
        predict(config)
    config.skip_broken, config.overwrite = True, True
    with pytest.warns(UserWarning, match=r"1 of 2 videos cannot be read and are left out: '.*new/b\.mp4'"):
        metrics = predict(config)
    assert metrics["skipped"] == [str(tmp_path / "new" / "b.mp4")] and metrics["videos"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": []}, "no pictures or videos to look at"),
        ({"query": ["{folders}/none"]}, "none' does not exist"),
        ({"query": ["{source}"]}, "is no video by its name"),
        ({"support": "{folders}/query/action01"}, "holds no class folders"),
        ({"video": View(eval_view="reference")}, "predict takes the center view alone"),
        ({"method": "maml"}, "adapts the whole network"),
    ],
)
def test_what_is_refused(tmp_path, folders, source, change, message):
    def filled(value):
        return value.format(folders=folders, source=source) if isinstance(value, str) else value

    change = {
        k: [filled(v) for v in value] if isinstance(value, list) else filled(value) for k, value in change.items()
    }
    with pytest.raises(UserError, match=message):
        predict(options(tmp_path, folders, source, **change))


def test_options_of_videos_need_a_model_of_videos(tmp_path, pretrained):
    pictures = tiny.folder(tmp_path / "pictures", classes=2, items=2)
    config = Predict(
        str(tmp_path / "run"), str(pictures), [str(pictures)], str(pretrained["protonet"]), machine=tiny.CPU,
        video=View(step=3),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="supports themselves"), pytest.raises(UserError, match=r"video\.step is of"):
        predict(config)


def test_videos_that_are_found(tmp_path):
    for name in ("b/2.mp4", "b/10.AVI", "a/clip/1.png", "a/clip/2.png", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"1 files beside the videos are no videos"):
        found = find_videos([tmp_path, tmp_path / "b" / "2.mp4"])
    assert found == [tmp_path / "a" / "clip", tmp_path / "b" / "10.AVI", tmp_path / "b" / "2.mp4"]
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="holds no video, nor do its sub-folders"):
        find_videos([tmp_path / "c"])
