"""Test the cells of a grid that share an encoder and a target: features once, results and failures cell by cell."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backbones.checkpoint import write_atomically
from backbones.errors import UserError
from episodes.metrics import mean_and_interval
from episodes.run import write_json
from tools.config import Evaluate
from tools.grid.methods import split_method
from tools.grid.plan import Cell, Job, episodes_name, file_name

# Options of a test that its accuracies do not depend on; the weights stand in the key by their hash.
FREE = (
    *("run", "checkpoint", "cache", "features", "pictures", "skip_broken", "download", "overwrite", "machine", "test"),
    *("method", "model", "write_episodes"),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What was measured in a cell: the record that stands in its file, and its episodes.

    numbers, accuracies: (E,) episode numbers and fractions. auroc: (E,) of open-set episodes, else None.
    """

    record: dict[str, Any]
    numbers: np.ndarray
    accuracies: np.ndarray
    auroc: np.ndarray | None


def cell_key(entry: Mapping[str, Any], weights: str, data: Mapping[str, str]) -> dict[str, Any]:
    """Return what the accuracies of a cell depend on: its options, the hash of the weights, and the pictures."""
    options = {key: value for key, value in entry["options"].items() if key not in FREE}
    if "video" not in entry:
        options.pop("video", None)
    if entry["options"]["cache"] == "memory":
        options.pop("feature_dtype")  # it is that of the features on disk
    rest = {name: entry[name] for name in ("head", "in_memory")}
    return {"options": options, **rest, "weights": weights, "data": dict(data)}


def read_cell(root: Path, cell: Cell, key: Mapping[str, Any] | None = None) -> Result | None:
    """Return the result of a cell, if there is a whole one (with this key)."""
    file = root / f"{cell.name}.json"
    if not file.is_file() or not file.with_suffix(".npz").is_file():
        return None
    try:
        record = json.loads(file.read_text())
        if key is not None and record["key"] != key:
            return None
        with np.load(file.with_suffix(".npz")) as arrays:
            return Result(record, arrays["numbers"], arrays["accuracies"], arrays.get("auroc"))
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):  # cut off on disk: it is measured again
        return None


def missing(job: Job, root: Path, weights: str) -> list[dict[str, Any]]:
    """Return the entries of a test whose results are not there yet."""
    keys = ((entry, cell_key(entry, weights, job.data)) for entry in job.cells)
    return [entry for entry, key in keys if read_cell(root, Cell(**entry["cell"]), key) is None]


def test_cells(
    job: Job, root: Path, checkpoint: Path, weights: str, sets: dict, explain: Callable[[str, Exception], str]
) -> dict[str, str]:
    """Score the cells that are missing; returns the reason of every cell that failed, by its name.

    weights: hash of the checkpoint. sets: opened pictures by their options, for the next test to use again.
    explain: (name of a cell, what was raised) -> its reason.
    """
    todo, failed = missing(job, root, weights), {}
    if not todo:
        return failed
    bench = _Bench(job, root, checkpoint, sets)
    for entry in todo:
        cell = Cell(**entry["cell"])
        try:
            score, facts = bench.score(entry)
            write_cell(root, cell, cell_key(entry, weights, job.data), score, facts)
        except Exception as error:  # one cell's trouble must not take the others
            failed[cell.name] = explain(cell.name, error)
    return failed


class _Bench:
    """An encoder and the pictures or clips of a target, with their features once they were computed."""

    def __init__(self, job: Job, root: Path, checkpoint: Path, sets: dict) -> None:
        from episodes.fingerprint import weights_key
        from tools import session

        first = job.cells[0]
        options = evaluate_options(first["options"])
        machine = replace(options.machine, devices=1)  # episodes of a frozen encoder need no second one
        self.fabric = session.open_fabric(machine, 0)
        if "video" in first:
            self.loaded, self.open, self.batch = open_video_model(first, root, checkpoint)
        else:
            self.loaded, self.open, self.batch = open_picture_model(first, checkpoint, sets)
        session.lay_out(self.loaded.encoder, machine)
        self.encoder = self.fabric.to_device(self.loaded.encoder.requires_grad_(False).eval())
        self.weights = weights_key(self.encoder, machine.precision) if options.cache == "disk" else ""
        self.pictures = self.open(options.test[0])
        self.root, self.features, self.centre = root, None, None

    def score(self, entry: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Score one cell; returns the score and what the head says of itself."""
        from fewshot.maml import with_encoder
        from tools.heads import build_heads
        from tools.scoring import score_set

        options, method = evaluate_options(entry["options"]), split_method(entry["cell"]["method"])[0]
        options.features, options.model.head = str(self.root / "features"), entry["head"]
        architecture = replace(self.loaded.architecture, method=method)
        ((k, head),) = build_heads(options, replace(self.loaded, architecture=architecture)).items()
        if options.base:
            self.centre_on_base(head, options)
        if options.write_episodes:
            self.write_episodes(Cell(**entry["cell"]), options, k)
        adapted = with_encoder(head, self.encoder, self.fabric.autocast)
        scores, self.features = score_set(
            entry["cell"]["target"], options, self.encode, {k: adapted}, self.pictures,
            self.fabric.device, show=False, features=self.features, weights=self.weights, batch_size=self.batch,
        )  # fmt: skip
        note = getattr(head, "note", None)  # of how it computed, after it has
        return scores[0], {"note": note} if note else {}

    def centre_on_base(self, head, options: Evaluate) -> None:
        """Give a head the mean feature of the base classes, which is computed once."""
        from tools.heads import centre_on_base

        if self.centre is None:
            base, device = self.open(options.base), self.fabric.device
            centre_on_base([head], options, self.encode, base, self.weights, device, show=False, batch_size=self.batch)
            self.centre = head.centre
        head.centre = self.centre

    def write_episodes(self, cell: Cell, options: Evaluate, k_shot: int) -> None:
        """Write the episodes of a target, kind, shot and seed, if no other cell has."""
        from episodes.files import write_episodes
        from tools.kinds import episode_samplers

        path = self.root / "episodes" / file_name(cell.target) / episodes_name(cell.kind, cell.k_shot, cell.seed)
        if not path.is_file():
            write_episodes(
                path, episode_samplers(options, self.pictures, k_shot)[0], self.pictures.dataset, cell.target
            )

    def encode(self, images):
        """Represent images or clips as the precision of the machine says."""
        from torch import cat

        with self.fabric.autocast():
            parts = [self.encoder(part) for part in images.split(self.batch)]
            return parts[0] if len(parts) == 1 else cat(parts)


def open_picture_model(entry: Mapping[str, Any], checkpoint: Path, sets: dict) -> tuple[Any, Callable, int]:
    """Return a model, what opens pictures for it by their text, and how many it takes at a time.

    sets: opened pictures by their options; those of one target are kept for the next test.
    """
    from episodes.loaders import Pictures
    from fewshot.card import load_encoder
    from tools import session
    from tools.groups import Data

    options, in_memory = evaluate_options(entry["options"]), entry["in_memory"]
    loaded = load_encoder(checkpoint, say=lambda text: None, method=entry["cell"]["method"])
    data = Data(skip_broken=options.skip_broken, download=options.download, in_memory=in_memory)
    mean, std = tuple(loaded.encoder.backbone.mean), tuple(loaded.encoder.backbone.std)

    def opened(text: str):
        key = (text, in_memory, options.skip_broken, mean, std)
        if text != options.test[0]:  # base classes, asked for once
            return Pictures(session.open_set(text, data, options.size), options.size, mean, std)
        if key not in sets:
            sets.clear()  # tests come target by target; one at a time is kept
            sets[key] = Pictures(session.open_set(text, data, options.size), options.size, mean, std)
        return sets[key]

    return loaded, opened, 128


def open_video_model(entry: Mapping[str, Any], root: Path, checkpoint: Path) -> tuple[Any, Callable, int]:
    """Return a model of videos, what opens clips for it by their text, and how many it takes at a time."""
    from tools.grid.stage import note
    from tools.tested import open_tested

    options, source = evaluate_options(entry["options"]), entry["video"].get("source")
    if source is not None:  # an adapter file, with its network elsewhere
        job = source.get("job")
        options.video.source = str(root / job / note(root / job)["weights"]) if job else source["path"]
    options.checkpoint, options.method = str(checkpoint), split_method(entry["cell"]["method"])[0]
    tested = open_tested(options, say=lambda text: None)
    return tested.loaded, tested.open, tested.batch


def write_cell(root: Path, cell: Cell, key: Mapping[str, Any], score, facts: Mapping[str, Any]) -> None:
    """Write the results of the episodes and then the record of a cell."""
    (part,) = score.evaluations
    if not np.isfinite(part.accuracies).all():
        raise UserError("some accuracies are not finite")
    arrays = {"numbers": part.numbers, "accuracies": part.accuracies}
    mean, interval = mean_and_interval(part.accuracies)
    record = {"accuracy": mean, "interval": interval, "episodes": len(part.accuracies)}
    if (auroc := getattr(part, "auroc", None)) is not None:
        arrays["auroc"] = auroc
        record["auroc"], record["auroc_interval"] = mean_and_interval(auroc)
    record["seconds"] = round(part.seconds, 3)
    record["feature_seconds"] = round(part.feature_seconds, 3)  # where they were computed, else 0
    record |= facts
    file = root / f"{cell.name}.json"
    write_atomically(file.with_suffix(".npz"), lambda name: _save(name, arrays))
    write_json(file, {**record, "key": key})


def _save(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    with open(name, "wb") as file:  # by its name alone NumPy would add a suffix
        np.savez(file, **arrays)


def evaluate_options(plain: Mapping[str, Any]) -> Evaluate:
    """Build the options of a test from a dictionary."""
    from tools.grid.job import build

    return build(Evaluate, plain)
