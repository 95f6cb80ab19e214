"""tools.classify from the command to the weights: trainings, tests and answers; resumed, on two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from backbones import UserError, read_checkpoint
from backbones.checkpoint import save_tensors
from classify.networks import Design
from tests.tools import tiny
from tests.tools.tiny_classify import eval_options, history, network, train_options
from tools.classify import evaluate, main, predict, shards, train
from tools.classify_config import ClassifyPredict, ClassifyShards, Network, Probe, TestData
from tools.evaluate import evaluate as evaluate_episodes
from tools.meta_train import meta_train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Class folders, 5 classes of 12 pictures of 20 px."""
    return tiny.folder(tmp_path_factory.mktemp("pictures"), 5, 12)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pictures) -> Path:
    """Weights that know the five classes."""
    run = tmp_path_factory.mktemp("trained")
    optim = {"epochs": 12, "lr": 0.1}
    metrics = train(train_options(run, str(pictures), str(pictures), optim=optim, data={"in_memory": True}))
    assert metrics["validation"]["accuracy"] > 0.6
    return Path(metrics["weights"])


def same(one: Path, other: Path) -> bool:
    a, b = read_checkpoint(one)[0], read_checkpoint(other)[0]
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_training_leaves_everything_behind(tmp_path, pictures, capsys):
    run = tmp_path / "run"
    config = train_options(run, str(pictures), str(pictures), pictures=True, data={"augment": "imagenet"})
    metrics = train(config)
    assert {path.name for path in run.iterdir()} == {
        *("config.yaml", "environment.json", "log.jsonl", "history.csv", "metrics.json", "card.md", "tensorboard"),
        *("best.safetensors", "last.ckpt", "curves.png", "pictures.png", "confusion.png"),
    }
    said = capsys.readouterr().out
    assert "multiply-adds; the same backbone with average pooling" in said and "images/s" in said
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {"images_per_second", "wait_share", "val_accuracy", "val_interval", "val_loss"} <= rows[0].keys()
    assert "val_top5" not in rows[0]  # of five classes
    state, card = read_checkpoint(metrics["weights"])
    assert card["class_names"] == [f"class{number}" for number in range(5)] and card["iterations"] == 5
    assert card["parameters"] == metrics["parameters"] > metrics["gap_parameters"]
    Design.of_card(card).build(5).load_state_dict(state)
    assert "Top-1" in (run / "card.md").read_text()


def test_workers_and_memory_change_nothing_but_speed(tmp_path, pictures):
    for name, workers in (("a", 0), ("b", 2)):
        more = {"augment": "imagenet", "randaug": "rand-m9-mstd0.5-inc1", "erasing": 0.5, "workers": workers}
        train(train_options(tmp_path / name, str(pictures), str(pictures), data=more, regular={"mixup": 0.4}))
    assert history(tmp_path / "a") == history(tmp_path / "b")
    assert same(tmp_path / "a/best.safetensors", tmp_path / "b/best.safetensors")


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, pictures):
    """SIGKILL in step 6 of 12, with an average of the weights, mixing, and a rate that moves with every step."""

    def config(name: str, **more):
        return train_options(
            tmp_path / name, str(pictures), str(pictures), optim={"epochs": 3, "save_steps": 2, "schedule": "linear"},
            regular={"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1, "average": 0.9},
            data={"augment": "imagenet"}, **more,
        )  # fmt: skip

    code = (
        "import os, signal\n"
        "from classify import mixing\n"
        "plain, done = mixing.single, iter(range(6))\n"
        "def single(logits):\n"
        "    import torch\n"
        "    if torch.is_grad_enabled() and next(done, None) is None: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return plain(logits)\n"
        "mixing.single = single\n"
        "from tools.classify import train\n"
        "from tools.classify_config import *\n"
        f"train({config('cut')!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(history(tmp_path / "cut")) == 1
    train(config("cut", resume=True))
    train(config("whole"))
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    assert same(tmp_path / "cut/best.safetensors", tmp_path / "whole/best.safetensors")


def test_another_length_is_another_cosine(tmp_path, pictures):
    train(train_options(tmp_path, str(pictures)))
    with pytest.raises(UserError, match="optim.epochs was 2 and is now 3"):
        train(train_options(tmp_path, str(pictures), optim={"epochs": 3}, resume=True))


def test_two_processes_read_shards_as_one(tmp_path, pictures, monkeypatch):
    """Two streams, on one process and on two; a transformer has no statistics of batches."""
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path / "cache"))
    shards(ClassifyShards(str(pictures), str(tmp_path / "shards"), per_shard=8))
    options = {"input_size": 16, "patch_size": 4, "depth": 1, "embed_dim": 16, "num_heads": 2}
    vit = Network("timm:vit_tiny_patch16_224", "sot", options, {"heads": 2, "width": 4})

    def config(name: str, **more):
        return train_options(
            tmp_path / name, str(tmp_path / "shards"), str(pictures), network=vit,
            data={"streams": 2, "window": 8, "augment": "imagenet"}, **more,
        )  # fmt: skip

    train(config("one"))
    two = asdict(config("two", machine=replace(tiny.CPU, devices=2)))
    (tmp_path / "recipe.yaml").write_text(json.dumps(two))  # which is YAML
    done = subprocess.run(
        [sys.executable, "-m", "tools.classify", "train", "--config", str(tmp_path / "recipe.yaml")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for one, other in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    states = [read_checkpoint(tmp_path / name / "best.safetensors")[0] for name in ("one", "two")]
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="optim.batch_size is 15, and the shards are read in 2 streams"):
        train(config("three", optim={"batch_size": 15}))


@pytest.mark.parametrize("views", ["centre", "ten"])
def test_a_checkpoint_is_tested(tmp_path, pictures, trained, views, capsys):
    metrics = evaluate(eval_options(tmp_path, trained, str(pictures), data={"views": views}, pictures=True))
    assert metrics["accuracy"] > 0.6 and metrics["pictures"] == 60 and metrics["view"]["size"] == 16
    assert {"answers.csv", "classes.csv", "confusion.png", "metrics.json"} <= {p.name for p in tmp_path.iterdir()}
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 61
    assert f"top-1 {100 * metrics['accuracy']:.2f} ± " in capsys.readouterr().out


def test_some_of_the_classes_are_enough_and_others_are_none(tmp_path, trained):
    some = tiny.folder(tmp_path / "some", 3, 4)
    assert evaluate(eval_options(tmp_path / "a", trained, str(some)))["classes"] == 5
    (some / "class1").rename(some / "clas1")
    with pytest.raises(UserError, match="1 class of 3 that the network was not trained on.*did you mean 'class1'"):
        evaluate(eval_options(tmp_path / "b", trained, str(some)))
    with pytest.raises(UserError, match="some has 1 class of 3 that"):
        train(train_options(tmp_path / "c", str(tiny.folder(tmp_path / "five", 5, 4)), str(some)))
    assert not (tmp_path / "c").exists()


def test_answers_with_heat_maps(tmp_path, pictures, trained):
    odd = tmp_path / "odd"
    odd.mkdir()
    Image.new("CMYK", (30, 50)).save(odd / "cmyk.jpg")
    Image.new("LA", (1, 1), (80, 120)).save(odd / "pixel.png")
    query = [str(odd), str(pictures / "class2" / "0.png")]
    config = ClassifyPredict(str(tmp_path / "run"), str(trained), query, top=2, batch_size=2, machine=tiny.CPU)
    metrics = predict(config)
    assert len(metrics["answers"]) == 3 and all(len(said) == 2 for said in metrics["answers"].values())
    assert metrics["answers"][query[1]][0]["class"] == "class2"
    lines = (tmp_path / "run" / "answers.csv").read_text().splitlines()
    assert lines[0] == "file,class_1,probability_1,class_2,probability_2" and len(lines) == 4
    assert (tmp_path / "run" / "heat_001.png").read_bytes().startswith(b"\x89PNG")
    predict(replace(config, heat=0, overwrite=True))
    assert not list((tmp_path / "run").glob("heat_*.png"))  # those of the earlier answers are gone


@pytest.mark.parametrize("pool", ["isqrt", "bdc"])
def test_a_trained_backbone_feeds_the_few_shot_scripts(tmp_path, pictures, packs, pool):
    """Its weights are taken as they are; BDC pooling goes on in the heads that are made for it."""
    run = tmp_path / "run"
    weights = train(train_options(run, str(pictures), network=network(pool), optim={"epochs": 1}))["weights"]
    metrics = evaluate_episodes(tiny.evaluate_options(tmp_path / "test", weights, packs["test"]))
    assert metrics["stage"] == "classify"
    method = "meta_deepbdc" if pool == "bdc" else "protonet"
    config = tiny.meta_options(
        tmp_path / "meta", weights, packs["train"], method=method, optim={"epochs": 1, "lr": 1e-30}
    )
    tuned = read_checkpoint(meta_train(config)["weights"])[0]
    start = read_checkpoint(weights)[0]
    learned = [key for key in start if key.startswith("backbone.") and key.endswith("weight")]
    assert learned and all(torch.equal(start[key], tuned[key]) for key in learned)
    assert ("pool.reduce.0.weight" in tuned) == (pool == "bdc")


def test_a_trained_transformer_feeds_the_few_shot_scripts(tmp_path, pictures, packs):
    """Its tokens are a map there; what stood over them stays behind."""
    options = {"input_size": 16, "patch_size": 4, "depth": 1, "embed_dim": 16, "num_heads": 2}
    vit = Network("timm:vit_tiny_patch16_224", "so_vit", options, {"dims": [4, 4]})
    weights = train(train_options(tmp_path / "run", str(pictures), network=vit, optim={"epochs": 1}))["weights"]
    metrics = evaluate_episodes(tiny.evaluate_options(tmp_path / "test", weights, packs["test"], k_shot=[1]))
    assert metrics["stage"] == "classify"


def test_other_classes_get_a_fresh_classifier_and_the_same_keep_theirs(tmp_path, pictures, trained, capsys):
    start = replace(network(), weights=str(trained))
    frozen = {"epochs": 1, "lr": 1e-30}
    train(train_options(tmp_path / "same", str(pictures), network=start, optim=frozen))
    assert "starting fresh" not in capsys.readouterr().out
    other = tiny.folder(tmp_path / "other", 4, 5)
    train(train_options(tmp_path / "other_run", str(other), network=start, optim=frozen))
    assert "starting fresh: classifier" in capsys.readouterr().out
    states = [read_checkpoint(path)[0] for path in (trained, tmp_path / "same/best.safetensors")]
    assert torch.allclose(states[0]["classifier.weight"], states[1]["classifier.weight"])
    found = read_checkpoint(tmp_path / "other_run/best.safetensors")[0]
    assert torch.equal(found["pool.reduce.0.weight"], states[0]["pool.reduce.0.weight"])
    average = replace(network("gap", reduction=None), weights=str(trained), frozen="backbone")
    train(train_options(tmp_path / "gap", str(other), network=average, optim={"epochs": 1}))
    found = read_checkpoint(tmp_path / "gap/best.safetensors")[0]
    key = next(key for key in found if key.startswith("backbone.") and found[key].dim() == 4)
    assert torch.equal(found[key], states[0][key])


def test_what_is_the_same_by_other_ways(tmp_path, pictures):
    """torch.compile (a backend that needs no compiler), channels-last off, and accumulated steps."""
    train(train_options(tmp_path / "plain", str(pictures)))
    train(train_options(tmp_path / "compiled", str(pictures), compile="eager"))
    machine = replace(tiny.CPU, channels_last=False)
    train(train_options(tmp_path / "first", str(pictures), machine=machine))
    for name in ("compiled", "first"):
        for one, other in zip(history(tmp_path / "plain"), history(tmp_path / name), strict=True):
            assert one == pytest.approx(other, rel=1e-3)
    assert (
        read_checkpoint(tmp_path / "compiled/best.safetensors")[0].keys()
        == read_checkpoint(tmp_path / "plain/best.safetensors")[0].keys()
    )
    machine = replace(tiny.CPU, precision="bf16-mixed")
    config = train_options(
        tmp_path / "half", str(pictures), machine=machine, optim={"accumulate": 2, "name": "adamw", "lr": 1e-3}
    )
    assert train(config)["kept"]["loss"] < 1.8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": network(pool_options={"iterations": 0})}, "does not take these options"),
        ({"network": Network("mpncov_resnet5")}, "did you mean 'mpncov_resnet50'"),
        ({"data": {"size": 2}}, "pictures of 2 pixels are too small"),
        ({"optim": {"warmup_epochs": 2}}, "leave none of 2 epochs"),
        ({"data": {"scale": [0.5]}}, "data.scale is \\[0.5\\]"),
        ({"regular": {"average": 1.0}}, "regular.average must be in \\[0, 1\\)"),
        ({"data": {"flip": 1.5}}, "data.flip must be in \\[0, 1\\]"),
        ({"network": network(frozen="99")}, "the backbone has 8 layers"),
        ({"network": network(frozen="bakbone")}, "network.frozen is 'bakbone': give backbone"),
        ({"probe": Probe(2, low=5.0, high=1.0)}, "probe.low, probe.high, probe.count: .*no range"),
    ],
)
def test_bad_options_are_told_before_anything_is_written(tmp_path, pictures, changes, words):
    with pytest.raises(UserError, match=words):
        train(train_options(tmp_path / "run", str(pictures), **changes))
    assert not (tmp_path / "run").exists()


def test_one_class_and_no_pictures(tmp_path, trained):
    with pytest.raises(UserError, match="has one class"):
        train(train_options(tmp_path / "run", str(tiny.folder(tmp_path / "one", 1, 4))))
    with pytest.raises(UserError, match="--data.test"):
        evaluate(replace(eval_options(tmp_path / "run", trained, ""), data=TestData()))
    with pytest.raises(UserError, match="--query"):
        predict(ClassifyPredict(str(tmp_path / "run"), str(trained), machine=tiny.CPU))


def test_options_do_not_speak_against_a_card(tmp_path, pictures, trained):
    with pytest.raises(UserError, match="is of conv4 with isqrt.*leave network.pool gap out"):
        evaluate(eval_options(tmp_path / "a", trained, str(pictures), network=Network(pool="gap")))
    state, card = read_checkpoint(trained)
    save_tensors(state, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="does not tell its network, and it is not gcp_resnet18: name it"):
        evaluate(eval_options(tmp_path / "b", tmp_path / "bare.safetensors", str(pictures), data={"size": 64}))
    save_tensors(state, tmp_path / "few.safetensors", {"stage": "pretrain"})
    with pytest.raises(UserError, match=r"weights of another script \(stage pretrain\), which tools.evaluate tests"):
        evaluate(eval_options(tmp_path / "b", tmp_path / "few.safetensors", str(pictures), data={"size": 64}))
    del card["design"]
    save_tensors(state, tmp_path / "other.safetensors", card)
    with pytest.raises(UserError, match="card of this checkpoint does not tell its network"):
        evaluate(eval_options(tmp_path / "c", tmp_path / "other.safetensors", str(pictures)))


def test_shards_are_refused_before_and_broken_pictures_left_out(tmp_path, capsys):
    broken = tiny.folder(tmp_path / "broken", 2, 4)
    (broken / "class0" / "0.png").write_bytes(b"no picture")
    out = tmp_path / "shards"
    with pytest.raises(UserError, match=r"0\.png' \(it is no picture.*--skip-broken"):
        shards(ClassifyShards(str(broken), str(out)))
    with pytest.raises(UserError, match=r"cannot write to the folder of the shards .*is a file.*--out"):
        shards(ClassifyShards(str(broken), str(broken / "class0" / "1.png")))
    with pytest.raises(UserError, match="leave out slashes"):
        shards(ClassifyShards(str(broken), str(out), "a/b"))
    with pytest.warns(UserWarning, match="1 of 8 images cannot be read"):
        shards(ClassifyShards(str(broken), str(out), skip_broken=True))
    assert "7 pictures of 2 classes" in capsys.readouterr().out


def test_a_test_that_is_there_already_names_no_option_that_it_lacks(tmp_path, pictures, trained):
    evaluate(eval_options(tmp_path, trained, str(pictures)))
    with pytest.raises(UserError, match="holds a run: give another --run, or --overwrite true"):
        evaluate(eval_options(tmp_path, trained, str(pictures)))


def test_damaged_weights_and_names_give_no_answer(tmp_path, pictures, trained):
    state, card = read_checkpoint(trained)
    mean = next(key for key in state if key.endswith("running_mean"))  # no weight: those are looked at in reading
    save_tensors({**state, mean: state[mean] * float("nan")}, tmp_path / "nan.safetensors", card)
    config = ClassifyPredict(
        str(tmp_path / "run"), str(tmp_path / "nan.safetensors"), [str(pictures)], machine=tiny.CPU
    )
    with pytest.raises(UserError, match="answers nan to 32 of 32 pictures"):
        predict(config)
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="names.txt' is not a text file"):
        predict(
            replace(config, run=str(tmp_path / "new"), checkpoint=str(trained), class_names=str(tmp_path / "names.txt"))
        )


def test_jobs(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["trian"])
    assert stopped.value.code == 2 and "is no job of tools.classify" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2 and "train" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["eval", "--checkpoint", "nowhere.safetensors", "--data.test", "digits", "--run", "/nonexistent/x"])
    assert stopped.value.code == 2
