"""Pre-training from the command to the weights: what is left behind, and that a killed run is no other run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from backbones import UserError, read_checkpoint
from fewshot.methods import METHODS
from tests.tools import tiny
from tools.pretrain import pretrain

ROOT = Path(__file__).resolve().parents[2]


def history(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "wait_share")} for row in rows]


def same_weights(one: Path, other: Path) -> bool:
    a, b = read_checkpoint(one)[0], read_checkpoint(other)[0]
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_everything_behind(tmp_path, packs):
    run = tmp_path / "run"
    metrics = pretrain(tiny.pretrain_options(run, packs["train"], packs["val"]))
    files = {path.name for path in run.iterdir()}
    assert files == {
        *("config.yaml", "environment.json", "log.jsonl", "history.csv", "metrics.json"),
        *("best.safetensors", "last.ckpt", "curves.png", "card.md", "tensorboard"),
    }
    assert list((run / "tensorboard").glob("events.*"))
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["train"] == packs["train"]
    assert config["optim"]["milestones"] == [1]
    rows = history(run)
    assert len(rows) == 2
    assert rows[1]["loss"] < rows[0]["loss"]
    assert all(0 <= row["val_accuracy"] <= 1 for row in rows)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert metrics["steps"] == 2 * 6
    state, card = read_checkpoint(metrics["weights"])
    assert (card["stage"], card["method"], card["num_classes"]) == ("pretrain", "meta_deepbdc", 8)
    assert card["epoch"] == metrics["kept_epoch"] == max(rows, key=lambda row: row["val_accuracy"])["epoch"]
    assert state["classifier.weight"].shape == (8, 36)


def test_two_runs_are_alike_and_workers_change_nothing(tmp_path, packs):
    options = [tiny.pretrain_options(tmp_path / name, packs["train"], packs["val"]) for name in "ab"]
    options[1].data.workers = 2
    for config in options:
        config.data.augment = "standard"
        config.model.dropout = 0.5
        pretrain(config)
    assert history(tmp_path / "a") == history(tmp_path / "b")
    assert same_weights(tmp_path / "a" / "best.safetensors", tmp_path / "b" / "best.safetensors")


def test_another_seed_is_another_run(tmp_path, packs):
    for seed in (1, 2):
        pretrain(tiny.pretrain_options(tmp_path / str(seed), packs["train"], seed=seed))
    assert history(tmp_path / "1") != history(tmp_path / "2")


@pytest.mark.parametrize("save_steps", [0, 4])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, packs, save_steps):
    """SIGKILL after the forward pass of step 11 of 18: the second epoch has 6 steps, from 6 to 11."""
    options = {"optim": {"epochs": 3, "save_steps": save_steps}}

    def config(name: str, **more):
        made = tiny.pretrain_options(tmp_path / name, packs["train"], packs["val"], **options, **more)
        made.data.augment, made.model.dropout = "standard", 0.5
        return made

    code = (
        "import os, signal, sys\n"
        "import fewshot.encoder as encoder\n"
        "from tools.config import Pretrain\n"
        "from tools.groups import Data, Episodes, Machine, Model, Optim\n"
        "plain, done = encoder.classification_step, iter(range(11))\n"
        "def step(model, batch):\n"
        "    values = plain(model, batch)\n"
        "    if next(done, None) is None: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return values\n"
        "encoder.classification_step = step\n"
        "from tools.pretrain import pretrain\n"
        f"pretrain({config('cut')!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(history(tmp_path / "cut")) == 1
    pretrain(config("cut", resume=True))
    pretrain(config("whole"))
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    assert same_weights(tmp_path / "cut" / "best.safetensors", tmp_path / "whole" / "best.safetensors")
    last = [torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("cut", "whole")]
    assert all(torch.equal(last[0]["model"][key], last[1]["model"][key]) for key in last[1]["model"])


def test_the_temperature_has_a_rate_of_its_own(tmp_path, packs):
    """With next to no rate the temperature stays at its start, log(1 / (2 * 4 * 4)); without one it moves."""

    def moved(rate):
        optim = {"temperature_lr": rate, "weight_decay": 0.0}
        metrics = pretrain(tiny.pretrain_options(tmp_path / str(rate), packs["train"], optim=optim))
        return abs(read_checkpoint(metrics["weights"])[0]["pool.temperature"].item() + torch.log(torch.tensor(32.0)))

    assert moved(1e-9) < 1e-5
    assert moved(None) > 1e-4


def test_validation_reads_the_validation_set_and_no_other(tmp_path, packs):
    """Accuracies on the validation set differ from those on the training set; nothing else is opened."""
    pretrain(tiny.pretrain_options(tmp_path / "a", packs["train"], packs["val"]))
    pretrain(tiny.pretrain_options(tmp_path / "b", packs["train"], packs["train"]))
    first, second = history(tmp_path / "a"), history(tmp_path / "b")
    assert [row["loss"] for row in first] == [row["loss"] for row in second]
    assert [row["val_accuracy"] for row in first] != [row["val_accuracy"] for row in second]
    for name in ("config.yaml", "environment.json"):
        assert "test.npz" not in (tmp_path / "a" / name).read_text()


def test_last_and_later_validation(tmp_path, packs):
    config = tiny.pretrain_options(tmp_path, packs["train"], packs["val"], select="last", validate_from=1)
    metrics = pretrain(config)
    assert ["val_accuracy" in row for row in history(tmp_path)] == [False, True]
    assert metrics["kept_epoch"] == 2


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_can_be_pre_trained_and_validated(tmp_path, packs, name):
    metrics = pretrain(tiny.pretrain_options(tmp_path, packs["train"], packs["val"], name, optim={"epochs": 1}))
    assert 0 <= metrics["kept"]["val_accuracy"] <= 1


def test_a_run_starts_from_given_weights(tmp_path, packs, pretrained):
    options = tiny.model("meta_deepbdc", weights=str(pretrained["meta_deepbdc"]))
    optim = {"epochs": 1, "lr": 1e-30, "temperature_lr": 1e-30}
    metrics = pretrain(tiny.pretrain_options(tmp_path, packs["train"], model=options, optim=optim))
    start, end = (read_checkpoint(path)[0] for path in (pretrained["meta_deepbdc"], metrics["weights"]))
    assert torch.equal(start["backbone.blocks.0.0.weight"], end["backbone.blocks.0.0.weight"])


def test_a_frozen_backbone_stays(tmp_path, packs, pretrained):
    options = tiny.model("meta_deepbdc", weights=str(pretrained["meta_deepbdc"]), frozen=True)
    metrics = pretrain(tiny.pretrain_options(tmp_path, packs["train"], model=options))
    start, end = (read_checkpoint(path)[0] for path in (pretrained["meta_deepbdc"], metrics["weights"]))
    assert all(torch.equal(start[key], end[key]) for key in start if key.startswith("backbone."))
    assert not torch.equal(start["pool.temperature"], end["pool.temperature"])


def test_file_sources_and_memory(tmp_path):
    root = str(tiny.folder(tmp_path / "set"))
    config = tiny.pretrain_options(tmp_path / "files", root, root, optim={"epochs": 1})
    config.data.augment = "standard"
    assert pretrain(config)["steps"] == 3
    config = tiny.pretrain_options(tmp_path / "memory", root, optim={"epochs": 1})
    config.data.in_memory = True
    assert pretrain(config)["steps"] == 3


def test_a_second_run_in_the_same_folder_is_refused_at_once(tmp_path, packs):
    pretrain(tiny.pretrain_options(tmp_path, packs["train"], optim={"epochs": 1}))
    with pytest.raises(UserError, match="already holds a run"):
        pretrain(tiny.pretrain_options(tmp_path, "no/such/folder"))
    pretrain(tiny.pretrain_options(tmp_path, packs["train"], optim={"epochs": 1}, overwrite=True))


def test_classes_that_are_not_new_get_a_warning(tmp_path, packs):
    config = tiny.pretrain_options(tmp_path, packs["train"], packs["train"])
    config.optim.epochs = 1
    with pytest.warns(UserWarning, match="8 classes of the training data"):
        pretrain(config)


def test_one_class_is_no_training_set(tmp_path):
    config = tiny.pretrain_options(tmp_path / "run", tiny.pack(tmp_path / "one.npz", classes=1))
    with pytest.raises(UserError, match="has one class"):
        pretrain(config)
    assert not (tmp_path / "run").exists()


def test_resuming_what_never_ran_says_so(tmp_path, packs, capsys):
    config = tiny.pretrain_options(tmp_path, packs["train"])
    config.resume, config.optim.epochs = True, 1
    pretrain(config)
    assert "no checkpoint in" in capsys.readouterr().out
