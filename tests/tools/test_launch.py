"""Scripts on two processes of their own, as users start them: Fabric's launcher, torchrun, srun's environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backbones import UserError
from episodes.errors import Elsewhere
from tests.tools import tiny
from tools.evaluate import evaluate
from tools.groups import Machine
from tools.launch import launched, open_fabric
from tools.pretrain import pretrain

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


def start(*command: str) -> subprocess.Popen:
    """Start a command whose processes all hold its pipes: reading them to the end waits for the last one of them."""
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def flags(run: Path, packs: dict[str, str]) -> list[str]:
    """Options of `options_of` as flags. The backbone is frozen, so no batch statistics depend on the processes."""
    options = {
        "data": {"train": packs["train"], "val": packs["val"], "size": 16, "augment": "standard"},
        "model": {"method": "protonet", "backbone": "conv4", "backbone_options": tiny.NETWORK, "frozen": True},
        "optim": {"epochs": 3, "batch_size": 16, "lr": 0.05, "temperature_lr": 1e-3, "milestones": [1]},
        "validation": {"n_query": 3, "episodes": 11},
    }
    recipe = run.parent / "recipe.yaml"
    recipe.write_text(json.dumps(options))  # which is YAML
    return ["--config", str(recipe), "--out", str(run), "--machine.accelerator", "cpu"]


def options_of(run: Path, packs: dict[str, str], **options):
    model = tiny.model("protonet", frozen=True)
    config = tiny.pretrain_options(run, packs["train"], packs["val"], model=model, optim={"epochs": 3}, **options)
    config.data.augment, config.validation.episodes = "standard", 11
    return config


def history(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "wait_share")} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, packs) -> list[dict]:
    """Rows of the same training on one process."""
    run = tmp_path_factory.mktemp("undisturbed")
    pretrain(options_of(run, packs))
    return history(run)


def assert_same(rows: list[dict], undisturbed: list[dict]) -> None:
    assert [row.keys() for row in rows] == [row.keys() for row in undisturbed]
    for row, other in zip(rows, undisturbed, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


def test_a_killed_process_ends_the_run_which_goes_on_later(tmp_path, packs, undisturbed):
    """SIGKILL in the second of three epochs: of rank 1 under torchrun, of rank 0 (the launcher) under Fabric."""
    runs = {"torchrun": tmp_path / "torchrun", "fabric": tmp_path / "fabric"}
    started = {
        "torchrun": start(*TORCHRUN, "-m", "tests.tools.ending", "1", "8", *flags(runs["torchrun"], packs)),
        "fabric": start(
            "-m", "tests.tools.ending", "0", "8", *flags(runs["fabric"], packs), "--machine.devices", "2"
        ),
    }  # fmt: skip
    for name, process in started.items():
        _, errors = process.communicate(timeout=120)
        assert process.returncode not in (0, None), name
        # torchrun tells the other process to end as well, and is first now and then
        lost = f"since another process of this run has ended; the last good checkpoint is {runs[name] / 'last.ckpt'}"
        assert lost in errors or (name == "torchrun" and "was told to end" in errors), errors
        assert "go on with --resume true" in errors
        assert torch.load(runs[name] / "last.ckpt", weights_only=True)["format"] == 1
        assert len(history(runs[name])) == 1
    pretrain(options_of(runs["torchrun"], packs, resume=True))
    assert_same(history(runs["torchrun"]), undisturbed)
    again = start("-m", "tools.pretrain", *flags(runs["fabric"], packs), "--machine.devices", "2", "--resume", "true")
    said, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert said.count("resuming") == 1  # the first process speaks, the other does not
    assert_same(history(runs["fabric"]), undisturbed)


def test_two_processes_test_as_one(tmp_path, packs, pretrained):
    """Started as srun does it, each process by its own variables; the store on disk is filled by both."""
    alone = tmp_path / "alone"
    weights = str(pretrained["meta_deepbdc"])
    evaluate(tiny.evaluate_options(alone, weights, packs["test"]))
    options = [
        *("--run", str(tmp_path / "two"), "--checkpoint", weights, "--test", packs["test"], "--k_shot", "1", "2"),
        *("--n_query", "5", "--episodes", "50", "--pictures", "false", "--features", str(tmp_path / "features")),
    ]
    slurm = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "covey", "SLURM_NODELIST": "localhost",
        "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tools.evaluate", *options, "--machine.accelerator", "cpu"],
            cwd=ROOT, env={**os.environ, **slurm, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "OMP_NUM_THREADS": "1"},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "results in" in said[0][0]
    assert said[1][0] == ""
    assert (tmp_path / "two" / "episodes.csv").read_text() == (alone / "episodes.csv").read_text()
    assert len(list((tmp_path / "features").glob("*/store.json"))) == 1


def test_who_has_started_the_processes_says_how_many(monkeypatch):
    assert launched(Machine(devices=3, num_nodes=2)) == (3, 2)
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert launched(Machine()) == (4, 2)
    assert launched(Machine(devices="4", num_nodes=2)) == ("4", 2)
    assert launched(Machine(devices="auto")) == (4, 2)
    assert launched(Machine(devices="0,1,2,3")) == ("0,1,2,3", 2)
    with pytest.raises(UserError, match="torchrun has started 4 processes on this node, not 2: leave out"):
        launched(Machine(devices=2))
    with pytest.raises(UserError, match="torchrun runs on 2 nodes, not 3"):
        launched(Machine(num_nodes=3))
    for rank, kind in (("0", UserError), ("1", Elsewhere)):  # the first process of a node speaks for all
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(UserError) as caught:
            launched(Machine(devices=2))
        assert type(caught.value) is kind


def test_slurm_must_say_how_many_processes_a_node_has(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NAME", "covey")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert launched(Machine(devices=3)) == (3, 1)  # in the batch script itself, which srun has not started
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(UserError, match="--ntasks-per-node"):
        launched(Machine())
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert launched(Machine()) == (2, 2)


def test_a_batch_script_without_srun_is_one_process(monkeypatch):
    for name, value in {"NTASKS": "4", "NTASKS_PER_NODE": "2", "NNODES": "2", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_JOB_NAME", "covey")
    assert open_fabric(Machine(accelerator="cpu"), 0).world_size == 1


@pytest.mark.parametrize("devices", ["abc", -2])
def test_devices_that_are_none_are_refused(devices):
    with pytest.raises(UserError, match="cannot use this machine as asked"):
        open_fabric(Machine(accelerator="cpu", devices=devices), 0)


@pytest.mark.parametrize("devices", [0, "0"])
def test_no_device_at_all_is_refused_with_what_to_give(devices):
    with pytest.raises(UserError, match="leaves no device to work on: give 1 or more, or auto"):
        open_fabric(Machine(accelerator="cpu", devices=devices), 0)


def test_synchronised_batch_statistics_need_gpus():
    with pytest.raises(UserError, match="sync_batchnorm needs GPUs"):
        open_fabric(Machine(accelerator="cpu", devices=2, sync_batchnorm=True), 0)


def test_threads_are_those_asked_for():
    before = torch.get_num_threads()
    try:
        open_fabric(Machine(accelerator="cpu", threads=before + 1), 0)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
