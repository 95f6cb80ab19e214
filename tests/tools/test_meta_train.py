"""Meta-training: from pre-trained weights to a model and a head that the test finds again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from backbones import UserError, read_checkpoint
from backbones.checkpoint import save_weights
from fewshot.methods import METHODS
from tests.tools import tiny
from tools.evaluate import evaluate
from tools.groups import Episodes, Validation, like_training
from tools.meta_train import meta_train


def rows_of(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "wait_share")} for row in rows]


def test_a_run_leaves_everything_behind(tmp_path, packs, pretrained):
    start = pretrained["meta_deepbdc"]
    metrics = meta_train(tiny.meta_options(tmp_path, str(start), packs["train"], packs["val"]))
    names = {"config.yaml", "environment.json", "log.jsonl", "history.csv", "metrics.json", "best.safetensors"}
    assert names | {"last.ckpt", "curves.png", "card.md", "tensorboard"} == {path.name for path in tmp_path.iterdir()}
    assert metrics["steps"] == 2 * 6
    state, card = read_checkpoint(metrics["weights"])
    assert (card["stage"], card["method"], card["k_shot"], card["n_way"]) == ("meta", "meta_deepbdc", 1, 5)
    assert not any(key.startswith("classifier.") for key in state)
    before = read_checkpoint(start)[0]
    key = "backbone.blocks.0.0.weight"
    assert 0 < (state[key] - before[key]).abs().max() < 0.1  # it starts there and moves


def test_it_is_repeatable_resumable_and_indifferent_to_workers(tmp_path, packs, pretrained):
    def config(name: str, **options):
        made = tiny.meta_options(tmp_path / name, str(pretrained["protonet"]), packs["train"], packs["val"], **options)
        made.data.augment = "standard"
        return made

    whole = config("whole")
    whole.data.workers = 2
    meta_train(whole)
    meta_train(config("cut", optim={"epochs": 1}))
    meta_train(config("cut", resume=True))  # now to the end
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "cut")
    states = [read_checkpoint(tmp_path / name / "best.safetensors")[0] for name in ("whole", "cut")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_several_episodes_a_step(tmp_path, packs, pretrained):
    options = {"episodes": Episodes(n_query=3, episodes=7), "episodes_per_step": 3}
    metrics = meta_train(tiny.meta_options(tmp_path, str(pretrained["protonet"]), packs["train"], **options))
    assert metrics["steps"] == 2 * 3  # 3, 3 and 1 episodes


def test_several_episodes_a_step_or_accumulated_are_the_same_gradient(tmp_path, packs, pretrained):
    """Frozen batch norm makes the episodes of a step independent, so that only the averaging is left."""

    def end(name, **options):
        config = tiny.meta_options(
            tmp_path / name, str(pretrained["meta_deepbdc"]), packs["train"], method="meta_deepbdc", **options
        )
        config.model.frozen = True  # leaves the temperature
        return read_checkpoint(meta_train(config)["weights"])[0]["pool.temperature"]

    torch.testing.assert_close(end("a", episodes_per_step=3), end("b", optim={"accumulate": 3}), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.episodic])
def test_every_episodic_method_trains_and_is_tested_from_one_pre_training(tmp_path, packs, pretrained, name):
    start = pretrained["meta_deepbdc" if METHODS[name].pool == "bdc" else "protonet"]
    head = {"tune_passes": 2, "solver": "sinkhorn", "iterations": 10} if name == "deepemd" else {}
    options = {"method": name, "model": tiny.model(name, head=head), "episodes": Episodes(n_query=2, episodes=2)}
    config = tiny.meta_options(tmp_path / "m", str(start), packs["train"], packs["val"], optim={"epochs": 1}, **options)
    weights = meta_train(config)["weights"]
    assert read_checkpoint(weights)[1]["head"] == head
    metrics = evaluate(tiny.evaluate_options(tmp_path / "e", weights, packs["test"], k_shot=[1], episodes=5))
    assert metrics["method"] == name
    assert metrics["stage"] == "meta"


def test_a_head_with_weights_is_tested_with_them(tmp_path, packs, pretrained):
    """A negative temperature turns every answer of Meta-Baseline round: the test must see it."""
    start = str(pretrained["protonet"])
    config = tiny.meta_options(tmp_path / "m", start, packs["train"], method="meta_baseline")
    weights = Path(meta_train(config)["weights"])
    state, card = read_checkpoint(weights)
    assert state["head.temperature"].item() != 10.0

    def accuracy(name: str, temperature: float) -> float:
        holder = torch.nn.Module()
        holder.state_dict = lambda: {**state, "head.temperature": torch.tensor(temperature)}
        save_weights(holder, tmp_path / f"{name}.safetensors", card)
        options = tiny.evaluate_options(tmp_path / name, str(tmp_path / f"{name}.safetensors"), packs["test"])
        return evaluate(options)["scores"][0]["accuracy"]

    assert accuracy("turned", -10.0) < 0.1 < 0.4 < accuracy("plain", 10.0)


def test_validation_takes_the_shots_of_training():
    training = Episodes(n_way=3, k_shot=5, n_query=7)
    assert like_training(Validation(), training) == Episodes(3, 5, 7, 600)
    assert like_training(Validation(k_shot=1, episodes=9), training) == Episodes(3, 1, 7, 9)


def test_five_shots_need_one_option(tmp_path, packs, pretrained):
    """Validation episodes follow: with 12 images a class, 5 shots and 7 queries fit and 8 queries do not."""
    start = str(pretrained["meta_deepbdc"])
    options = {"episodes": Episodes(k_shot=5, n_query=7, episodes=2)}
    meta_train(tiny.meta_options(tmp_path / "a", start, packs["train"], packs["val"], **options))
    config = tiny.meta_options(tmp_path / "b", start, packs["train"], packs["val"], **options)
    config.validation.n_query = 8
    with pytest.raises(UserError, match="5-shot.*8 queries.*need 13 items"):
        meta_train(config)


def test_methods_that_are_not_trained_on_episodes_are_refused(tmp_path, packs, pretrained):
    config = tiny.meta_options(tmp_path, str(pretrained["meta_deepbdc"]), packs["train"], method="stl_deepbdc")
    with pytest.raises(UserError, match="STL DeepBDC is not trained on episodes"):
        meta_train(config)


def test_training_from_random_weights(tmp_path, packs, capsys):
    metrics = meta_train(tiny.meta_options(tmp_path, None, packs["train"], model=tiny.model("protonet")))
    assert metrics["steps"] == 12
    assert "conv4 starts from random weights" in capsys.readouterr().out


def test_weights_without_a_card(tmp_path, packs, pretrained):
    """The plain state dict of another toolkit: the model options say what it is of."""
    state = read_checkpoint(pretrained["meta_deepbdc"])[0]
    torch.save({"state": state}, tmp_path / "best_model.tar")
    config = tiny.meta_options(tmp_path / "m", str(tmp_path / "best_model.tar"), packs["train"])
    assert meta_train(config)["steps"] == 12
    config = tiny.meta_options(
        tmp_path / "n", str(tmp_path / "best_model.tar"), packs["train"], model=tiny.model("meta_deepbdc", reduce_dim=4)
    )
    with pytest.raises(UserError, match="checkpoint of another architecture"):
        meta_train(config)
