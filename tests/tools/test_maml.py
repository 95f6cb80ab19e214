"""MAML and ANIL by the scripts: trained, resumed, tested, used from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones import UserError, read_checkpoint
from episodes.dataset import ArraySet
from fewshot.classifier import load_classifier
from tests.tools import tiny
from tools.evaluate import evaluate
from tools.groups import Episodes
from tools.meta_train import meta_train


def options(run: Path, packs: dict[str, str], method: str, start: str | None = None, head: dict | None = None, **more):
    """Meta-training from random weights, or from a checkpoint."""
    head = {"inner_steps": 2, "test_steps": 3, **(head or {})}
    optim = {"epochs": 2, "name": "adam", "lr": 3e-3, **more.pop("optim", {})}
    return tiny.meta_options(
        run,
        start,
        packs["train"],
        packs["val"],
        method=method,
        model=tiny.model(method, head=head),
        optim=optim,
        **more,
    )


def history(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "wait_share")} for row in rows]


@pytest.mark.parametrize("method", ["maml", "maml_transductive", "anil"])
def test_it_learns_from_random_weights(tmp_path, packs, method):
    """Chance is 20 %; the classes of the test are new."""
    more = {
        "episodes": Episodes(n_query=3, episodes=60),
        "episodes_per_step": 3,
        "optim": {"lr": 3e-3 if method == "anil" else 1e-2},
    }
    config = options(tmp_path / "m", packs, method, head={"inner_lr": 0.4, "inner_steps": 3}, **more)
    metrics = meta_train(config)
    rows = history(tmp_path / "m")
    assert rows[-1]["loss"] < rows[0]["loss"]
    tested = evaluate(tiny.evaluate_options(tmp_path / "e", metrics["weights"], packs["test"], k_shot=[1]))
    score = tested["scores"][0]
    assert score["accuracy"] - score["interval"] > 0.3
    marked = method == "maml_transductive"
    assert ("(transductive)" in (tmp_path / "e" / "table.md").read_text()) == marked


@pytest.mark.parametrize("head", [{}, {"start": "learned", "n_way": 5}])
def test_a_resumed_run_is_the_whole_run(tmp_path, packs, pretrained, head):
    start = str(pretrained["protonet"])
    meta_train(options(tmp_path / "whole", packs, "maml", start, head))
    meta_train(options(tmp_path / "cut", packs, "maml", start, head, optim={"epochs": 1}))
    meta_train(options(tmp_path / "cut", packs, "maml", start, head, resume=True))
    assert history(tmp_path / "whole") == history(tmp_path / "cut")
    whole, cut = (read_checkpoint(tmp_path / name / "best.safetensors")[0] for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


@pytest.mark.parametrize("method", ["maml", "anil"])
def test_learn2learn_trains_the_same_network(tmp_path, packs, method):
    pytest.importorskip("learn2learn")
    ends = []
    for library in ("torch", "learn2learn"):
        config = options(tmp_path / library, packs, method, head={"library": library}, optim={"epochs": 1})
        ends.append(read_checkpoint(meta_train(config)["weights"])[0])
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["maml", "anil"])
def test_a_learned_start_is_kept_with_the_weights(tmp_path, packs, pretrained, method):
    config = options(
        tmp_path / "m",
        packs,
        method,
        str(pretrained["protonet"]),
        {"start": "learned", "n_way": 5},
        optim={"epochs": 1},
    )
    weights = meta_train(config)["weights"]
    state, card = read_checkpoint(weights)
    assert state["head.weight"].shape == (5, 8)
    assert state["head.bias"].shape == (5,)
    assert (card["head"]["start"], card["head"]["n_way"]) == ("learned", 5)
    fewer = tiny.evaluate_options(tmp_path / "e", weights, packs["test"], n_way=3, k_shot=[1], episodes=5)
    assert evaluate(fewer)["scores"][0]["episodes"] == 5
    with pytest.raises(UserError, match="has 5 classes, an episode has 6"):
        evaluate(tiny.evaluate_options(tmp_path / "f", weights, packs["test"], n_way=6, k_shot=[1], episodes=5))


def test_other_ways_and_shots_in_the_test(tmp_path, packs, pretrained):
    """From one checkpoint that was trained for another method, and with no features kept on disk."""
    store = tmp_path / "store"
    config = tiny.evaluate_options(
        tmp_path / "e", str(pretrained["protonet"]), packs["test"], method="maml", n_way=6, k_shot=[1, 4], n_query=2
    )
    config.episodes, config.cache, config.features, config.pictures = 20, "disk", str(store), True
    scores = evaluate(config)["scores"]
    assert [(score["k_shot"], score["episodes"]) for score in scores] == [(1, 20), (4, 20)]
    assert scores[1]["accuracy"] > 1 / 6
    assert not store.exists()
    assert list((tmp_path / "e" / "pictures").glob("*/confusion_4shot.png"))


def test_a_frozen_backbone_is_refused(tmp_path, packs, pretrained):
    config = options(tmp_path, packs, "maml", str(pretrained["protonet"]))
    config.model.frozen = True
    with pytest.raises(UserError, match="MAML adapts the backbone, which model.frozen forbids: use anil"):
        meta_train(config)


def test_a_few_shot_classifier_adapts(pretrained):
    classifier = load_classifier(pretrained["protonet"], "maml", inner_lr=0.3)
    images = torch.from_numpy(tiny.class_images(3, 6, noise=20.0)).permute(0, 1, 4, 2, 3).contiguous()
    support = ArraySet(images[:, :2].flatten(0, 1), np.repeat(np.arange(3), 2), ["a", "b", "c"])
    said = classifier.fit(support).predict(images[:, 2:].flatten(0, 1))
    assert np.mean(np.array(said) == np.repeat(["a", "b", "c"], 4)) > 0.7
    assert not classifier.transductive
    assert load_classifier(pretrained["protonet"], "maml_transductive").fit(support).transductive
