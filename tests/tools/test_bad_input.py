"""What users get wrong: one clear sentence, exit code 2, before long work, and nothing half done left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from backbones.checkpoint import save_weights
from fewshot.card import design
from fewshot.encoder import PretrainModel
from tests.tools import tiny
from tools.cli import run_tool
from tools.config import Evaluate, MetaTrain, Pretrain, SelfDistill
from tools.evaluate import evaluate
from tools.meta_train import meta_train
from tools.pretrain import pretrain
from tools.self_distill import self_distill

ROOT = Path(__file__).resolve().parents[2]
JOBS = {Pretrain: pretrain, MetaTrain: meta_train, SelfDistill: self_distill, Evaluate: evaluate}


@pytest.fixture
def run(tmp_path, capsys):
    """Run a script on options (as a recipe) and more flags; returns its exit code and what it printed as an error."""

    def start(config, *flags: str) -> tuple[int, str]:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(asdict(config)))
        capsys.readouterr()
        kept = warnings.formatwarning
        try:
            run_tool(type(config), "script", JOBS[type(config)], ["--config", str(recipe), *flags])
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        finally:
            warnings.formatwarning = kept
        return code, capsys.readouterr().err

    return start


def assert_refused(result: tuple[int, str], *words: str) -> None:
    code, err = result
    assert code == 2
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err  # one sentence, no traceback
    for word in words:
        assert word in err, err


def break_files(root: Path, how: str) -> list[Path]:
    """Damage two files of a folder, each in another class."""
    files = [root / "class1" / "3.png", root / "class4" / "0.png"]
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if how == "truncated" else b"<html>not found</html>")
    return files


def test_a_missing_folder(run, tmp_path):
    assert_refused(run(tiny.pretrain_options(tmp_path / "run", "no/such/folder")), "'no/such/folder'")
    assert not (tmp_path / "run").exists()


def test_a_missing_validation_or_test_set(run, tmp_path, packs, pretrained):
    assert_refused(run(tiny.pretrain_options(tmp_path / "a", packs["train"], "nothing/here")), "'nothing/here'")
    assert_refused(
        run(tiny.evaluate_options(tmp_path / "b", str(pretrained["protonet"]), "nothing/here")), "'nothing/here'"
    )
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_an_empty_folder_and_an_empty_class(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(run(tiny.pretrain_options(tmp_path / "run", str(tmp_path / "empty"))), "holds no class folders")
    root = tiny.folder(tmp_path / "set")
    (root / "class9").mkdir()
    assert_refused(run(tiny.pretrain_options(tmp_path / "run", str(root))), "class9' has no image")
    assert not (tmp_path / "run").exists()


def test_a_class_with_too_few_items(run, tmp_path, packs, pretrained):
    root = tiny.folder(tmp_path / "set", classes=6)
    for file in sorted((root / "class2").iterdir())[3:]:
        file.unlink()
    message = ("'class2' has 3", "need 4 items in every class")
    config = tiny.meta_options(tmp_path / "m", str(pretrained["protonet"]), str(root))
    assert_refused(run(config), *message)
    assert_refused(run(tiny.pretrain_options(tmp_path / "p", packs["train"], str(root))), *message)
    config = tiny.evaluate_options(tmp_path / "e", str(pretrained["protonet"]), str(root), k_shot=[1], n_query=3)
    assert_refused(run(config), *message)
    assert run(config, "--drop_small")[0] == 0


@pytest.mark.parametrize("how", ["truncated", "no image"])
def test_broken_files_are_counted_and_named_before_training(run, tmp_path, how):
    root = tiny.folder(tmp_path / "set")
    files = break_files(root, how)
    config = tiny.pretrain_options(tmp_path / "run", str(root), optim={"epochs": 1})
    assert_refused(run(config), "2 of 40 images cannot be read", *map(str, files), "--skip-broken")
    assert not (tmp_path / "run").exists()
    assert_refused(run(tiny.evaluate_options(tmp_path / "e", None, str(root))), "2 of 40 images cannot be read")


@pytest.mark.filterwarnings("default")
def test_broken_files_are_skipped_on_request_and_never_silently(run, tmp_path, recwarn):
    root = tiny.folder(tmp_path / "set")
    files = break_files(root, "truncated")
    config = tiny.pretrain_options(tmp_path / "run", str(root), optim={"epochs": 1, "batch_size": 38})
    assert run(config, "--skip-broken")[0] == 0
    said = [str(entry.message) for entry in recwarn if "cannot be read" in str(entry.message)]
    assert len(said) == 1
    assert "2 of 40 images" in said[0]
    assert all(str(file) in said[0] for file in files)
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_sound_files_of_odd_ends_are_not_refused(run, tmp_path):
    """Trailing bytes and other formats: only what cannot be decoded is broken."""
    from PIL import Image

    root = tiny.folder(tmp_path / "set")
    with open(root / "class0" / "0.png", "ab") as file:
        file.write(b"written by a camera")
    image = Image.open(root / "class1" / "1.png")
    image.save(root / "class1" / "1.bmp")
    image.save(root / "class1" / "1.jpg")
    (root / "class1" / "1.png").unlink()
    assert run(tiny.pretrain_options(tmp_path / "run", str(root), optim={"epochs": 1}))[0] == 0


def test_a_checkpoint_of_another_architecture(run, tmp_path, packs):
    plan, encoder = design("meta_deepbdc", "conv4", {**tiny.NETWORK, "width": 6})
    card = {**plan.card("pretrain"), "backbone_options": tiny.NETWORK}  # says width 8
    save_weights(PretrainModel(encoder, 8), tmp_path / "other.safetensors", card)
    path = str(tmp_path / "other.safetensors")
    words = (path, "checkpoint of another architecture", "backbone.blocks.0.0.weight (6, 3, 3, 3) instead of")
    assert_refused(run(tiny.meta_options(tmp_path / "m", path, packs["train"])), *words)
    assert_refused(run(tiny.distill_options(tmp_path / "d", path, packs["train"])), *words)
    assert_refused(run(tiny.evaluate_options(tmp_path / "e", path, packs["test"])), *words)
    options = tiny.model("meta_deepbdc", weights=path)
    assert_refused(run(tiny.pretrain_options(tmp_path / "p", packs["train"], model=options)), *words)


def test_a_checkpoint_of_another_pooling(run, tmp_path, packs, pretrained):
    config = tiny.evaluate_options(tmp_path, str(pretrained["protonet"]), packs["test"], method="stl_deepbdc")
    assert_refused(run(config), "has no BDC pooling, which stl_deepbdc needs")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "text", "half"])
def test_a_damaged_checkpoint(run, tmp_path, packs, pretrained, content):
    whole = pretrained["protonet"].read_bytes()
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert_refused(run(tiny.evaluate_options(tmp_path / "e", str(path), packs["test"])), str(path))
    assert_refused(run(tiny.meta_options(tmp_path / "m", str(path), packs["train"])), str(path))


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_half_written_checkpoint_on_resume(run, tmp_path, packs, keep):
    config = tiny.pretrain_options(tmp_path / "run", packs["train"], optim={"epochs": 1})
    assert run(config)[0] == 0
    last = tmp_path / "run" / "last.ckpt"
    last.write_bytes(last.read_bytes()[: int(keep * last.stat().st_size)])
    assert_refused(run(config, "--resume"), str(last), "half written", "--overwrite")
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_resuming_another_model(run, tmp_path, packs):
    config = tiny.pretrain_options(tmp_path / "run", packs["train"], optim={"epochs": 1})
    assert run(config)[0] == 0
    assert_refused(run(config, "--resume", "--model.backbone_options.width", "6"), "model.backbone_options.width was 8")


def test_more_ways_than_classes(run, tmp_path, packs, pretrained):
    start = str(pretrained["protonet"])
    words = ("9-way", "need 9 classes, but there are 8", "lower n_way")
    assert_refused(run(tiny.meta_options(tmp_path / "m", start, packs["train"]), "--episodes.n_way", "9"), *words)
    assert_refused(run(tiny.evaluate_options(tmp_path / "e", start, packs["train"]), "--n_way", "9"), *words)
    config = tiny.pretrain_options(tmp_path / "p", packs["train"], packs["train"])
    assert_refused(run(config, "--validation.n_way", "9"), *words)


def test_a_loss_that_is_not_finite(run, tmp_path, packs):
    """A rate this high breaks any network; the checkpoint of the first, gentle epoch stays."""
    config = tiny.pretrain_options(tmp_path / "run", packs["train"], optim={"epochs": 1, "lr": 1e-3})
    assert run(config)[0] == 0
    config.optim.lr, config.overwrite = 1e30, True
    code, err = run(config)
    assert_refused((code, err), "step", "epoch 1", "lower the rate")
    assert "finite" in err or "nan" in err or "inf" in err


def test_a_loss_that_breaks_later_names_the_last_good_checkpoint(run, tmp_path, packs):
    import torch

    config = tiny.pretrain_options(tmp_path / "run", packs["train"], optim={"epochs": 1})
    assert run(config)[0] == 0
    last = tmp_path / "run" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    for group in content["optimizer"]["param_groups"]:
        group["lr"] = 1e30  # as a rate that suddenly rises
    torch.save(content, last)
    before = last.read_bytes()
    config.optim.epochs, config.optim.schedule = 3, "multistep"
    assert_refused(run(config, "--resume"), "epoch 2", "step", f"last good checkpoint is {last}")
    assert last.read_bytes() == before


@pytest.mark.parametrize("place", ["below a file", "/proc"])
@pytest.mark.parametrize("script", ["pretrain", "meta_train", "self_distill", "evaluate"])
def test_an_output_folder_that_cannot_be_written(run, tmp_path, packs, pretrained, script, place):
    (tmp_path / "file").write_text("")
    folder = Path("/proc/covey") if place == "/proc" else tmp_path / "file" / "run"
    if place == "/proc" and not os.path.isdir("/proc/self"):
        pytest.skip("needs a file system that nobody can write to")
    start = str(pretrained["meta_deepbdc"])
    config = {
        "pretrain": lambda: tiny.pretrain_options(folder, packs["train"]),
        "meta_train": lambda: tiny.meta_options(folder, start, packs["train"]),
        "self_distill": lambda: tiny.distill_options(folder, start, packs["train"]),
        "evaluate": lambda: tiny.evaluate_options(folder, start, packs["test"]),
    }[script]()
    assert_refused(run(config), "cannot write to the run folder", str(folder))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--optim.epochs", "0"], "optim.epochs must be at least 1, not 0"),
        (["--optim.batch_size", "0"], "optim.batch_size must be at least 1"),
        (["--optim.accumulate", "0"], "optim.accumulate must be at least 1"),
        (["--optim.lr", "-1"], "optim.lr must be above 0"),
        (["--machine.timeout_minutes", "0"], "machine.timeout_minutes must be above 0"),
        (["--optim.lr", ".nan"], "optim.lr must be above 0"),
        (["--optim.momentum", "0"], "Nesterov's step needs momentum"),
        (["--model.dropout", "1.5"], "model.dropout must be in [0, 1)"),
        (["--model.reduce_dim", "0"], "model.reduce_dim must be at least 1"),
        (["--model.reduce_dim", "-4"], "model.reduce_dim must be at least 1"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--data.workers", "-1"], "data.workers must be at least 0"),
        (["--data.size", "0"], "data.size must be at least 1"),
        (["--model.method", "meta_deepbcd"], "did you mean 'meta_deepbdc'"),
        (["--model.backbone", "resnet_12"], "did you mean 'resnet12'"),
        (["--model.backbone", "timm:resnet5000"], "timm has no model"),
        (["--model.backbone_options.widht", "4"], "it has no option 'widht'; did you mean 'width'?"),
        (["--machine.precision", "12-mixed"], "machine.precision must be one of 32-true, "),
        (["--optim.momentum", "1"], "optim.momentum must be in [0, 1), not 1"),
        (["--validation.k_shot", "0"], "validation.k_shot must be at least 1, not 0"),
        (["--validation.n_way", "1"], "validation.n_way must be at least 2, not 1"),
        (["--validation.n_query", "0"], "validation.n_query must be at least 1"),
        (["--validation.episodes", "0"], "validation.episodes must be at least 1"),
        (["--machine.accelerator", "gpuu"], "cannot use this machine as asked"),
        (["--machine.threads", "0"], "machine.threads must be at least 1"),
        (["--data.train", "glyphs:latim"], "did you mean 'latin'"),
        (["--data.train", "glyphs:latin?sise=3"], "did you mean 'size'"),
    ],
)
def test_options_that_no_script_can_work_with(run, tmp_path, packs, flags, words):
    assert_refused(run(tiny.pretrain_options(tmp_path / "run", packs["train"]), *flags), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--test", "[]"], "test is an empty list"),
        (["--k_shot", "[]"], "k_shot is an empty list"),
        (["--k_shot", "0"], "each must be at least 1"),
        (["--episodes", "0"], "episodes must be at least 1"),
        (["--size", "3"], "pictures of 3 pixels are too small for the backbone"),
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--method", "good_embed", "--model.head.C", "-1"], "C must be a number above 0"),
        (["--method", "good_embed", "--model.head.c", "1"], "does not take these options"),
    ],
)
def test_tests_that_cannot_be_run(run, tmp_path, packs, pretrained, flags, words):
    assert_refused(
        run(tiny.evaluate_options(tmp_path / "run", str(pretrained["protonet"]), packs["test"]), *flags), words
    )
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_fetched(run, tmp_path, packs, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    config = tiny.evaluate_options(tmp_path / "run", None, packs["test"], method="protonet")
    config.model.backbone, config.model.backbone_options = "timm:resnet10t.c3_in1k", {"pretrained": True}
    assert_refused(run(config), "cannot fetch the weights of timm:resnet10t.c3_in1k", "--model.weights")
    assert not (tmp_path / "run").exists()


def test_a_pack_without_its_arrays(run, tmp_path):
    np.savez(tmp_path / "bad.npz", images=np.zeros((2, 4, 4), np.uint8))
    assert_refused(run(tiny.pretrain_options(tmp_path / "run", str(tmp_path / "bad.npz"))), "has no array 'label'")


def test_the_exit_code_of_a_real_process(tmp_path):
    command = [sys.executable, "-m", "tools.pretrain", "--data.train", "no/such", "--run", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no file, folder or source 'no/such'")
    assert "Traceback" not in done.stderr
