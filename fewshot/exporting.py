"""Models as programs that run without covey: `torch.export` files and ONNX graphs, with a check of what they compute.

Exported programs take pictures as RGB numbers from 0 to 1, float32 (N, 3, size, size), and normalise them themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backbones import UserError
from backbones.checkpoint import write_atomically
from fewshot.adm import ADM
from fewshot.anil import ANIL
from fewshot.baseline import Baseline
from fewshot.baseline_pp import BaselinePP
from fewshot.bd_cspn import BDCSPN
from fewshot.deepemd import DeepEMD
from fewshot.frn import FRN
from fewshot.good_embed import GoodEmbed
from fewshot.matching_net import MatchingNet
from fewshot.tim import TIM

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
CARD_FILE = "covey.json"  # in a .pt2 file; an ONNX file has it under metadata_props["covey"]
INSTALL_ONNX = "pip install -r requirements-onnx.txt"

Program = Callable[[Sequence[np.ndarray]], np.ndarray]


class _Pictures(nn.Module):
    """RGB from 0 to 1 -> what the encoder wants."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class EncoderProgram(nn.Module):
    """images (N, 3, S, S) -> features (N, ...)."""

    def __init__(self, encoder: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.pictures, self.encoder = _Pictures(mean, std), encoder

    def forward(self, images: Tensor) -> Tensor:
        """Represent pictures."""
        return self.encoder(self.pictures(images))


class ClassifierProgram(nn.Module):
    """images (N, 3, S, S) -> logits (N, K), with the supports built in; scorer: see `fewshot.fitted.fit_head`."""

    def __init__(self, encoder: nn.Module, scorer: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.encode, self.scorer = EncoderProgram(encoder, mean, std), scorer

    def forward(self, images: Tensor) -> Tensor:
        """Score pictures."""
        return self.scorer(self.encode(images))


class EpisodeProgram(nn.Module):
    """supports (S, 3, H, W), their labels (S,) and queries (Q, 3, H, W) -> logits (Q, n_way)."""

    def __init__(self, encoder: nn.Module, head: nn.Module, n_way: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.encode, self.head, self.n_way = EncoderProgram(encoder, mean, std), head, n_way

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor) -> Tensor:
        """Score one episode; labels are 0 .. n_way - 1, or -1 for a support that does not count."""
        rows = self.encode(support).unsqueeze(0), support_labels.unsqueeze(0), self.encode(query).unsqueeze(0)
        return self.head(*rows, n_way=self.n_way)[0]


@dataclass(frozen=True)
class Graph:
    """A module with what its file needs: names of inputs and output, and the name of the axis 0 of every input.

    inputs: an example of each, whose axis 0 is to be free and holds two rows at least.
    reference: what the file is compared with, where it is not the module itself.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    names: tuple[str, ...]
    axes: tuple[str, ...]
    output: str
    reference: nn.Module | None = None

    def run(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Compute in torch what the file should compute."""
        with torch.no_grad():
            return (self.reference or self.module)(*(torch.from_numpy(x) for x in inputs)).numpy()


def refusal(head: nn.Module, what: str, kind: str) -> str | None:
    """Say why a head cannot be exported as 'classifier' or 'episode' to 'onnx' or 'torch'; None where it can.

    A program is a fixed list of operations: it can't go on until something has converged, nor call a library.
    """
    if getattr(head, "adapts", False):
        return "it trains the network on every support, which a fixed program can't"
    if isinstance(head, MatchingNet) and head.support_encoder is not None:
        return "with context it packs the supports by their number, which a fixed program can't"
    if isinstance(head, ADM) and kind == "onnx":
        return "it needs the Cholesky factor of every query, which ONNX has no operator for, take --format torch"
    if isinstance(head, DeepEMD) and what == "episode":
        return "it tunes the maps of the classes by gradient descent, export a classifier"
    if isinstance(head, DeepEMD) and head.chosen_solver == "exact":
        return "it solves transport problems by a library, take the entropic plan with --model.head.solver sinkhorn"
    if what == "classifier":
        joint = getattr(head, "transductive", False)
        return (
            "it is transductive, its answer for a picture depends on the others, see --what episode" if joint else None
        )
    if isinstance(head, GoodEmbed):
        return "it fits a regression to each support until it has converged, export a classifier, fitted once"
    if isinstance(head, (Baseline, BaselinePP, ANIL)):
        return "it trains a linear layer on each support, export a classifier, trained once"
    if isinstance(head, TIM):
        return "it tunes its weights by gradient descent on all queries of an episode"
    if isinstance(head, BDCSPN) and head.top is not None and kind == "onnx":
        return "it sorts its queries, equal ones in their order, which ONNX does not promise, take --format torch"
    if isinstance(head, FRN) and kind == "onnx":
        return "it solves linear systems, which ONNX has no operator for, take --format torch, or a classifier"
    return None


def save_program(
    graph: Graph, path: str | Path, kind: str, card: Mapping[str, object], opset: int | None = None
) -> None:
    """Write the module as a program, whole or not at all; the card goes into the file.

    kind: 'torch' (.pt2) or 'onnx'. opset: of ONNX, None = the exporter's own.
    Raises UserError when the network has an operation that cannot be exported, or a package is absent.
    """
    if kind == "onnx":
        need_onnx()
    graph.module.eval().requires_grad_(False)
    with torch.no_grad():
        graph.module(*graph.inputs)  # tables that are cached must be real ones, not those of the tracer
    axes = {name: {0: torch.export.Dim(axis, min=1)} for name, axis in zip(graph.names, graph.axes, strict=True)}
    try:
        with torch.no_grad():
            program = torch.export.export(graph.module, graph.inputs, dynamic_shapes=axes)
        if kind == "torch":
            extra = {CARD_FILE: json.dumps(card)}
            write_atomically(path, lambda name: _save_torch(program, name, extra))
        else:
            write_atomically(path, lambda name: _save_onnx(program, graph, name, card, opset))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"the model cannot be written as {kind}: {_first_cause(error)}") from error


def _first_cause(error: BaseException) -> str:
    """Return the first line of what went wrong in the end, under the exporters' own reports."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _save_torch(program: torch.export.ExportedProgram, name: str, extra: dict[str, str]) -> None:
    with open(name, "wb") as file:  # the suffix of a temporary file is not the one that a path must have
        torch.export.save(program, file, extra_files=extra)


def _save_onnx(program, graph: Graph, name: str, card: Mapping[str, object], opset: int | None) -> None:
    import onnx

    made = torch.onnx.export(
        program, dynamo=True, input_names=list(graph.names), output_names=[graph.output], opset_version=opset,
        verbose=False,
    )  # fmt: skip
    model = made.model_proto
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    values = {**card, "opset": opsets, "onnx": onnx.__version__}
    onnx.helper.set_model_props(model, {"covey": json.dumps(values)})
    onnx.checker.check_model(model)
    Path(name).write_bytes(model.SerializeToString())


def need_onnx() -> None:
    """Raise a UserError with the install command where a package for ONNX files is absent."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX files need the package {error.name}: {INSTALL_ONNX}") from error


def open_program(path: str | Path) -> tuple[Program, dict]:
    """Open an exported file, by its suffix; returns a function of the inputs, in order, and the card.

    ONNX files run in onnxruntime, .pt2 files in torch; both on the CPU.
    """
    if Path(path).suffix == SUFFIXES["torch"]:
        extra = {CARD_FILE: ""}
        module = torch.export.load(str(path), extra_files=extra).module()

        def run(inputs: Sequence[np.ndarray]) -> np.ndarray:
            with torch.no_grad():
                return module(*(torch.from_numpy(x) for x in inputs)).numpy()

        return run, json.loads(extra[CARD_FILE])
    need_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    card = json.loads(session.get_modelmeta().custom_metadata_map.get("covey", "{}"))
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0], card


def deviation(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the largest absolute difference over the largest absolute number expected; infinite for other shapes.

    Infinities must be the same ones on both sides.
    """
    if expected.shape != found.shape or not np.array_equal(np.isinf(expected), np.isinf(found)):
        return float("inf")
    finite = np.isfinite(expected)
    if not np.isfinite(found[finite]).all():
        return float("inf")
    scale = np.abs(expected[finite]).max(initial=0.0)
    return float(np.abs(found[finite] - expected[finite]).max(initial=0.0) / max(scale, np.finfo(np.float32).tiny))
