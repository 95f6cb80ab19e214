"""Target tuning: from source weights to a small file of adapters that the test finds its network for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from backbones import UserError, read_checkpoint
from fewshot.card import read_card
from tests.tools import tiny_video
from tests.tools.tiny import CPU
from tools.evaluate import evaluate
from tools.groups import Episodes, Validation
from tools.video.models import read_video_model
from tools.video_config import VideoTune
from tools.video_groups import TuneOptim, Videos
from tools.video_tune import video_tune

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, str]:
    """Folders of films of different classes: train (6), val (3) and test (3)."""
    root, sets, first = tmp_path_factory.mktemp("films"), {}, 0
    for seed, (name, classes) in enumerate({"train": 6, "val": 3, "test": 3}.items()):
        sets[name] = tiny_video.films(root / name, classes, 6, seed, first)
        first += classes
    return sets


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    return str(tiny_video.source(tmp_path_factory.mktemp("source") / "source.safetensors"))


def options(run: Path, checkpoint: str | None, films: dict[str, str], val: bool = True, **changes) -> VideoTune:
    """Options of a tuning of two epochs on clips that do not change, nothing stored unless it is asked for."""
    data = {"augment": "none", "frames": tiny_video.FRAMES, "limit_s": 0, **changes.pop("data", {})}
    method = changes.pop("method", "tamt")
    between = {"head": {"groups": 2}} if method == "tamt" else {}
    return VideoTune(
        str(run),
        checkpoint,
        data=Videos(films["train"], films["val"] if val else None, **data),
        model=tiny_video.model(method, **{"options": between, **changes.pop("model", {})}),
        optim=TuneOptim(**{"epochs": 2, **changes.pop("optim", {})}),
        episodes=Episodes(**{"n_way": 3, "k_shot": 1, "n_query": 2, "episodes": 4, **changes.pop("episodes", {})}),
        validation=Validation(episodes=6),
        machine=CPU,
        features=str(Path(run).parent / "features"),
        **{"cache": "none", "pictures": False, **changes},
    )


def test_clips_have_the_frames_of_the_source(tmp_path, films, source):
    video_tune(options(tmp_path / "run", source, films, method="protonet", val=False, data={"frames": None}))
    assert read_checkpoint(tmp_path / "run" / "best.safetensors")[1]["frames"] == tiny_video.FRAMES != 16


def rows_of(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "wait_share")} for row in rows]


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(Path(run) / "best.safetensors")[0]


def test_a_run_leaves_a_small_file_that_is_tested_with_its_network(tmp_path, films, source, capsys):
    metrics = video_tune(options(tmp_path / "run", source, films, pictures=True, cache="auto"))
    said = capsys.readouterr().out
    names = {"config.yaml", "environment.json", "log.jsonl", "history.csv", "metrics.json", "best.safetensors"}
    assert names | {"last.ckpt", "curves.png", "card.md", "tensorboard", "pictures"} == {
        path.name for path in (tmp_path / "run").iterdir()
    }
    assert [path.name for path in (tmp_path / "run" / "pictures").iterdir()] == ["first_episode.png"]
    state, card = read_checkpoint(metrics["weights"])
    assert not any(key.startswith("backbone.vit.") for key in state)
    assert {key.split(".")[0] for key in state} == {"backbone", "pool"}
    assert (card["stage"], card["tune"], card["source"], card["k_shot"]) == ("video_tune", "adapters", source, 1)
    assert card["class_names"] == [f"action{i:02d}" for i in range(6)]
    assert metrics["stored"] == ["training", "validation"] and "serves any number of targets" in said
    assert metrics["parameters"] == metrics["trained_parameters"] + metrics["frozen_parameters"]
    assert metrics["frozen_parameters"] == sum(value.numel() for value in _network(source))
    assert f"{metrics['trained_parameters']:,} of {metrics['parameters']:,}" in said
    assert metrics["seconds_per_episode"] > 0 and 0 <= metrics["wait_share"] <= 1
    text = (tmp_path / "run" / "card.md").read_text()
    assert "tuned around a frozen network" in text and card["source_key"] in text and f"--video.source {source}" in text
    found = evaluate(tiny_video.evaluate_options(tmp_path / "test", metrics["weights"], films["test"], n_way=3))
    assert found["method"] == "tamt" and found["stage"] == "video_tune"


def _network(source: str) -> list[torch.Tensor]:
    return [value for key, value in read_checkpoint(source)[0].items() if key.startswith("backbone.")]


@pytest.mark.parametrize("cache", ["disk", "memory"])
def test_tuning_on_stored_clips_is_tuning_on_clips(tmp_path, films, source, cache):
    """Without DropPath, which the frozen blocks lose where they are stored; the tuned ones keep theirs.

    By SGD: Adam makes steps of gradients that are zero but for rounding.
    """
    for name, kept in {"stored": cache, "plain": "none"}.items():
        video_tune(
            options(tmp_path / name, source, films, cache=kept, drop_path=0.0, optim={"name": "sgd", "lr": 0.02})
        )
    stored, plain = state_of(tmp_path / "stored"), state_of(tmp_path / "plain")
    torch.testing.assert_close(stored, plain, rtol=1e-3, atol=1e-4)
    fresh = read_video_model(source, tiny_video.model(options={"head": {"groups": 2}}), say=lambda text: None)
    before = fresh.encoder.state_dict()
    assert any((stored[key] - before[key]).abs().max() > 1e-3 for key in stored)  # tuned at all
    for one, other in zip(rows_of(tmp_path / "stored"), rows_of(tmp_path / "plain"), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_paths_of_frozen_blocks_drop_unless_they_are_stored(tmp_path, films, source):
    """With no block adapted all of them are frozen: only there can their paths make a difference."""
    model = {"options": {"adapt": 0, "head": {"groups": 2}}}
    runs = {"plain": ("none", 0.5), "still": ("none", 0.0), "stored": ("memory", 0.5)}
    for name, (cache, rate) in runs.items():
        video_tune(options(tmp_path / name, source, films, tune="head", model=model, cache=cache, drop_path=rate))
    losses = {name: [row["loss"] for row in rows_of(tmp_path / name)] for name in runs}
    assert losses["stored"] == pytest.approx(losses["still"], rel=1e-3)
    assert losses["plain"] != pytest.approx(losses["still"], rel=1e-3)


def test_it_is_repeatable_resumable_and_indifferent_to_workers(tmp_path, films, source):
    """Augmented clips for the training; what is not augmented, the validation, is stored all the same."""

    def config(name: str, **changes):
        data = {"augment": "crop", "workers": 2 if name == "whole" else 0}
        return options(tmp_path / name, source, films, data=data, cache="auto", **changes)

    whole = video_tune(config("whole"))
    assert whole["stored"] == ["validation"]
    video_tune(config("cut", optim={"epochs": 1}))
    video_tune(config("cut", resume=True))  # the cosine of 80 epochs is the same
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "cut")
    states = state_of(tmp_path / "whole"), state_of(tmp_path / "cut")
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    plain = options(tmp_path / "plain", source, films, data={"augment": "crop"})
    assert video_tune(plain)["stored"] == []
    for one, other in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "plain"), strict=True):
        assert one == pytest.approx(other)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("protonet", {}),
        ("meta_deepbdc", {"model": {"options": {"reduce_dim": 8}}}),
        ("trx", {"model": {"head": {"key_dim": 8, "value_dim": 8}}}),
        ("otam", {"tune": "all"}),
    ],
)
def test_counterparts_are_tuned_and_tested_alike(tmp_path, films, source, method, changes):
    changes = {"optim": {"epochs": 1}, "cache": "auto", "episodes": {"k_shot": 2, "episodes": 2}, **changes}
    metrics = video_tune(options(tmp_path / "run", source, films, val=False, method=method, **changes))
    state, card = read_checkpoint(metrics["weights"])
    whole = changes.get("tune") == "all"
    assert card["tune"] == metrics["tune"] == ("all" if whole else "head")
    assert any(key.startswith("backbone.") for key in state) == whole == ("source" not in card)
    assert metrics["stored"] == ([] if whole else ["training"])
    config = tiny_video.evaluate_options(tmp_path / "test", metrics["weights"], films["test"], n_way=3, k_shot=[2])
    assert evaluate(config)["method"] == method


def test_all_of_the_network_is_tuned_when_asked(tmp_path, films, source):
    metrics = video_tune(options(tmp_path / "run", source, films, tune="all", optim={"epochs": 1}))
    assert metrics["trained_parameters"] == metrics["parameters"]
    state = state_of(tmp_path / "run")
    before = dict(read_checkpoint(source)[0])
    key = "backbone.blocks.0.attn.qkv.weight"
    assert 0 < (state[key.replace("backbone.", "backbone.vit.")] - before[key]).abs().max() < 0.1


def test_it_goes_on_from_what_was_tuned(tmp_path, films, source):
    """From adapters, from a released file, and from a whole network: each is found again by what is tuned around it."""
    first = options(tmp_path / "first", source, films, optim={"epochs": 1}, reference_file=str(tmp_path / "tamt.tar"))
    adapters = video_tune(first)["weights"]
    whole = video_tune(options(tmp_path / "whole", source, films, tune="all", optim={"epochs": 1}))["weights"]
    for name, start in {"adapters": adapters, "released": str(tmp_path / "tamt.tar"), "whole": whole}.items():
        other = {"train": films["val"], "val": films["val"]}
        config = options(
            tmp_path / f"from_{name}", start, other, val=False, optim={"epochs": 1, "lr": 1e-9}, cache="auto"
        )
        metrics = video_tune(config)
        state, card = read_checkpoint(metrics["weights"])
        assert metrics["source"] == (source if name == "adapters" else start)
        near = state_of(tmp_path / ("whole" if name == "whole" else "first"))
        key = "pool.project.weight"
        torch.testing.assert_close(state[key], near[key])  # it started there
        read_video_model(metrics["weights"], say=lambda text: None)  # the network is found
        if name == "adapters":
            assert card["class_names"] == [f"action{i:02d}" for i in (*range(6, 9), *range(6))]


def test_frozen_adapters_are_kept_with_the_head(tmp_path, films, source):
    first = video_tune(options(tmp_path / "first", source, films, optim={"epochs": 1}))["weights"]
    head = video_tune(options(tmp_path / "head", first, films, tune="head", optim={"epochs": 1}))["weights"]
    before, after = read_checkpoint(first)[0], read_checkpoint(head)[0]
    adapters = [key for key in before if ".adapters." in key]
    assert adapters and all(torch.equal(before[key], after[key]) for key in adapters)
    assert not torch.equal(before["pool.project.weight"], after["pool.project.weight"])
    read_video_model(head, say=lambda text: None)


def test_one_network_serves_two_targets(tmp_path, films, source, capsys):
    """The second target tunes on what the first has stored of the same network, with other adapters and seeds."""
    both = {"train": films["val"], "val": films["val"]}
    for seed, sets in enumerate((films, both, films), start=1):
        config = options(tmp_path / f"run{seed}", source, sets, optim={"epochs": 1}, cache="disk", seed=seed)
        video_tune(config)
    assert len(list((tmp_path / "features").glob("*/store.json"))) == 2  # training and validation videos, once each
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("the frozen part")]
    assert ["is stored in" in line for line in said] == [True] * 2 + [False] * 4
    assert all(("is found in" in line) != (line.endswith(" s") and "is stored in" in line) for line in said)


def test_the_rate_of_the_cosine(tmp_path, films, source):
    video_tune(options(tmp_path / "a", source, films, val=False, optim={"lr": 1e-3}, cache="memory"))
    rates = [row["lr"] for row in rows_of(tmp_path / "a")]
    assert rates[0] == 1e-3 and rates[1] == pytest.approx(1e-3, rel=1e-3)  # one of 80 epochs
    video_tune(options(tmp_path / "b", source, films, val=False, optim={"lr": 1e-3, "t_max": None}, cache="memory"))
    assert rows_of(tmp_path / "b")[1]["lr"] == pytest.approx(5e-4, rel=1e-3)  # one of 2
    with pytest.raises(UserError, match="optim.epochs was 2 and is now 3"):
        video_tune(
            options(tmp_path / "b", source, films, val=False, optim={"epochs": 3, "t_max": None}, cache="memory",
                    resume=True)
        )  # fmt: skip


SENTENCES = {
    "augmented": ({"cache": "disk", "data": {"augment": "crop"}}, "same at every look.*crop: --data.augment none"),
    "nothing frozen": ({"cache": "memory", "tune": "all"}, "--tune all freezes nothing"),
    "not episodic": ({"method": "good_embed"}, "Good-Embed is not trained on episodes.*tools.evaluate"),
    "nothing to train": ({"method": "otam"}, "OTAM has nothing to train with --tune head.*tools.evaluate"),
    "adapters at random": ({"tune": "head"}, "adapters as they are, which is at random.*adapt: 0"),
    "another layout": ({"method": "protonet", "reference_file": "x.tar"}, "layout of TAMT alone, not of ProtoNet"),
    "variant": (
        {"model": {"options": {"variant": "paper", "head": {"groups": 2}}}, "reference_file": "x.tar"},
        "options that the released TAMT layout can't hold",
    ),
    "too few classes": ({"episodes": {"n_way": 7}}, "7"),
    "too few videos": ({"episodes": {"k_shot": 5}}, "need 7 items in every class, but 'action00' has 6"),
    "too few classes of the validation": ({"episodes": {"n_way": 4}}, "^validation: .*need 4 classes, but there are 3"),
    "unlabelled": ({"episodes": {"unlabelled": 1}}, "does not learn from unlabelled videos"),
    "a source without need": ({"source": "x.safetensors"}, "leave source out"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_what_makes_no_sense_is_one_sentence_before_any_work(tmp_path, films, source, name):
    changes, sentence = SENTENCES[name]
    with pytest.raises(UserError, match=sentence) as caught:
        video_tune(options(tmp_path / "run", source, films, **changes))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_nothing_pre_trained_is_refused_unless_everything_is_trained(tmp_path, films):
    with pytest.raises(UserError, match="no pre-trained network to tune.*--checkpoint"):
        video_tune(options(tmp_path / "a", None, films))
    model = {"backbone_options": tiny_video.NETWORK}
    config = options(tmp_path / "b", None, films, val=False, tune="all", optim={"epochs": 1}, data={"size": 16})
    assert model["backbone_options"] == config.model.backbone_options
    assert video_tune(config)["source"] is None


def test_two_processes_tune_as_one(tmp_path, films, source):
    """Each runs its share of the frozen part and of the episodes; the heads on averages have no batch statistics."""

    def config(name: str) -> VideoTune:
        run = tmp_path / name / "run"
        changes = {"method": "protonet", "episodes_per_step": 2, "optim": {"name": "sgd"}, "cache": "auto"}
        return options(run, source, films, **changes)

    video_tune(config("one"))
    two = config("two")
    two.machine = replace(CPU, devices=2)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(asdict(two)))  # which is YAML
    done = subprocess.run(
        [sys.executable, "-m", "tools.video_tune", "--config", str(recipe)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for one, other in zip(rows_of(tmp_path / "one" / "run"), rows_of(tmp_path / "two" / "run"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    torch.testing.assert_close(state_of(tmp_path / "one" / "run"), state_of(tmp_path / "two" / "run"))
    stores = [sorted(path.name for path in (tmp_path / name / "features").glob("*/")) for name in ("one", "two")]
    assert stores[0] == stores[1] and len(stores[0]) == 2


def test_a_loss_that_is_no_number_names_the_last_checkpoint(tmp_path, films, source):
    config = options(tmp_path / "run", source, films, val=False, optim={"lr": 1e30, "name": "sgd"}, cache="memory")
    with pytest.raises(UserError, match="lower the rate or clip gradients"):
        video_tune(config)


def test_without_room_on_the_disk_nothing_is_stored(tmp_path, films, source, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    metrics = video_tune(options(tmp_path / "run", source, films, val=False, optim={"epochs": 1}, cache="auto"))
    assert metrics["stored"] == [] and "has 1.0 kB left" in capsys.readouterr().out


def test_frames_of_an_image_network(tmp_path, films):
    """Everything is trained, then the head alone on what is stored, with batch norm that stays as it is."""
    model = {"backbone": "frames:conv4", "options": {}}
    model["backbone_options"] = {"width": 6, "pooled_stages": 2}
    config = options(tmp_path / "a", None, films, val=False, tune="all", method="protonet", optim={"epochs": 1})
    for name, value in model.items():
        setattr(config.model, name, value)
    config.data.size = 16
    whole = video_tune(config)["weights"]
    config = options(tmp_path / "b", whole, films, val=False, cache="memory", method="protonet", optim={"epochs": 1})
    config.model.backbone, config.model.backbone_options = None, {}  # the file says what it is of
    metrics = video_tune(config)
    assert metrics["stored"] == ["training"] and set(state_of(tmp_path / "b")) == {
        "pool.fc_norm.weight", "pool.fc_norm.bias",
    }  # fmt: skip
    assert read_card(metrics["weights"])["source"] == whole
