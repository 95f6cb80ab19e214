"""Exported files: they compute what covey computes, say what they are, and are not there when they would be wrong."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
import torch

from backbones import UserError
from backbones.checkpoint import save_weights
from classify.networks import Design, make_card
from fewshot.card import design
from fewshot.encoder import EpisodeModel
from fewshot.exporting import open_program
from fewshot.methods import METHODS, create_head
from tests.tools import tiny
from tools.deployment import Export
from tools.export import export
from tools.groups import Model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Supports of three classes with 3 pictures each, and more pictures of them."""
    root = tmp_path_factory.mktemp("folders")
    tiny.folder(root / "support", classes=3, items=3)
    tiny.folder(root / "more", classes=3, items=2, seed=1)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A function of a method that returns a file of random weights, with its head's."""
    root = tmp_path_factory.mktemp("weights")

    def write(method: str):
        path = root / f"{method}.safetensors"
        if not path.is_file():
            torch.manual_seed(0)
            plan, encoder = design(method, "conv4", tiny.NETWORK)
            model = EpisodeModel(encoder, create_head(method, 1, encoder.out_dim))
            save_weights(model, path, plan.card("meta", data="glyphs:latin"))
        return str(path)

    return write


def options(run, checkpoint, what, kind, folders, **more) -> Export:
    if kind == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package, reason=f"ONNX files need {package} (requirements-onnx.txt)")
    support = str(folders / "support") if what == "classifier" else None
    return Export(
        str(run), checkpoint, what=what, format=kind, support=support, pictures=[str(folders / "more")], n_way=3,
        machine=tiny.CPU, **more,
    )  # fmt: skip


@pytest.mark.parametrize(("method", "kind"), [("stl_deepbdc", "onnx"), ("frn", "torch")])
def test_a_classifier_is_checked_on_real_pictures(tmp_path, folders, weights, method, kind):
    metrics = export(options(tmp_path, weights(method), "classifier", kind, folders))
    assert metrics["largest_deviation"] <= 2e-5
    assert [row["on"] for row in metrics["checks"]][3:] == ["9 supports", "6 pictures"]
    program, card = open_program(metrics["file"])
    assert card["class_names"] == ["class0", "class1", "class2"]
    assert card["shots"] == [3, 3, 3]
    assert program([np.zeros((7, 3, 16, 16), np.float32)]).shape == (7, 3)


def test_an_episode_has_its_supports_for_inputs(tmp_path, folders, weights):
    metrics = export(options(tmp_path, weights("protonet"), "episode", "onnx", folders))
    assert metrics["largest_deviation"] <= 2e-5
    shapes = [entry["shape"] for entry in metrics["card"]["inputs"]]
    assert shapes == [["supports", 3, 16, 16], ["supports"], ["queries", 3, 16, 16]]


@pytest.mark.parametrize(
    ("method", "what", "reason"),
    [("bd_cspn", "classifier", "transductive"), ("stl_deepbdc", "episode", "converged"), ("maml", "episode", "trains")],
)
def test_a_head_that_is_no_program_says_why_and_leaves_nothing(tmp_path, folders, weights, method, what, reason):
    with pytest.raises(UserError, match=f"{re.escape(METHODS[method].title)} cannot be exported as {what}.*{reason}"):
        export(options(tmp_path / "run", weights(method), what, "torch", folders))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_an_encoder_its_card_and_the_example_in_it(tmp_path, folders, pretrained, kind):
    metrics = export(options(tmp_path, str(pretrained["meta_deepbdc"]), "encoder", kind, folders))
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    card = metrics["card"]
    assert (card["what"], card["method"], card["stage"]) == ("encoder", "meta_deepbdc", "pretrain")
    assert card["preprocessing"] == {"colour": "RGB", "resize": 18, "crop": 16, "range": [0, 1]}
    if kind == "onnx":
        assert card["opset"]["ai.onnx"] >= 18
    assert {path.name for path in tmp_path.iterdir()} == {
        *("config.yaml", "environment.json", "metrics.json", "card.md"),
        "encoder.onnx" if kind == "onnx" else "encoder.pt2",
    }
    text = (tmp_path / "card.md").read_text()
    digest = hashlib.sha256(pretrained["meta_deepbdc"].read_bytes()).hexdigest()
    said = ("A feature extractor", "pre-trained: backbone", "train.npz", digest, card["weights"], "1 random picture |")
    for part in said:
        assert part in text, part
    assert "softmax" not in text  # features are no probabilities
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    images = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
    names = {"images": images if kind == "onnx" else torch.from_numpy(images)}
    exec(compile(code.replace("encoder.", f"{tmp_path}/encoder."), "card.md", "exec"), names)
    expected = open_program(metrics["file"])[0]([images])
    assert np.array_equal(np.asarray(names["features"]), expected)
    assert names["card"] == card


def test_pixels_are_normalised_inside(tmp_path, folders, weights):
    from fewshot import load_classifier

    metrics = export(options(tmp_path, weights("protonet"), "classifier", "torch", folders))
    classifier = load_classifier(weights("protonet")).fit(folders / "support")
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    logits = open_program(metrics["file"])[0]([pixels.float().numpy() / 255])
    assert np.allclose(logits, classifier.logits(pixels).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_library_network(tmp_path, folders, kind):
    config = options(tmp_path, None, "classifier", kind, folders, size=32)
    config.model = Model(backbone="timm:resnet10t", backbone_options={"pretrained": False})
    assert export(config)["card"]["method"] == "good_embed"


def test_a_file_that_is_not_good_enough_is_not_there(tmp_path, folders, weights, capsys):
    export(options(tmp_path, weights("meta_deepbdc"), "classifier", "torch", folders))
    with pytest.raises(SystemExit) as stopped:
        export(options(tmp_path, weights("meta_deepbdc"), "classifier", "torch", folders, tolerance=1e-12,
                       overwrite=True))  # fmt: skip
    assert stopped.value.code == 1
    assert "more than the tolerance of 1.0e-12" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if "classifier" in path.name]


@pytest.mark.parametrize(
    ("what", "change", "message"),
    [
        ("classifier", {"support": None}, "name their folder"),
        ("classifier", {"support": "absent"}, "does not exist"),
        ("encoder", {"checkpoint": None}, "no weights are given"),
        ("encoder", {"checkpoint": "absent.safetensors"}, "no checkpoint at"),
        ("encoder", {"pictures": ["absent"]}, "does not exist"),
        ("episode", {"n_way": 1}, "n_way must be at least 2"),
        ("encoder", {"tolerance": 0.0}, "tolerance must be above 0"),
        ("encoder", {"machine": tiny.Machine(accelerator="cpu", devices=2)}, "works on one device"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, folders, weights, what, change, message):
    config = options(tmp_path / "run", weights("protonet"), what, "torch", folders)
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=message):
        export(config)
    assert not (tmp_path / "run").exists()


def test_of_a_classification_network_the_backbone_is_exported_and_said_so(tmp_path, folders, capsys):
    plan = Design("conv4", "isqrt", tiny.NETWORK, reduction=4, size=16)
    network = plan.build(3)
    save_weights(network, tmp_path / "best.safetensors", make_card(plan, network, ["a", "b", "c"]))
    metrics = export(options(tmp_path / "run", str(tmp_path / "best.safetensors"), "encoder", "torch", folders))
    assert "its own pooling and classifier are left behind" in capsys.readouterr().out
    assert metrics["largest_deviation"] <= metrics["tolerance"]
