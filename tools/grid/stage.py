"""One training in a folder of its own, kept when it is done; shared by `demo` and `benchmark`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from episodes.run import FREE_KEYS, write_json

DONE = "done.json"
STARTS = ("checkpoint", "weights")  # options that name the weights to start from
LENGTH = ("optim.epochs", "generations")  # a run may be lengthened on resuming, but a longer one is another stage


@dataclass(frozen=True)
class Stage:
    """A finished training: its weights, their hash, wall time in seconds, and one history row an epoch."""

    weights: Path
    hash: str
    seconds: float
    history: list[dict]


def stage_key(options: Any, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what the result of a training depends on: its options, the weights it starts from, and `facts`.

    Where it is written, and what changes nothing but speed, is left out, so that a run folder may be moved.
    """
    wanted = json.loads(json.dumps(asdict(options)))
    for key in (*STARTS, "source", *(key for key in FREE_KEYS if key not in LENGTH)):
        group, dot, name = key.partition(".")
        if dot and isinstance(wanted.get(group), dict):
            wanted[group].pop(name, None)
        elif not dot:
            wanted.pop(key, None)
    if facts and "skip_broken" in wanted.get("data", {}):
        wanted["data"]["skip_broken"] = False  # the hashes of the labels in `facts` tell what was left out
    base = next((value for name in STARTS if (value := getattr(options, name, None))), None)
    return {"options": wanted, "base": file_hash(base), "facts": dict(facts or {})}


def file_hash(weights: str | Path | None) -> str | None:
    """Return the hash of a weights file: its name alone does not say whether it was trained anew."""
    if weights is None:
        return None
    with open(weights, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_done(folder: Path, key: Mapping[str, Any]) -> Stage | None:
    """Return the stage of this very key that the folder holds, or None when there is none or it is unfinished."""
    content = note(folder)
    weights = folder / content.get("weights", "")
    if content.get("key") != key or "metrics" not in content or not weights.is_file():
        return None
    history = [json.loads(line) for line in (weights.parent / "log.jsonl").read_text().splitlines()]
    return Stage(weights, file_hash(weights), content["seconds"], history)


def run_stage(folder: Path, options: Any, job: Callable[[Any], dict], facts: Mapping[str, Any] | None = None) -> Stage:
    """Train, unless the folder says that it is done with the same options from the same weights.

    job: trains as `options` say and returns metrics with the path of the `weights`. A training that was killed goes on
    at its last checkpoint; one with other options or other weights starts anew.
    """
    key = stage_key(options, facts)
    if (done := read_done(folder, key)) is not None:
        return done
    started = time.perf_counter()
    before, start = note(folder), {"key": key, "skip_broken": options.data.skip_broken}
    same = before.get("key") == key and before.get("skip_broken", False) == start["skip_broken"]
    options.resume = same and any(folder.rglob("last.ckpt"))  # killed on the way
    options.overwrite = not options.resume
    write_json(folder / DONE, start)
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = job(options)
    seconds = time.perf_counter() - started
    weights = os.path.relpath(metrics["weights"], folder)
    write_json(folder / DONE, {**start, "metrics": metrics, "seconds": seconds, "weights": weights})
    return read_done(folder, key)


def note(folder: Path) -> dict[str, Any]:
    """Return what the `done.json` of a training says; nothing for one that is absent or was cut off on disk."""
    file = folder / DONE
    try:
        content = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def sentence(stage: Stage) -> str:
    """Say what a training reached and how long it took."""
    last = stage.history[-1]
    validated = f", validation {100 * last['val_accuracy']:.1f} %" if "val_accuracy" in last else ""
    return f"loss {last['loss']:.3f}{validated} ({stage.seconds:.0f} s)"
