"""The folder of a run: what lies in it, and when it refuses."""

from __future__ import annotations

import csv
import json
import os

import pytest
import yaml

from episodes.errors import UserError
from episodes.run import RunFolder, check_run, environment, write_text

CONFIG = {"seed": 1, "optim": {"lr": 0.1, "epochs": 4, "schedule": "multistep"}, "data": {"workers": 0, "train": "a"}}


def changed(**values) -> dict:
    """The configuration with some values set, as group__key."""
    config = json.loads(json.dumps(CONFIG))
    for name, value in values.items():
        *group, key = name.split("__")
        (config[group[0]] if group else config)[key] = value
    return config


def begun(path, config=CONFIG):
    run = RunFolder(path, config)
    run.last.write_bytes(b"a checkpoint")
    return run


def test_configuration_and_environment_are_written_at_once(tmp_path):
    run = RunFolder(tmp_path / "deep" / "run", CONFIG)
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == CONFIG
    facts = json.loads((run.path / "environment.json").read_text())
    assert {"python", "torch", "numpy", "commit", "device", "command"} <= facts.keys()


def test_the_environment_needs_no_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["commit"] == "unknown"


def test_a_folder_with_a_run_is_refused(tmp_path):
    RunFolder(tmp_path, CONFIG)
    with pytest.raises(UserError, match="already holds a run"):
        RunFolder(tmp_path, CONFIG)
    with pytest.raises(UserError, match="already holds a run"):
        check_run(tmp_path)


def test_the_check_creates_nothing(tmp_path):
    check_run(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refuse", [check_run, lambda path: RunFolder(path, CONFIG)])
def test_a_folder_below_a_file_is_refused(tmp_path, refuse):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the run folder .* is a file"):
        refuse(tmp_path / "file" / "run")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that nobody can write to")
def test_a_file_system_that_takes_nothing_is_refused():
    with pytest.raises(UserError, match="cannot write to the run folder"):
        RunFolder("/proc/covey", CONFIG)


def test_overwriting_leaves_nothing_of_the_old_run(tmp_path):
    run = begun(tmp_path)
    run.write_history([{"epoch": 0, "loss": 1.0}])
    run.write_metrics({"a": 1})
    run.best.write_bytes(b"")
    again = RunFolder(tmp_path, CONFIG, overwrite=True)
    assert not again.resuming
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "environment.json"]


def test_resuming_needs_a_checkpoint(tmp_path):
    assert not RunFolder(tmp_path / "new", CONFIG, resume=True).resuming
    begun(tmp_path / "old")
    assert RunFolder(tmp_path / "old", CONFIG, resume=True).resuming


@pytest.mark.parametrize("values", [{"seed": 2}, {"optim__lr": 0.2}, {"data__train": "b"}, {"data__size": 84}])
def test_resuming_with_other_numbers_is_refused(tmp_path, values):
    begun(tmp_path)
    name = next(iter(values)).replace("__", ".")
    with pytest.raises(UserError, match=f"with other options: {name} was"):
        RunFolder(tmp_path, changed(**values), resume=True)


def test_what_changes_no_number_may_change(tmp_path):
    begun(tmp_path)
    config = changed(data__workers=4, optim__epochs=9, resume=True)
    assert RunFolder(tmp_path, config, resume=True).resuming
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == config


def test_a_cosine_cannot_be_made_longer(tmp_path):
    """Its rate is near zero where the first run ended."""
    begun(tmp_path, changed(optim__schedule="cosine"))
    with pytest.raises(UserError, match="optim.epochs was 4 and is now 9"):
        RunFolder(tmp_path, changed(optim__schedule="cosine", optim__epochs=9), resume=True)


def test_history_as_lines_and_as_a_table(tmp_path):
    run = RunFolder(tmp_path, CONFIG)
    rows = [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "loss": 1.25, "val_accuracy": 0.5}]
    run.write_history(rows)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == rows
    with open(tmp_path / "history.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert table[0] == {"epoch": "0", "loss": "1.5", "val_accuracy": ""}
    assert table[1]["val_accuracy"] == "0.5"


def test_only_the_main_process_writes(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG, main=False)
    run.write_history([{"epoch": 0}])
    run.write_metrics({})
    assert run.tensorboard() is None
    assert not run.path.exists()


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "new \udc80")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
