"""Testing video models: the script, table and episodes of pictures; views, stores, and what must be refused."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones import UserError
from episodes import EpisodeSampler
from episodes import evaluate as score
from tests.tools import tiny, tiny_video
from tools.evaluate import evaluate
from tools.groups import Kind
from tools.video.models import read_video_model
from tools.video_groups import View
from video import open_clips

ROOT = Path(__file__).resolve().parents[2]


def episodes_of(run: Path) -> list[dict]:
    with open(run / "episodes.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> str:
    return tiny_video.films(tmp_path_factory.mktemp("films"), noise=140.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny_video.source(tmp_path_factory.mktemp("source") / "source.safetensors")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, source) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "adapters.safetensors"
    tiny_video.tuned(path, source, class_names=["action99"])
    return path


def test_tamt_is_tested_from_its_adapter_file(tmp_path, films, source, tuned, capsys):
    options = {"cache": "disk", "features": str(tmp_path / "store")}
    metrics = evaluate(tiny_video.evaluate_options(tmp_path / "a", tuned, films, **options, pictures=True))
    said = capsys.readouterr().out
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == metrics
    assert metrics["method"] == "tamt" and metrics["stage"] == "video_tune" and metrics["source"] == str(source)
    assert metrics["video"] == {"eval_view": "center", "size": 16, "frames": 8, "sampling": "segments", "step": 2}
    assert metrics["seed"] == 0
    title = "TAMT, 5-way, 4 queries a class, center view, 8 frames (segments) of 16 px, seed 0"
    assert title in (tmp_path / "a" / "table.md").read_text()
    assert [score["k_shot"] for score in metrics["scores"]] == [1, 2]
    assert metrics["scores"][1]["accuracy"] > 0.4  # chance is 0.2
    (folder,) = (tmp_path / "a" / "pictures").iterdir()
    kinds = ("confusion_1shot", "per_class_1shot", "episode_1shot", "confusion_2shot", "map")
    assert all((folder / f"{kind}.png").read_bytes().startswith(b"\x89PNG") for kind in kinds)
    assert f"in {tmp_path / 'store'}" in said
    evaluate(tiny_video.evaluate_options(tmp_path / "b", tuned, films, **options, seed=1, k_shot=[3]))
    assert len(list((tmp_path / "store").glob("*/features.bin"))) == 1  # the same clips, already there
    options["video"] = View(sampling="window")
    evaluate(tiny_video.evaluate_options(tmp_path / "c", tuned, films, **options))
    assert len(list((tmp_path / "store").glob("*/features.bin"))) == 2


def test_cached_and_uncached_agree_episode_by_episode(tmp_path, films, tuned):
    for cache in ("disk", "memory", "none"):
        options = {"cache": cache, "features": str(tmp_path / "store"), "episodes": 3, "k_shot": [2]}
        evaluate(tiny_video.evaluate_options(tmp_path / cache, tuned, films, **options))
    assert episodes_of(tmp_path / "disk") == episodes_of(tmp_path / "memory") == episodes_of(tmp_path / "none")


@pytest.mark.parametrize(
    ("method", "cache"),
    [("protonet", "memory"), ("good_embed", "memory"), ("stl_deepbdc", "disk"), ("frn", "disk"), ("otam", "disk")],
)
def test_source_weights_are_tested_frozen(tmp_path, films, source, method, cache):
    options = {"method": method, "k_shot": [2], "cache": cache, "features": str(tmp_path / "store")}
    metrics = evaluate(tiny_video.evaluate_options(tmp_path / "run", source, films, **options))
    assert metrics["method"] == method and metrics["stage"] == "video_supervised"
    assert metrics["scores"][0]["accuracy"] > 0.3
    assert ("BDC" in metrics["notes"]) == (method in ("stl_deepbdc", "meta_deepbdc"))


def test_source_weights_without_a_method_are_prototypes(tmp_path, films, source):
    assert evaluate(tiny_video.evaluate_options(tmp_path, source, films, k_shot=[1]))["method"] == "protonet"


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    ("method", "model", "what"),
    [
        ("tamt", {}, "TAMT's adapters and moment head"),
        ("trx", {}, "the head TRX"),
        ("relation_net", {}, "the head RelationNet"),
        ("matching_net", {"head": {"context": True}}, "the head MatchingNet"),
        ("stl_deepbdc", {"reduce_dim": 8}, "the reduction of the BDC pooling"),
    ],
)
def test_what_nothing_has_trained_is_refused(tmp_path, films, source, method, model, what, given):
    """With source weights, and with a network of random weights."""
    run = tmp_path / "run"
    config = tiny_video.evaluate_options(run, source if given else None, films, method=method, k_shot=[1], episodes=2)
    network = {} if given else {"backbone": "video_vit_small", "backbone_options": dict(tiny_video.NETWORK)}
    for name, value in {**model, **network}.items():
        setattr(config.model, name, value)
    with pytest.raises(UserError, match=f"no trained weights of {what}, and .*: train .* with tools.video_tune first"):
        evaluate(config)
    assert not run.exists()


def test_what_starts_at_values_that_mean_something_is_tested(tmp_path, films, source):
    options = {"adapt": 0, "head": {"second_moment": "none"}}  # TAMT without anything that starts at random
    config = tiny_video.evaluate_options(
        tmp_path / "tamt", source, films, method="tamt", video=View(options=options, limit_s=0), k_shot=[2]
    )
    assert evaluate(config)["scores"][0]["accuracy"] > 0.3
    config = tiny_video.evaluate_options(tmp_path / "net", source, films, method="matching_net", k_shot=[2])
    assert evaluate(config)["scores"][0]["accuracy"] > 0.3


def test_a_method_and_a_network_that_are_named_count(tmp_path, films, source, tuned):
    """Also as the model's: --model.method of a tuned file, and --model.backbone of one of another network."""
    config = tiny_video.evaluate_options(tmp_path / "a", tuned, films, k_shot=[1], episodes=2)
    config.model.method = "good_embed"
    assert evaluate(config)["method"] == "good_embed"
    config.model.method, config.overwrite = "otam", True
    with pytest.raises(UserError, match="was tuned for tamt, whose representations otam can't use"):
        evaluate(config)
    for path, backbone in ((source, "video_vit_base"), (tuned, "resnet18")):
        config = tiny_video.evaluate_options(tmp_path / "b", path, films)
        config.model.backbone = backbone
        with pytest.raises(UserError, match=f"is of video_vit_small, not of {backbone}: leave the backbone out"):
            evaluate(config)


def test_in_python_as_by_the_script(tmp_path, films, tuned):
    model = read_video_model(tuned, say=lambda text: None)
    clips = model.clips(open_clips(films))
    sampler = EpisodeSampler(clips.dataset.labels, n_way=5, k_shot=2, n_query=4, n_episodes=20)
    result = score(model.encoder.eval(), model.head(k_shot=2), clips, sampler, show=False)
    evaluate(tiny_video.evaluate_options(tmp_path, tuned, films, k_shot=[2]))
    assert [f"{value:.6f}" for value in result.accuracies] == [row["accuracy"] for row in episodes_of(tmp_path)]


def test_every_kind_of_episodes(tmp_path, films, source):
    kinds = {
        "open": Kind(unknown_ways=1, unknown_queries=2),
        "uneven": Kind("imbalanced", shots=[1, 3]),
        "semi": Kind(unlabelled=1),
    }
    for name, kind in kinds.items():
        method = "semi_soft_kmeans" if name == "semi" else "protonet"
        sizes = {"n_way": 4, "k_shot": [1], "n_query": 3, "episodes": 5, "write_episodes": True}
        run = tmp_path / name
        metrics = evaluate(tiny_video.evaluate_options(run, source, films, kind=kind, method=method, **sizes))
        (file,) = (run / "episodes").iterdir()
        again = {"method": method, "episode_file": str(file)}
        evaluate(tiny_video.evaluate_options(tmp_path / f"{name}2", source, films, **again))
        first, second = (episodes_of(path) for path in (run, tmp_path / f"{name}2"))
        assert [{**row, "k_shot": ""} for row in first] == [{**row, "k_shot": ""} for row in second]
        assert ("auroc" in metrics["scores"][0]) == (name == "open")


def test_the_reference_view_is_drawn_for_every_episode(tmp_path, films, source, capsys):
    sizes = {"episodes": 4, "k_shot": [1], "n_way": 3, "n_query": 2}

    def run(name, **options):
        options = {"cache": "disk", "features": str(tmp_path / "store"), **sizes, **options}
        view = View("reference", workers=options.pop("workers", 1))
        metrics = evaluate(tiny_video.evaluate_options(tmp_path / name, source, films, video=view, **options))
        return metrics, [row["accuracy"] for row in episodes_of(tmp_path / name)]

    metrics, first = run("a")
    assert "no features are kept" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()
    assert metrics["video"]["eval_view"] == "reference" and "reference view" in (tmp_path / "a/table.md").read_text()
    assert run("b", workers=2)[1] == first
    repeated = run("c", repeats=2)[1]
    assert repeated[:4] == first
    center = tiny_video.evaluate_options(tmp_path / "d", source, films, cache="none", **sizes)
    evaluate(center)
    assert [row["accuracy"] for row in episodes_of(tmp_path / "d")] != first


def test_looks_follow_from_seed_repeat_and_episode():
    from episodes.evaluate import evaluate_images
    from fewshot.protonet import ProtoNet

    class Looks:
        """Items whose picture is all the numbers that it was asked with."""

        class dataset:
            labels, class_names = np.repeat(np.arange(3), 4), list("abc")

        def __init__(self):
            self.asked = []

        def load(self, indices, *seed):
            self.asked.append(seed)
            return torch.zeros(len(indices), 2)

    looks = Looks()
    sampler = EpisodeSampler(looks.dataset.labels, 3, 1, 1, n_episodes=3)
    evaluate_images(lambda x: x, ProtoNet(), looks, sampler, show=False, seed=(7, 1))
    assert looks.asked == [(7, 1, 0), (7, 1, 1), (7, 1, 2)]


def test_a_store_of_decoded_frames(tmp_path, films, source, monkeypatch):
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path / "cache"))
    metrics = {}
    for name, view in {"plain": View(), "store": View(store=32)}.items():
        options = {"video": view, "size": 24, "k_shot": [2]}
        metrics[name] = evaluate(tiny_video.evaluate_options(tmp_path / name, source, films, **options))
    assert list((tmp_path / "cache" / "clips").glob("*/clips.bin"))
    assert metrics["store"]["scores"][0]["accuracy"] == pytest.approx(
        metrics["plain"]["scores"][0]["accuracy"], abs=0.1
    )
    with pytest.raises(UserError, match="store is 20, below the 27 pixels"):
        evaluate(tiny_video.evaluate_options(tmp_path / "x", source, films, video=View(store=20), size=24))


def test_base_classes_centre_simpleshot(tmp_path, films, source):
    runs = {}
    for base in (None, films):
        options = {"method": "simpleshot", "k_shot": [1], "base": base}
        runs[base] = evaluate(tiny_video.evaluate_options(tmp_path / str(bool(base)), source, films, **options))
    assert runs[None]["scores"] != runs[films]["scores"]


def test_seen_classes_are_warned_of(tmp_path, films, source):
    known = tiny_video.source(tmp_path / "known.safetensors", names=["action01", "action02", "other"])
    with pytest.warns(UserWarning, match="2 classes of the training data .'action01', 'action02'.: they are not new"):
        evaluate(tiny_video.evaluate_options(tmp_path / "a", known, films, k_shot=[1], episodes=2))
    path = tmp_path / "tuned.safetensors"
    tiny_video.tuned(path, known, class_names=["action03"])
    with pytest.warns(UserWarning, match="3 classes of the training data"):
        evaluate(tiny_video.evaluate_options(tmp_path / "b", path, films, k_shot=[1], episodes=2))


def test_broken_films_are_refused_or_left_out(tmp_path, source):
    root = Path(tiny_video.films(tmp_path / "films", 5, 4))
    (root / "action02" / "bad.mp4").write_bytes(b"no film at all")
    options = {"k_shot": [1], "n_query": 2, "episodes": 2}
    with pytest.raises(UserError, match="bad.mp4"):
        evaluate(tiny_video.evaluate_options(tmp_path / "a", source, str(root), **options))
    with pytest.warns(UserWarning, match="1 of 21 videos cannot be read and are left out.*bad.mp4"):
        evaluate(tiny_video.evaluate_options(tmp_path / "b", source, str(root), skip_broken=True, **options))


def test_bad_input_is_one_sentence_before_any_work(tmp_path, films, source, tuned, packs, pretrained):
    def refused(match, checkpoint, test=films, model=None, **options):
        config = tiny_video.evaluate_options(tmp_path / "x", checkpoint, test, **{"video": View(), **options})
        for name, value in (model or {}).items():
            setattr(config.model, name, value)
        with pytest.raises(UserError, match=match) as error:
            evaluate(config)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "x").exists()

    image = pretrained["protonet"]
    refused("need 7 classes, but there are 6: lower n_way", source, n_way=7)
    refused("need 14 items in every class", source, k_shot=[5], n_query=9)
    refused("'glyphs:greek' names pictures, but the model is of videos", source, "glyphs:greek")
    refused("is of models of videos, and this one is of pictures", image, packs["test"], video=View(store=64))
    refused("'motions:digits' names videos, but the model is of pictures .conv4", image, "motions:digits")
    refused("checkpoint of pictures.*frames:conv4", image, model={"backbone": "video_vit_small"})
    refused("adapts the whole network", source, method="maml")
    refused("is unknown", source, method="otem")
    refused("ProtoNet has none", source, method="protonet", solver="newton")
    refused("does not take these options", tuned, model={"head": {"nothing": 1}})
    refused("no adapter file", source, video=View(source=str(tuned)))
    other = tiny_video.source(tmp_path / "other.safetensors", seed=8)
    refused("tuned around another network than", tuned, video=View(source=str(other)))
    torch.save({"model": {"a.weight": torch.zeros(2)}}, tmp_path / "nothing.pth")
    refused("no weights of a video transformer", tmp_path / "nothing.pth", model={"backbone": "video_vit_small"})


def test_short_names_of_the_options(tmp_path, films, source, tuned):
    from tools.cli import parse
    from tools.config import Evaluate

    flags = "--eval-view reference --sampling window --step 3 --store 64 --backend pyav --source s.pth --skip-broken"
    config = parse(Evaluate, "evaluate", flags.split())
    assert config.video == View("reference", "window", 3, None, 64, "pyav", "s.pth") and config.skip_broken
    options = ["--checkpoint", str(tuned), "--source", str(source), "--test", films, "--episodes", "3", "--k_shot", "1"]
    options += ["--n_query", "4", "--no-pictures", "--no-cache", "--machine.accelerator", "cpu", "--step", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.evaluate", "--run", str(tmp_path / "run"), *options],
        cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.strip() == "error: video.step must be at least 1, not 0"


def test_two_processes_test_as_one(tmp_path, films, tuned):
    """Each encodes and scores its share, from clips and, in the reference view, episode by episode."""
    evaluate(tiny_video.evaluate_options(tmp_path / "alone", tuned, films, k_shot=[2], episodes=7))
    flags = [
        *("--run", str(tmp_path / "two"), "--checkpoint", str(tuned), "--test", films, "--k_shot", "2"),
        *("--n_query", "4", "--episodes", "7", "--pictures", "false", "--features", str(tmp_path / "features")),
        *("--machine.accelerator", "cpu", "--machine.devices", "2"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tools.evaluate", *flags],
        cwd=ROOT, text=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert episodes_of(tmp_path / "two") == episodes_of(tmp_path / "alone")


def test_an_image_network_without_checkpoint_on_every_frame(tmp_path, films):
    config = tiny_video.evaluate_options(tmp_path, None, films, method="otam", k_shot=[2], size=16)
    config.model = tiny.model("otam")
    config.model.backbone, config.video = "frames:conv4", View(frames=4)
    metrics = evaluate(config)
    assert metrics["video"]["frames"] == 4 and metrics["scores"][0]["accuracy"] > 0.3
