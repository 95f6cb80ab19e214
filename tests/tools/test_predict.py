"""Naming the class of pictures: the files that are written, what decides the answers, and input that is refused."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones import UserError
from tests.tools import tiny
from tools.deployment import Predict
from tools.groups import Model
from tools.predict import predict
from tools.predictions import Predictions, truth_of, wilson

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Supports of three classes (2, 3 and 4 pictures), and queries of them in folders of their own."""
    root = tmp_path_factory.mktemp("pictures")
    for number, images in enumerate(tiny.class_images(3, 9, size=20, noise=25)):
        for i, image in enumerate(images):
            part = "support" if i < 2 + number else "query"
            place = root / part / f"class{number}" / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)
    return root


def options(run, folders, checkpoint, **more) -> Predict:
    values = {"support": str(folders / "support"), "query": [str(folders / "query")], "sheets": 0, "machine": tiny.CPU}
    return Predict(str(run), checkpoint=checkpoint and str(checkpoint), **{**values, **more})


def rows_of(run) -> list[dict]:
    with open(run / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_written(tmp_path, folders, pretrained, capsys):
    metrics = predict(options(tmp_path, folders, pretrained["protonet"], sheets=2))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.yaml", "environment.json", "metrics.json", "predictions.csv", "predictions.json"),
        *("sheet_01.png", "confusion.png"),
    }
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    rows = rows_of(tmp_path)
    assert len(rows) == 7 + 6 + 5
    assert sum(metrics["answers"].values()) == metrics["pictures"] == metrics["labelled"] == 18
    right = [row["class"] == row["true_class"] == Path(row["file"]).parent.name for row in rows]
    assert metrics["accuracy"] == np.mean(right) > 0.8
    assert np.trace(metrics["confusion"]) == sum(right)
    assert metrics["accuracy_low"] < metrics["accuracy"] <= metrics["accuracy_high"] <= 1
    assert metrics["shots"] == {"class0": 2, "class1": 3, "class2": 4}
    for row in rows:
        shares = sorted((float(row[f"p(class{k})"]) for k in range(3)), reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert [float(row["probability"]), float(row["runner_up_probability"])] == shares[:2]
        assert float(row[f"p({row['class']})"]) == shares[0]
    first = json.loads((tmp_path / "predictions.json").read_text())["predictions"][0]
    assert first["class"] == rows[0]["class"]
    assert first["probabilities"]["class1"] == pytest.approx(float(rows[0]["p(class1)"]), abs=1e-6)
    assert "% right of 18 pictures" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["stl_deepbdc", "meta_deepbdc", "baseline_pp", "anil", "maml", "bd_cspn", "frn"])
def test_methods_and_batches(tmp_path, folders, pretrained, method):
    """The batch size changes nothing, for transductive methods and those that adapt the network either."""
    checkpoint = pretrained["meta_deepbdc"]
    for size in (4, 64):
        predict(options(tmp_path / str(size), folders, checkpoint, method=method, batch_size=size))
    for few, many in zip(rows_of(tmp_path / "4"), rows_of(tmp_path / "64"), strict=True):
        assert few["file"] == many["file"]
        assert [float(few[f"p(class{k})"]) for k in range(3)] == pytest.approx(
            [float(many[f"p(class{k})"]) for k in range(3)], abs=1e-3
        )


def test_single_files_have_no_truth_and_one_picture_is_enough(tmp_path, folders, pretrained):
    file = folders / "query" / "class1" / "5.png"
    metrics = predict(options(tmp_path, folders, pretrained["protonet"], query=[str(file)], sheets=1))
    assert metrics["pictures"] == 1
    assert "accuracy" not in metrics
    assert "true_class" not in rows_of(tmp_path)[0]
    assert (tmp_path / "sheet_01.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "confusion.png").exists()


def test_unsure_pictures_are_unknown(tmp_path, folders, pretrained):
    run = options(tmp_path / "a", folders, pretrained["protonet"], method="good_embed")
    best = sorted(float(row["probability"]) for row in (predict(run), rows_of(tmp_path / "a"))[1])
    middle = (best[8] + best[9]) / 2
    metrics = predict(
        options(tmp_path / "b", folders, pretrained["protonet"], method="good_embed", unknown_below=middle)
    )
    assert metrics["answers"]["unknown"] == 9
    for row in rows_of(tmp_path / "b"):
        assert (row["class"] == "unknown") == (float(row["probability"]) < middle)


def test_more_pictures_than_a_page(tmp_path, folders, pretrained, capsys):
    for i in range(4):
        shutil.copytree(folders / "query", tmp_path / "many" / f"set{i}")
    config = options(tmp_path / "run", folders, pretrained["protonet"], query=[str(tmp_path / "many")], sheets=2)
    metrics = predict(config)
    assert metrics["pictures"] == 72
    assert "accuracy" not in metrics  # the first folders are not named like classes
    assert sorted(path.name for path in (tmp_path / "run").glob("sheet*")) == ["sheet_01.png", "sheet_02.png"]
    out = capsys.readouterr().out
    assert "the first 48 of 72 pictures are drawn" in out
    assert "mean probability" in out


def test_broken_pictures_are_refused_or_named(tmp_path, folders, pretrained):
    shutil.copytree(folders / "query", tmp_path / "query")
    (tmp_path / "query" / "class0" / "broken.png").write_bytes(b"\x89PNG no")
    config = options(tmp_path / "run", folders, pretrained["protonet"], query=[str(tmp_path / "query")])
    with pytest.raises(UserError, match=r"1 of 19 images cannot be read .*broken.png.*skip-broken"):
        predict(config)
    assert not (tmp_path / "run").exists()
    config.skip_broken = True
    with pytest.warns(UserWarning, match="broken.png"):
        metrics = predict(config)
    assert metrics["skipped"] == [str(tmp_path / "query" / "class0" / "broken.png")]
    assert metrics["pictures"] == 18


def test_supports_among_the_queries_are_noticed(tmp_path, folders, pretrained):
    with pytest.warns(UserWarning, match="9 of the pictures are supports themselves"):
        predict(options(tmp_path, folders, pretrained["protonet"], query=[str(folders)]))


def test_a_library_network_without_a_checkpoint(tmp_path, folders):
    config = options(tmp_path, folders, None, size=32)
    config.model = Model(backbone="timm:resnet10t", backbone_options={"pretrained": False})
    assert predict(config)["method"] == "good_embed"


def test_weights_that_cannot_be_fetched_are_one_sentence(tmp_path, folders):
    command = [sys.executable, "-m", "tools.predict", "--support", folders / "support", "--query", folders / "query"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "--backbone", "timm:resnet10t.c3_in1k", "--run", tmp_path / "run", "--machine.accelerator", "cpu"],
        cwd=ROOT, env=offline, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot fetch the weights of timm:resnet10t" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support": ""}, "there are no supports"),
        ({"query": []}, "there are no pictures"),
        ({"support": "absent"}, "'absent' does not exist"),
        ({"query": ["absent"]}, "'absent' does not exist"),
        ({"query": [__file__]}, "is no picture by its name"),
        ({"checkpoint": "absent.safetensors"}, "no checkpoint at absent.safetensors"),
        ({"checkpoint": None}, "no weights are given"),
        ({"method": "protonett"}, "did you mean"),
        ({"unknown_below": 1.5}, "unknown_below must be in"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"machine": tiny.Machine(accelerator="cpu", devices=2)}, "works on one device"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, folders, pretrained, change, message):
    config = options(tmp_path / "run", folders, pretrained["protonet"])
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=message):
        predict(config)
    assert not (tmp_path / "run").exists()


def test_folders_that_do_not_fit(tmp_path, pretrained):
    tiny.folder(tmp_path / "one" / "support", classes=1, items=2)
    tiny.folder(tmp_path / "one" / "query", classes=1, items=2)
    with pytest.raises(UserError, match="has one class folder \\('class0'\\)"):
        predict(options(tmp_path / "run", tmp_path / "one", pretrained["protonet"]))
    tiny.folder(tmp_path / "two" / "support", classes=2, items=2)
    (tmp_path / "two" / "query").mkdir()
    with pytest.raises(UserError, match="holds no picture"):
        predict(options(tmp_path / "run", tmp_path / "two", pretrained["protonet"]))
    tiny.folder(tmp_path / "two" / "query", classes=1, items=2)
    (tmp_path / "two" / "support" / "class0").rename(tmp_path / "two" / "support" / "unknown")
    with pytest.raises(UserError, match="a class is named 'unknown'"):
        predict(options(tmp_path / "run", tmp_path / "two", pretrained["protonet"], unknown_below=0.5))


def test_intervals_and_truth():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Newcombe 1998's formula by hand
    assert wilson(0, 5)[0] == 0 < wilson(0, 5)[1] < 0.5
    assert wilson(5, 5)[1] == 1
    assert truth_of(["q/b/x/1.png", "q/1.png", "z/a/1.png"], ["z", "q"], ["a", "b"]).tolist() == [-1, -1, -1]


def test_truth_goes_by_the_first_folder(tmp_path):
    for name in ("b/x", "other"):
        (tmp_path / name).mkdir(parents=True)
    files = [str(tmp_path / name) for name in ("b/x/1.png", "b/2.png", "3.png", "other/4.png")]
    assert truth_of(files, [str(tmp_path)], ["a", "b"]).tolist() == [1, 1, -1, -1]


def test_unknown_pictures_count_as_wrong():
    shares = np.array([[0.9, 0.1], [0.45, 0.55], [0.2, 0.8]])
    result = Predictions(["a", "b", "c"], ["x", "y"], shares, np.array([0, 1, -1]), unknown_below=0.6)
    assert result.answers == ["x", "unknown", "y"]
    metrics = result.metrics()
    assert (metrics["labelled"], metrics["accuracy"], metrics["confusion"]) == (
        2,
        0.5,
        [[1, 0, 0], [0, 0, 1]],
    )  # unknown is a column of its own
