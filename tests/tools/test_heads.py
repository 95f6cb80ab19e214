"""The heads of a test: solvers by name, SimpleShot centred on base classes, and what the results say of them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from backbones import UserError
from episodes.evaluate import extract_features
from episodes.loaders import Pictures
from episodes.opening import open_dataset
from fewshot.card import load_encoder
from fewshot.deepemd import DeepEMD
from fewshot.transport import exact_solver_name
from tests.tools import tiny
from tools.evaluate import evaluate
from tools.heads import mean_feature, notes_of


@pytest.fixture
def score(tmp_path, packs, pretrained):
    """Test a checkpoint with a head; returns metrics and accuracies by shot."""

    def run(method: str, **options):
        checkpoint = str(pretrained["meta_deepbdc"])
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        options = {"k_shot": [1, 2], "episodes": 20, "features": str(tmp_path / "store"), **options}
        metrics = evaluate(tiny.evaluate_options(folder, checkpoint, packs["test"], method=method, **options))
        assert json.loads((folder / "metrics.json").read_text())["notes"] == metrics["notes"]
        for text in metrics["notes"].values():
            assert text in (folder / "table.md").read_text()
        with open(folder / "episodes.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        return metrics, {k: np.array([float(r["accuracy"]) for r in rows if r["k_shot"] == k]) for k in ("1", "2")}

    return run


@pytest.mark.parametrize("method", ["good_embed", "stl_deepbdc"])
def test_scikit_learn_is_a_solver_by_name(score, method):
    ours, newton = score(method, solver="newton")
    theirs, sklearn = score(method, solver="sklearn")
    assert "Newton" in ours["notes"]["head, 1-shot"]  # C differs between the shots
    assert "scikit-learn" in theirs["notes"]["head, 2-shot"]
    for k in ("1", "2"):
        assert np.abs(newton[k] - sklearn[k]).max() <= 1 / 25 + 1e-6  # a near tie among 25 queries at most
        assert abs(newton[k].mean() - sklearn[k].mean()) < 0.005


def test_an_unknown_solver_is_named_with_those_there_are(score):
    with pytest.raises(UserError, match="unknown solver 'lbfgs' of the logistic head; known: newton, sklearn"):
        score("good_embed", solver="lbfgs")
    with pytest.raises(UserError, match="solver: ProtoNet has none; good_embed, stl_deepbdc and deepemd have"):
        score("protonet", solver="sklearn")


def test_a_head_that_nothing_has_trained_is_refused_before_any_work(tmp_path, packs, pretrained):
    """A head that adapts the network as well, whose encoder is wrapped around it, and one without any checkpoint."""
    learned = {"start": "learned", "n_way": 5, "test_steps": 1}
    for name, model, checkpoint in (
        ("relation_net", tiny.model("relation_net"), str(pretrained["protonet"])),
        ("matching_net", tiny.model("matching_net", head={"context": True}), str(pretrained["protonet"])),
        ("maml", tiny.model("maml", head=learned), str(pretrained["protonet"])),
        ("relation_net", tiny.model("relation_net"), None),
    ):
        options = tiny.evaluate_options(
            tmp_path / name,
            checkpoint,
            packs["test"],
            method=name,
            model=model,
            k_shot=[1],
            episodes=2,
        )
        with pytest.raises(UserError, match="no trained weights of the head .*: train it with tools.meta_train first"):
            evaluate(options)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("cache", ["disk", "memory", "none"])
def test_simpleshot_takes_the_mean_of_base_classes(score, packs, pretrained, cache):
    loaded = load_encoder(str(pretrained["meta_deepbdc"]), method="simpleshot")
    encoder, backbone = loaded.encoder.eval(), loaded.encoder.backbone
    base = Pictures(open_dataset(packs["train"]), 16, backbone.mean, backbone.std)
    with torch.no_grad():
        centre = extract_features(encoder, base, show=False).double().mean(0)
    torch.testing.assert_close(mean_feature(encoder, base, show=False).double(), centre, rtol=1e-6, atol=1e-7)
    by_option, mine = score("simpleshot", base=packs["train"], cache=cache)
    head = {"variant": "CL2N", "centre": centre.tolist()}
    _, given = score("simpleshot", model=tiny.model("simpleshot", head=head), cache=cache)
    _, plain = score("simpleshot", model=tiny.model("simpleshot", head={"variant": "CL2N"}), cache=cache)
    assert by_option["notes"] == {"head": "features centred on the mean of the base classes"}
    assert all((mine[k] == given[k]).all() for k in mine)
    assert any((mine[k] != plain[k]).any() for k in mine)  # the mean of the support is another centre


def test_a_base_that_nobody_uses_is_refused(score, packs):
    with pytest.raises(UserError, match="ProtoNet has no use for the mean feature of base classes"):
        score("protonet", base=packs["train"])
    with pytest.raises(UserError, match="base names no data set"):
        score("simpleshot", base="")
    with pytest.raises(UserError, match="base is the centre of variant CL2N"):
        score("simpleshot", base=packs["train"], model=tiny.model("simpleshot", head={"variant": "UN"}))


def test_deepemd_says_which_transport(score):
    options = {"episodes": 2, "k_shot": [1]}
    assert score("deepemd", **options)[0]["notes"] == {
        "head": f"optimal transport solved exactly, by {exact_solver_name()}"
    }
    assert "entropic" in score("deepemd", solver="sinkhorn", **options)[0]["notes"]["head"]
    assert "entropic" in DeepEMD().train().note
    assert "exactly" in DeepEMD().eval().note
    assert exact_solver_name("linprog") == "SciPy's linear program"


def test_heads_without_a_note_add_none():
    assert notes_of({1: torch.nn.Identity(), 5: torch.nn.Identity()}) == {}
