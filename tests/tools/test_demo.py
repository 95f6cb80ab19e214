"""The comparison from beginning to end, and that it goes on where it was stopped."""

from __future__ import annotations

import csv
import json

import pytest

from backbones import UserError
from tests.tools import tiny
from tools.compare import named_sets
from tools.config import Compare
from tools.demo import demo
from tools.groups import Episodes, Optim

FOUR = ["protonet", "good_embed", "meta_deepbdc", "stl_deepbdc"]


def options(run, train, val, test, **changes) -> Compare:
    """Options of a comparison of a few seconds."""
    return Compare(
        str(run),
        **{
            "methods": ["protonet", "meta_deepbdc"],
            "train": train,
            "val": val,
            "test": test,
            "size": 16,
            "augment": "none",
            "backbone_options": tiny.NETWORK,
            "k_shot": [1],
            "n_query": 5,
            "episodes": 40,
            "pretrain": Optim(epochs=1, batch_size=16, temperature_lr=1e-3),
            "meta": Optim(epochs=1, lr=1e-3),
            "meta_episodes": Episodes(n_query=3, episodes=4),
            "validation": Episodes(n_query=3, episodes=5),
            "machine": tiny.CPU,
            **changes,
        },
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The four published methods on characters."""
    run = tmp_path_factory.mktemp("demo")
    glyphs = [f"glyphs:{script}?size=16&variants=1" for script in ("armenian", "greek")]
    config = options(
        run, glyphs[0], glyphs[1], [f"Greek={glyphs[1]}"], methods=FOUR, k_shot=[1, 5], n_query=3, episodes=100,
        pretrain=Optim(epochs=8, batch_size=16, schedule="cosine"),
    )  # fmt: skip
    return run, demo(config)


def test_all_four_methods_are_above_chance(compared):
    _, metrics = compared
    assert len(metrics["rows"]) == 4 * 2
    for row in metrics["rows"]:
        assert row["mean"] - row["interval"] > 0.2, row


def test_the_results_are_written(compared):
    run, metrics = compared
    assert json.loads((run / "metrics.json").read_text())["rows"] == metrics["rows"]
    table = (run / "table.md").read_text()
    assert all(title in table for title in ("ProtoNet", "Good-Embed", "Meta DeepBDC", "STL DeepBDC", "Greek"))
    page = (run / "index.html").read_text()
    assert "<svg" in page or "data:image" in page
    assert "STL DeepBDC" in page
    with open(run / "episodes.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 100


def test_each_stage_has_a_folder_and_methods_share_the_pre_training(compared):
    run, _ = compared
    assert sorted(path.name for path in (run / "seed1").iterdir()) == [
        *("meta_deepbdc_1shot", "meta_deepbdc_5shot", "pretrain_bdc", "pretrain_gap"),
        *("protonet_1shot", "protonet_5shot"),
    ]


def test_methods_without_episodes_are_distilled(tmp_path, packs):
    sets = (packs["train"], None, [f"test={packs['test']}"])
    demo(options(tmp_path, *sets, methods=["stl_deepbdc", "good_embed"], generations=2))
    for method in ("stl_deepbdc", "good_embed"):
        assert (tmp_path / "seed1" / f"{method}_distill" / "born2" / "best.safetensors").is_file()


def test_a_method_that_adapts_the_network_can_be_compared(tmp_path, packs):
    sets = (packs["train"], None, [f"test={packs['test']}"])
    metrics = demo(options(tmp_path, *sets, methods=["protonet", "maml"], episodes=5))
    assert [row["row"] for row in metrics["rows"]] == ["ProtoNet", "MAML"]


def test_finished_stages_are_kept_and_changed_ones_are_not(tmp_path, packs):
    sets = (packs["train"], packs["val"], [f"test={packs['test']}"])
    first = demo(options(tmp_path, *sets))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("best.safetensors")}
    again = demo(options(tmp_path, *sets))
    assert again["rows"] == [{**row, "seconds": new["seconds"]} if "seconds" in row else row
                             for row, new in zip(first["rows"], again["rows"], strict=True)]  # fmt: skip
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("best.safetensors")}
    shorter = options(tmp_path, *sets, pretrain=Optim(epochs=2, batch_size=16, temperature_lr=1e-3))
    demo(shorter)
    assert not any(files[path] == path.stat().st_mtime_ns for path in files if "pretrain" in str(path))
    demo(options(tmp_path, *sets))  # and back: fewer epochs than the folder holds
    log = (tmp_path / "seed1" / "pretrain_gap" / "log.jsonl").read_text()
    assert len(log.splitlines()) == 1


def test_seeds_are_pooled(tmp_path, packs):
    sets = (packs["train"], None, [f"test={packs['test']}"])
    metrics = demo(options(tmp_path, *sets, methods=["protonet"], seeds=[1, 2]))
    assert {path.name for path in tmp_path.glob("seed*")} == {"seed1", "seed2"}
    assert metrics["rows"][0]["episodes"] == 80


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["protonett"]}, "did you mean 'protonet'"),
        ({"head": {"protonet": {"C": 1}}}, "head of 'protonet' does not take these options"),
        ({"methods": []}, "methods is an empty list"),
        ({"n_way": 7}, "7-way.*there are 6"),
        ({"n_query": 30}, "need 31 items in every class"),
        ({"train": "no/such/folder"}, "no file, folder or source"),
        ({"seeds": [-1]}, r"seeds is \[-1\]: each must be at least 0"),
    ],
)
def test_bad_options_are_refused_before_training(tmp_path, packs, changes, message):
    sets = {"train": packs["train"], "val": packs["val"], "test": [packs["test"]]}
    with pytest.raises(UserError, match=message):
        demo(options(tmp_path, **{**sets, **changes}))
    assert not (tmp_path / "seed1").exists()


def test_names_of_test_sets():
    assert named_sets(["Greek=glyphs:greek,latin?size=16", "pack.zip?by=mod5&split=test"]) == {
        "Greek": "glyphs:greek,latin?size=16",
        "pack.zip?by=mod5&split=test": "pack.zip?by=mod5&split=test",
    }
