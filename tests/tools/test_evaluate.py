"""Testing a checkpoint: the table, the numbers behind it, the pictures, and what must not change them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import yaml

from fewshot.methods import METHODS
from tests.tools import tiny
from tools.evaluate import evaluate, safe_name
from tools.pretrain import pretrain


def episodes_of(run) -> list[dict]:
    with open(run / "episodes.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_results_are_written(tmp_path, packs, pretrained, capsys):
    config = tiny.evaluate_options(tmp_path, str(pretrained["meta_deepbdc"]), packs["test"], repeats=2, pictures=True)
    metrics = evaluate(config)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.yaml", "environment.json", "metrics.json", "table.md", "episodes.csv", "pictures")
    }
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert [(score["k_shot"], score["episodes"]) for score in metrics["scores"]] == [(1, 100), (2, 100)]
    rows = episodes_of(tmp_path)
    assert len(rows) == 2 * 100
    for score in metrics["scores"]:
        values = [float(row["accuracy"]) for row in rows if row["k_shot"] == str(score["k_shot"])]
        assert score["accuracy"] == pytest.approx(np.mean(values), abs=1e-6)
        assert score["interval"] == pytest.approx(1.96 * np.std(values) / 10, abs=1e-6)
        assert f"{100 * score['accuracy']:.2f}" in (tmp_path / "table.md").read_text()
    assert metrics["scores"][1]["accuracy"] > 0.4  # chance is 0.2
    (folder,) = (tmp_path / "pictures").iterdir()
    kinds = ("confusion_1shot", "per_class_1shot", "episode_1shot", "confusion_2shot", "map")
    assert all((folder / f"{kind}.png").read_bytes().startswith(b"\x89PNG") for kind in kinds)
    assert np.load(folder / "confusion_1shot.npy").sum() == 100 * 5 * 5
    assert "results in" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["meta_deepbdc", "stl_deepbdc"])
def test_cached_and_uncached_agree_episode_by_episode(tmp_path, packs, pretrained, method):
    for cache in ("disk", "memory", "none"):
        options = {"cache": cache, "features": str(tmp_path / "store"), "method": method, "episodes": 20}
        evaluate(tiny.evaluate_options(tmp_path / cache, str(pretrained["meta_deepbdc"]), packs["test"], **options))
    assert episodes_of(tmp_path / "disk") == episodes_of(tmp_path / "memory") == episodes_of(tmp_path / "none")


def test_features_on_disk_serve_every_test_of_the_same_weights(tmp_path, packs, pretrained, capsys):
    def run(name, weights, **options):
        options = {"cache": "disk", "features": str(tmp_path / "store"), "pictures": True, **options}
        evaluate(tiny.evaluate_options(tmp_path / name, str(pretrained[weights]), packs["test"], **options))
        assert f"in {tmp_path / 'store'}" in capsys.readouterr().out
        stores = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*/features.bin")}
        return stores

    first = run("a", "meta_deepbdc")
    assert len(first) == 1
    assert run("b", "meta_deepbdc", method="stl_deepbdc", k_shot=[3], seed=1) == first
    assert len(run("c", "protonet")) == 2  # other weights
    assert len(run("d", "protonet", size=24)) == 3  # other pictures
    assert len(run("e", "protonet", feature_dtype="float16")) == 4
    assert (tmp_path / "a" / "pictures").is_dir()
    (path,) = first
    path.write_bytes(path.read_bytes()[:1000])
    assert run("f", "meta_deepbdc").keys() > first.keys()
    assert episodes_of(tmp_path / "f") == episodes_of(tmp_path / "a")


def test_the_seed_decides_the_episodes(tmp_path, packs, pretrained):
    def run(name, **options):
        evaluate(tiny.evaluate_options(tmp_path / name, str(pretrained["protonet"]), packs["test"], **options))
        return [row["accuracy"] for row in episodes_of(tmp_path / name)]

    assert run("a") == run("b")
    assert run("c", seed=1) != run("a2")
    repeated = run("d", repeats=2, k_shot=[1])
    assert repeated[:50] == run("e", k_shot=[1])
    assert repeated[:50] != repeated[50:]


def test_several_sets_and_methods_on_one_checkpoint(tmp_path, packs, pretrained):
    sets = [packs["test"], packs["val"]]
    seen = {}
    for method in ("protonet", "good_embed", "meta_baseline", "covnet"):
        config = tiny.evaluate_options(tmp_path / method, str(pretrained["protonet"]), sets, method=method, k_shot=[2])
        metrics = evaluate(config)
        assert [score["test"] for score in metrics["scores"]] == sets
        assert metrics["method"] == method
        seen[method] = metrics["scores"][0]["accuracy"]
    assert len(set(seen.values())) > 1


def test_a_head_option_changes_the_head(tmp_path, packs, pretrained):
    def run(name, head):
        config = tiny.evaluate_options(
            tmp_path / name, str(pretrained["protonet"]), packs["test"], method="good_embed", k_shot=[2]
        )
        config.model.head = head
        evaluate(config)
        return [row["accuracy"] for row in episodes_of(tmp_path / name)]

    assert run("a", {}) == run("b", {"C": 2.0})  # the default of several shots
    assert run("c", {"C": 1e-6}) != run("d", {"C": 1e3})


def test_a_library_network_is_tested_as_it_is(tmp_path, packs):
    config = tiny.evaluate_options(tmp_path, None, packs["test"], method="protonet", size=32, episodes=10)
    config.model.backbone = "torchvision:mobilenet_v3_small"
    assert evaluate(config)["stage"] is None


def test_another_size(tmp_path, packs, pretrained):
    config = tiny.evaluate_options(tmp_path, str(pretrained["meta_deepbdc"]), packs["test"], size=24)
    assert evaluate(config)["scores"][0]["accuracy"] > 0.2
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["size"] == 24


@pytest.mark.parametrize("method", ["protonet", "good_embed", "meta_deepbdc", "stl_deepbdc"])
def test_the_published_methods_learn_within_seconds(tmp_path, method):
    """Characters of one script seen in training, another script in the test; chance is 20 %."""
    config = tiny.pretrain_options(
        tmp_path / "p", "glyphs:armenian?size=16&variants=1", method=method, optim={"epochs": 10, "milestones": [8]}
    )
    metrics = pretrain(config)
    options = {"k_shot": [1, 5], "episodes": 100, "n_query": 3, "method": method}
    scores = evaluate(
        tiny.evaluate_options(tmp_path / "e", metrics["weights"], "glyphs:greek?size=16&variants=1", **options)
    )
    one, five = scores["scores"]
    assert METHODS[method].title in (tmp_path / "e" / "table.md").read_text()
    assert one["accuracy"] - one["interval"] > 0.3
    assert five["accuracy"] > one["accuracy"]


def test_file_names():
    assert safe_name("glyphs:greek?size=16&variants=1") == "glyphs_greek_size_16_variants_1"
    assert safe_name("../..") == "set"
    assert len(safe_name("x" * 200)) == 60
