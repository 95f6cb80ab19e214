"""Robustness of any trained networks: pictures made on the way or read from folders give the same errors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones import UserError
from tests.tools import tiny
from tools.classify_config import ClassData, ClassifyTrain, ClassOptim, Network, TestData
from tools.classify_training import train
from tools.robustness import corrupt, score
from tools.study_config import CorruptFolder, Robust, RobustScore

NAMES = ["gaussian_noise", "contrast"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("robustness")
    pictures = tiny.pack(folder / "pack.npz", 4, 12)
    for name, size in (("one", 32), ("small", 24)):
        options = {"width": 8, "pooled_stages": 3, "input_size": size}
        train(
            ClassifyTrain(
                str(folder / name),
                data=ClassData(pictures, size=size, augment="none"),
                network=Network("conv4", "gap", options),
                optim=ClassOptim(1, 16, lr=0.05, schedule="constant"),
                machine=tiny.CPU,
                pictures=False,
            )
        )
    return folder, pictures


def options(trained, run, **more) -> RobustScore:
    folder, pictures = trained
    robust = Robust(NAMES, False, [1, 5], ["brightness"], limit=None, sequences=2)
    names = {"one": str(folder / "one" / "best.safetensors")}
    return RobustScore(
        str(run), checkpoints=names, data=TestData(pictures), robust=robust, machine=tiny.CPU, **more
    )  # fmt: skip


def test_folders_give_the_errors_of_pictures_made_on_the_way(trained, tmp_path):
    made = score(options(trained, tmp_path / "made"))
    where = CorruptFolder(trained[1], str(tmp_path / "out"), NAMES, [1, 5], size=32, quality=None)
    found = corrupt(where)
    assert found["written"] == 4 * found["pictures"] == 4 * 48
    assert len(list((tmp_path / "out" / "contrast" / "5" / "class02").glob("*.png"))) == 12
    read = score(options(trained, tmp_path / "read", folder=str(tmp_path / "out")))
    errors = {name: run["networks"]["one"]["errors"] for name, run in (("made", made), ("read", read))}
    assert not read["generated"] and list(errors["read"]) == NAMES
    assert all(errors["read"][name] == pytest.approx(errors["made"][name]) for name in NAMES)
    assert corrupt(where)["written"] == 0
    assert "Corrupted pictures come from a folder" in (tmp_path / "read" / "report.md").read_text()
    baseline = json.loads((tmp_path / "made" / "baseline_one.json").read_text())
    assert baseline["errors"]["contrast"] == pytest.approx(np.mean(made["networks"]["one"]["errors"]["contrast"]))
    robust = replace(options(trained, "").robust, baseline=str(tmp_path / "made" / "baseline_one.json"))
    again = score(replace(options(trained, tmp_path / "again"), robust=robust))
    assert again["networks"]["one"]["given"]["mCE"] == pytest.approx(100)


def test_written_pictures_are_jpeg_of_the_published_quality(trained, tmp_path):
    corrupt(CorruptFolder(trained[1], str(tmp_path), ["fog"], [2], size=32))
    with Image.open(next((tmp_path / "fog" / "2" / "class00").iterdir())) as image:
        assert image.format == "JPEG" and image.size == (32, 32)


def test_what_is_refused(trained, tmp_path):
    folder, _ = trained
    with pytest.raises(UserError, match="no contrast/1"):
        (tmp_path / "out" / "gaussian_noise" / "1").mkdir(parents=True)
        (tmp_path / "out" / "gaussian_noise" / "5").mkdir()
        score(options(trained, tmp_path / "run", folder=str(tmp_path / "out")))
    both = {name: str(folder / name / "best.safetensors") for name in ("one", "small")}
    with pytest.raises(UserError, match="one and small differ in size of pictures"):
        score(replace(options(trained, tmp_path / "two"), checkpoints=both))
    with pytest.raises(UserError, match="no network to test"):
        score(replace(options(trained, tmp_path / "three"), checkpoints={}))
    with pytest.raises(UserError, match="did you mean 'fog'"):
        corrupt(CorruptFolder(out=str(tmp_path / "x"), corruptions=["fogs"]))


def test_the_script_names_its_jobs():
    done = subprocess.run(
        [sys.executable, "-m", "tools.robustness", "scores"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "no job of tools.robustness: name one of score, corrupt" in done.stderr
