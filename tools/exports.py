"""The parts of `export`: what is written, what is said about it, and the check of its numbers."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones import UserError
from episodes.dataset import FileSet
from episodes.fingerprint import weights_key
from episodes.loaders import Pictures
from episodes.run import environment, write_text
from episodes.seeds import derive
from episodes.transforms import resize_for
from fewshot.card import Loaded
from fewshot.classifier import classifier_of
from fewshot.exporting import (
    ClassifierProgram,
    EncoderProgram,
    EpisodeProgram,
    Graph,
    deviation,
    open_program,
    refusal,
)
from fewshot.fitted import KeptSupport
from fewshot.methods import METHODS, create_head
from tools.report import CARD

MOST_PICTURES = 64  # real pictures in a check
ROWS = (1, 2, 5)  # random pictures in the checks: one, and numbers that the example has not


def build(config, loaded: Loaded, support: FileSet | None) -> tuple[Graph, dict[str, Any]]:
    """Build what is to be exported, with facts for its card; raises UserError for a head that cannot be exported."""
    plan, encoder = loaded.architecture, loaded.encoder.requires_grad_(False).eval()
    mean, std, size = encoder.backbone.mean, encoder.backbone.std, plan.size
    some = _random(config.seed, 3, size)
    if config.what == "encoder":
        return Graph(EncoderProgram(encoder, mean, std), (some,), ("images",), ("batch",), "features"), {}
    if config.what == "classifier":
        return _classifier(config, loaded, support, some)
    options = {**loaded.head_options(), **config.model.head}
    head = loaded.load_head(create_head(plan.method, config.k_shot, encoder.out_dim, **options))
    _refuse(head, config, plan.method)
    labels = torch.arange(config.n_way).repeat(max(config.k_shot, 2))
    inputs = (_random(config.seed, len(labels), size), labels, some)
    return Graph(
        EpisodeProgram(encoder, head.requires_grad_(False).eval(), config.n_way, mean, std),
        inputs,
        ("support", "support_labels", "query"),
        ("supports", "supports", "queries"),
        "logits",
    ), {"n_way": config.n_way, "k_shot": config.k_shot}


def _classifier(config, loaded: Loaded, support: FileSet, some: Tensor) -> tuple[Graph, dict[str, Any]]:
    """Build the classifier of a support; it is compared with the head that sees the support at every call."""
    encoder = loaded.encoder
    mean, std = encoder.backbone.mean, encoder.backbone.std
    classifier = classifier_of(loaded, config.model.head)
    names = support.class_names
    head = classifier.head(max(1, len(support) // len(names))).requires_grad_(False).eval()
    _refuse(head, config, loaded.architecture.method)
    scorer = classifier.fit(support).scorer
    whole = KeptSupport(head, classifier.features(support), torch.from_numpy(support.labels), len(names))
    graph = Graph(
        ClassifierProgram(encoder, scorer, mean, std), (some,), ("images",), ("batch",), "logits",
        ClassifierProgram(encoder, whole, mean, std),
    )  # fmt: skip
    return graph, {"class_names": names, "shots": np.bincount(support.labels).tolist()}


def _refuse(head: torch.nn.Module, config, method: str) -> None:
    if reason := refusal(head, config.what, config.format):
        raise UserError(f"{METHODS[method].title} cannot be exported as {config.what} to {config.format}: {reason}")


def _random(seed: int, count: int, size: int, *more: int) -> Tensor:
    """Return random pictures (N, 3, S, S), numbers from 0 to 1."""
    generator = np.random.default_rng(derive(seed, count, *more))
    return torch.from_numpy(generator.random((count, 3, size, size), dtype=np.float32))


def card_of(config, loaded: Loaded, graph: Graph, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the card that goes into the file: the network, how pictures are prepared, the inputs and the output."""
    plan = loaded.architecture
    with torch.no_grad():
        out = graph.module(*graph.inputs)
    shapes = zip(graph.names, graph.axes, graph.inputs, strict=True)
    known, named = environment(), config.checkpoint or config.model.weights
    file = Path(named) if named else None
    stage = loaded.card.get("stage") or ("library" if config.checkpoint is None else "not recorded")
    return {
        **plan.card(stage),
        "what": config.what,
        "format": config.format,
        **facts,
        "trained_on": loaded.card.get("data"),
        "weights_file": {"name": file.name, "sha256": sha256(file.read_bytes()).hexdigest()} if file else None,
        "weights": weights_key(loaded.encoder),
        "head": {**loaded.head_options(), **config.model.head},
        "preprocessing": {"colour": "RGB", "resize": resize_for(plan.size), "crop": plan.size, "range": [0, 1]},
        "inputs": [
            {"name": name, "dtype": str(x.dtype).removeprefix("torch."), "shape": [axis, *x.shape[1:]]}
            for name, axis, x in shapes
        ],
        "output": {"name": graph.output, "shape": [graph.axes[-1], *out.shape[1:]]},
        "versions": {name: known[name] for name in ("python", "commit", "torch", "torchvision")},
    }


def compare(
    graph: Graph, file: Path, size: int, support: FileSet | None, pictures: FileSet | None, seed: int, n_way: int
) -> list[dict[str, Any]]:
    """Run the file and the model on random and real pictures, in batches of several sizes; returns one row a check."""
    program, _ = open_program(file)
    cases = [(f"{count} random picture{'s' * (count > 1)}", _random(seed, count, size, 1).numpy()) for count in ROWS]
    for name, dataset in (("supports", support), ("pictures", pictures)):
        if dataset is not None:
            shown = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MOST_PICTURES)).astype(int))
            plain = Pictures(dataset, size, (0.0,) * 3, (1.0,) * 3)  # numbers from 0 to 1
            cases.append((f"{len(shown)} {name}", plain.load(shown).numpy()))
    rows = []
    for place, (name, images) in enumerate(cases):
        inputs = [images]
        if len(graph.inputs) > 1:  # other supports every time, in another number and order
            labels = np.random.default_rng(derive(seed, place)).permutation(np.arange(n_way).repeat(place + 1))
            inputs = [_random(seed, len(labels), size, 2, place).numpy(), labels.astype(np.int64), images]
        rows.append({"on": name, "deviation": deviation(graph.run(inputs), program(inputs))})
    return rows


def write_card(folder: Path, file: Path, title: str, metrics: dict[str, Any]) -> None:
    """Write `card.md` of an exported file."""
    from fewshot.model_card import export_card

    card = metrics["card"]
    parity = {row["on"]: f"deviation {row['deviation']:.1e}" for row in metrics["checks"]}
    parity["measure"] = "largest difference from covey's own numbers, over the largest of these"
    parity["tolerance"] = f"{metrics['tolerance']:.1e}"
    if "opset" in card:
        opsets = ", ".join(f"{domain} {version}" for domain, version in card["opset"].items())
        card = {**card, "versions": {**card["versions"], "ONNX operators": opsets, "onnx": card["onnx"]}}
    write_text(folder / CARD, export_card(card, title, file.name, card["format"], parity))
