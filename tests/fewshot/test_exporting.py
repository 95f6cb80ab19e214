"""Heads as programs: every method's file computes what the head does, or is refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backbones import UserError
from fewshot import create_head
from fewshot.exporting import (
    SUFFIXES,
    ClassifierProgram,
    EpisodeProgram,
    Graph,
    deviation,
    open_program,
    refusal,
    save_program,
)
from fewshot.fitted import KeptSupport, fit_head
from fewshot.methods import METHODS

HEADS = {"deepemd": {"solver": "sinkhorn", "iterations": 3, "tune_passes": 1}}
# What cannot be a fixed program, by method; None stands for every format.
NO_CLASSIFIER = {
    "adm": ("onnx", "Cholesky"),
    **{name: (None, "is transductive") for name, method in METHODS.items() if method.transductive},
    **dict.fromkeys(("maml", "maml_bdc", "maml_transductive"), (None, "trains the network")),
}
NO_EPISODE = {
    "good_embed": (None, "until it has converged"),
    "stl_deepbdc": (None, "until it has converged"),
    "baseline": (None, "trains a linear layer"),
    "baseline_pp": (None, "trains a linear layer"),
    **dict.fromkeys(("anil", "anil_bdc"), (None, "trains a linear layer")),
    **dict.fromkeys(("maml", "maml_bdc", "maml_transductive"), (None, "trains the network")),
    "tim": (None, "gradient descent"),
    "deepemd": (None, "gradient descent"),
    "adm": ("onnx", "Cholesky"),
    "frn": ("onnx", "linear systems"),
    "bd_cspn": ("onnx", "sorts its queries"),
}
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2])


def encoder_of(method: str) -> torch.nn.Module:
    """A small stand-in for a network: features of six numbers, or maps of three channels."""
    if METHODS[method].pool == "map":
        return torch.nn.AvgPool2d(2)
    return torch.nn.Sequential(torch.nn.AvgPool2d((4, 2)), torch.nn.Flatten())


def head_of(method: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_head(method, 2, 3 if METHODS[method].pool == "map" else 6, **HEADS.get(method, {})).eval()


def kind_of(method: str, refused: dict) -> str:
    """ONNX, which goes through torch.export; torch.export alone where ONNX lacks an operator."""
    kind = "torch" if refused.get(method, ("",))[0] == "onnx" else "onnx"
    if kind == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package, reason=f"ONNX files need {package} (requirements-onnx.txt)")
    return kind


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, 4, 4), dtype=np.float32)


def worst(graph: Graph, path, kind: str, cases: list) -> float:
    save_program(graph, path, kind, {"method": "this"})
    program, card = open_program(path)
    assert card["method"] == "this"
    return max(deviation(graph.run(inputs), program(inputs)) for inputs in cases)


@pytest.mark.parametrize("method", [name for name in METHODS if NO_CLASSIFIER.get(name, ("",))[0] is not None])
def test_a_classifier(tmp_path, method):
    kind, encoder, head = kind_of(method, NO_CLASSIFIER), encoder_of(method), head_of(method)
    assert refusal(head, "classifier", kind) is None
    with torch.no_grad():
        support = encoder(
            (torch.from_numpy(pictures(7)) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        )
    fitted, whole = (
        ClassifierProgram(encoder, scorer, MEAN, STD)
        for scorer in (fit_head(head, support, LABELS), KeptSupport(head, support, LABELS, 3))
    )
    graph = Graph(fitted, (torch.from_numpy(pictures(3)),), ("images",), ("batch",), "logits", whole)
    assert worst(graph, tmp_path / f"x{SUFFIXES[kind]}", kind, [[pictures(n, n)] for n in (1, 2, 5)]) < 2e-5


@pytest.mark.parametrize("method", [name for name in METHODS if NO_EPISODE.get(name, ("",))[0] is not None])
def test_an_episode(tmp_path, method):
    kind, head = kind_of(method, NO_EPISODE), head_of(method)
    assert refusal(head, "episode", kind) is None
    graph = Graph(
        EpisodeProgram(encoder_of(method), head, 3, MEAN, STD),
        (torch.from_numpy(pictures(7)), LABELS, torch.from_numpy(pictures(4))),
        ("support", "support_labels", "query"),
        ("supports", "supports", "queries"),
        "logits",
    )
    labels = [np.array(row) for row in ([2, 0, 1], [1, 0, 2, 0, -1, 2, 2, 2, 0])]  # other sizes, orders and padding
    cases = [[pictures(len(row), 9), row, pictures(n, n)] for row, n in zip(labels, (1, 6), strict=True)]
    assert worst(graph, tmp_path / f"x{SUFFIXES[kind]}", kind, cases) < 2e-5


@pytest.mark.parametrize(("what", "table"), [("classifier", NO_CLASSIFIER), ("episode", NO_EPISODE)])
def test_the_others_are_refused_with_the_reason(what, table):
    from fewshot.maml import with_encoder

    for method, (kind, reason) in table.items():
        head = with_encoder(head_of(method), encoder_of(method))
        for each in ("onnx", "torch"):
            said = refusal(head, what, each)
            if kind in (None, each):
                assert reason in said, method
            else:
                assert said is None, method
    assert "by a library" in refusal(create_head("deepemd", 1).eval(), "classifier", "torch")
    assert "with context" in refusal(create_head("matching_net", 1, 6, context=True), "classifier", "onnx")


class _Grows(torch.nn.Module):
    """Goes on for as long as its numbers say, which no fixed program can."""

    def forward(self, x):
        while bool(x.sum() < 10):
            x = x * 2
        return x


def test_what_cannot_be_traced_is_one_sentence_and_no_file(tmp_path):
    graph = Graph(_Grows(), (torch.ones(2, 3),), ("x",), ("batch",), "y")
    with pytest.raises(UserError, match="cannot be written as torch: .+") as caught:
        save_program(graph, tmp_path / "x.pt2", "torch", {})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_deviation():
    a = np.array([1.0, -4.0, -np.inf])
    assert deviation(a, a) == 0
    assert deviation(a, np.array([1.0, -4.2, -np.inf])) == pytest.approx(0.05)
    assert deviation(a, np.array([1.0, -4.0, 3.0])) == np.inf
    assert deviation(a, np.array([np.nan, -4.0, -np.inf])) == np.inf
    assert deviation(a, a[:2]) == np.inf
