"""The folder of one run: resolved configuration, log, curves, metrics and checkpoints, all written atomically."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml

from backbones.checkpoint import write_atomically
from episodes.errors import UserError

LAST, BEST = "last.ckpt", "best.safetensors"
# Options that may differ between a run and its continuation: they change nothing but speed, place or length.
FREE_KEYS = (
    *("run", "resume", "overwrite", "data.workers", "data.download", "optim.epochs", "generations", "pictures"),
    *("data.limit_s", "features", "reference_file"),
    *("machine.accelerator", "machine.threads", "machine.channels_last", "machine.deterministic"),
    *("machine.devices", "machine.num_nodes", "machine.timeout_minutes"),
)
ADDED = ("machine.sync_batchnorm",)
# Schedules that are laid out over all epochs: with another number of them they are other schedules.
LAID_OUT = ("cosine", "log", "linear", "LRnorm", "LRfast", "LRadju")
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "timm", "lightning-fabric")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def environment() -> dict[str, str]:
    """Return what the numbers of a run depend on besides its configuration: versions, command, commit, device."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    facts = {"python": platform.python_version(), "commit": _commit(), "device": device}
    return {**facts, "command": " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]]), **versions}


def _commit() -> str:
    """Return the commit of the code, "unknown" where it does not lie in a git checkout."""
    root = str(Path(__file__).resolve().parents[1])
    try:
        done = subprocess.run(
            ["git", "-C", root, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
        )
    except OSError:  # no git on this machine
        return "unknown"
    return done.stdout.strip() or "unknown"


def check_run(path: str | Path, resume: bool = False, overwrite: bool = False, resumable: bool = True) -> None:
    """Refuse a run folder before any long work and without creating it; `RunFolder` then creates it.

    resumable: whether the job has an option to go on, which a message may then name.
    Raises UserError when it holds a run that is neither to be resumed nor to be overwritten, or cannot be written.
    """
    path = Path(path)
    if (path / "config.yaml").is_file() and not (resume or overwrite):
        raise UserError(
            f"{path} already holds a run: give another --run, "
            f"{'or --resume true to go on with it, ' if resumable else ''}or --overwrite true to replace it"
        )
    check_folder(path, "the run folder", "--run")


def check_folder(path: str | Path, what: str, option: str) -> None:
    """Refuse a folder that cannot be written, without creating it.

    what, option: name the folder and its option in the message. Raises UserError.
    """
    path = Path(path)
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise UserError(f"cannot write to {what} {path} ({there} is a file): give another {option}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {what} {path} ({there} is read-only): give another {option}")


def _flatten(config: Mapping, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def refuse_other_options(path: str | Path, config: Mapping) -> None:
    """Raise UserError where a run folder was made with other options than these; those that change no result pass."""
    file = Path(path) / "config.yaml"
    if not file.is_file():
        return
    old, new = _flatten(yaml.safe_load(file.read_text())), _flatten(json.loads(json.dumps(config)))
    # videos' sources know no other schedule than the cosine
    fixed = old.get("optim.schedule", "cosine") in LAID_OUT and old.get("optim.t_max") is None
    free = [key for key in FREE_KEYS if key != "optim.epochs" or not fixed]
    for key in sorted(old.keys() | new.keys()):
        added = key not in old and key in ADDED  # the run is older than the option, and was as its default
        if key not in free and not added and old.get(key) != new.get(key):
            raise UserError(
                f"cannot resume {path} with other options: {key} was {old.get(key)!r} and is now "
                f"{new.get(key)!r}; start a new --run for that"
            )


class RunFolder:
    """Create, or on `resume` reopen, the folder of a run.

    path: the folder. config: resolved configuration, plain values only.
    resume: go on where the folder's last checkpoint stands (from the start when there is none yet).
    overwrite: start anew in a folder that holds a run.
    main: only the main process writes.
    Raises UserError when the folder cannot be written, holds another run, or `resume` comes with another configuration.
    """

    def __init__(
        self, path: str | Path, config: Mapping, resume: bool = False, overwrite: bool = False, main: bool = True
    ) -> None:
        self.path, self.config, self.main = Path(path), dict(config), main
        self.wants_resume, self.resuming = resume, resume and self.last.is_file()
        if not main:
            return
        check_run(self.path, resume, overwrite)
        if self.resuming:
            refuse_other_options(self.path, self.config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            write_json(self.path / "environment.json", environment())
        except OSError as error:
            raise UserError(
                f"cannot write to the run folder {self.path} ({error.strerror}): give another --run"
            ) from error
        if overwrite and not resume:
            for name in (LAST, BEST, "log.jsonl", "history.csv", "metrics.json"):
                (self.path / name).unlink(missing_ok=True)
            for old in (self.path / "tensorboard").glob("events.*"):
                old.unlink()

    @property
    def last(self) -> Path:
        """Checkpoint to resume from."""
        return self.path / LAST

    @property
    def best(self) -> Path:
        """Weights of the selected epoch, with the model card in their header."""
        return self.path / BEST

    def write_history(self, history: list[dict]) -> None:
        """Write the curves so far as `log.jsonl` and `history.csv`: one row an epoch, replaced as a whole."""
        if not self.main:
            return
        write_text(self.path / "log.jsonl", "".join(json.dumps(row) + "\n" for row in history))
        columns = list(dict.fromkeys(key for row in history for key in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path / "history.csv", table.getvalue())

    def write_metrics(self, metrics: Mapping) -> None:
        """Write `metrics.json`."""
        if self.main:
            write_json(self.path / "metrics.json", metrics)

    def tensorboard(self, purge_step: int | None = None):
        """Open a TensorBoard writer (None on other processes); what a killed run wrote after `purge_step` is hidden."""
        if not self.main:
            return None
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.path / "tensorboard"), purge_step=purge_step)
