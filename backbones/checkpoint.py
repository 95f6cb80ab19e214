"""Weights on disk: reading without unpickling code, the official DeepBDC layout, and loading that reports every key."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.wording import many

FORMAT = "covey-1"
EXPECTED = "give the path of a .safetensors, .pt, .pth or .tar file"
# Bookkeeping that older files lack and that does not change what a network computes.
OPTIONAL = ("num_batches_tracked", ".calls")
_WRAPPERS = ("state", "state_dict", "model", "module", "model_state_dict", "params")

# Official name -> ours, applied in order; the inverse is built by `to_official`.
_RENAMES = (
    (r"^feature\.", "backbone."),
    (r"^dcov\.", "pool."),
    (r"(^|\.)conv_dr_block\.", r"\1reduce."),
    (r"(^|\.)trunk\.([01])\.", r"\1stem.\2."),
)


def _rename_official(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    found = re.match(r"(.*?)trunk\.(\d+)\.(.+)", key)
    if found:  # the stem takes trunk.0 .. trunk.3, blocks are numbered on from there
        prefix, number, rest = found.groups()
        rest = re.sub(r"^C(\d)\.", r"conv\1.", re.sub(r"^BN(\d)\.", r"bn\1.", rest))
        rest = re.sub(r"^shortcut\.weight$", "shortcut.0.weight", re.sub(r"^BNshortcut\.", "shortcut.1.", rest))
        key = f"{prefix}blocks.{int(number) - 4}.{rest}"
    return key


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of the released DeepBDC code to our names.

    `module.` prefixes go; `feature.`, `dcov.` and the numbered `trunk` of the plain ResNets become `backbone.`,
    `pool.`, `stem` and `blocks`. Keys that already have our names pass unchanged.
    """
    return {_rename_official(re.sub(r"^(module\.)+", "", key)): value for key, value in state.items()}


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of ours to the released DeepBDC names: the inverse of `from_official`."""
    result = {}
    for key, value in state.items():
        key = re.sub(r"^backbone\.", "feature.", re.sub(r"^pool\.", "dcov.", key))
        key = re.sub(r"(^|\.)reduce\.", r"\1conv_dr_block.", key)
        key = re.sub(r"(^|\.)stem\.([01])\.", r"\1trunk.\2.", key)
        found = re.match(r"(.*?)blocks\.(\d+)\.(conv|bn|shortcut)(.+)", key)
        if found:
            prefix, number, part, rest = found.groups()
            if part == "shortcut":
                rest = "shortcut.weight" if rest.startswith(".0.") else f"BNshortcut.{rest[3:]}"
            else:
                rest = {"conv": "C", "bn": "BN"}[part] + rest
            key = f"{prefix}trunk.{int(number) + 4}.{rest}"
        result[key] = value
    return result


def read_checkpoint(path: str | Path, prefer: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], dict]:
    """Read a weights file; returns (state dict, metadata).

    path: `.safetensors`, or a torch file that holds a plain state dict or one under state, state_dict, model, ... .
    prefer: names to look under first, for instance ("state_dict_ema",) for averaged weights.
    Nothing is executed: torch files are read with ``weights_only=True``.
    Raises UserError when the file is missing, damaged, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: {EXPECTED}")
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = json.loads((file.metadata() or {}).get("covey", "{}"))
                return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 (no mapping)
        # Published files often hold the options of their run in a Namespace, which is a plain record of attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises to read the file in the way that runs its code: all that is kept of it is a name
        named = re.search(
            r"(?:GLOBAL|Unsupported class|Trying to (?:call|instantiate)(?: unsupported \w+)?) `?([\w.]+)", str(error)
        )
        if named is None:
            raise UserError(f"{path} is no readable checkpoint: {EXPECTED}") from error
        raise UserError(
            f"{path} holds more than tensors and plain values ({named[1]}), and running code from a file is refused: "
            "save its state dict alone"
        ) from error
    except Exception as error:  # bytes that are no pickle make the reader raise anything
        lines = str(error).splitlines() if isinstance(error, RuntimeError | OSError | ValueError) else []
        reason = lines[0] if lines else type(error).__name__
        raise UserError(f"{path} is no readable checkpoint, perhaps half written ({reason}): copy it again") from error
    return _find_state(content, path, prefer)


def _find_state(content: object, path: Path, prefer: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], dict]:
    """Unwrap a torch file's content; everything beside the state dict that is no tensor becomes metadata."""
    if isinstance(content, dict):
        if {"model", "optimizer", "progress"} <= content.keys():
            raise UserError(
                f"{path} is for going on with its training (--resume true), and says nothing of its network: "
                "give best.safetensors, which is beside it"
            )
        for name in (*prefer, *_WRAPPERS):
            if isinstance(content.get(name), dict):
                rest = {key: value for key, value in content.items() if isinstance(value, int | float | str)}
                return _find_state(content[name], path)[0], rest
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors, {}
    raise UserError(
        f"{path} holds no state dict: expected tensors by name, perhaps under one of {', '.join(_WRAPPERS)}"
    )


@dataclass
class LoadReport:
    """What `load_weights` found: names of each kind."""

    path: Path
    matched: list[str]
    missing: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.path}: {many(len(self.matched), 'tensor')} matched"
        for word, keys in (("dropped on request", self.dropped), ("not wanted by the model", self.unused)):
            text += f", {len(keys)} {word} ({_some(keys)})" if keys else ""
        return text


def _some(keys: list[str], most: int = 6) -> str:
    return ", ".join(keys[:most]) + (f", ... {len(keys) - most} more" if len(keys) > most else "")


def _align(state: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Undo the prefix that tells a whole model from a bare backbone (`backbone.`, and `network.` of wrapped ones)."""
    wanted = set(wanted)
    best = state
    for strip, add in (("backbone.", ""), ("", "backbone."), ("", "network."), ("", "backbone.network.")):
        moved = {add + key.removeprefix(strip) if key.startswith(strip) else key: value for key, value in state.items()}
        if len(wanted & moved.keys()) > len(wanted & best.keys()):
            best = moved
    return best


def _surplus(unused: list[str], own: Iterable[str]) -> list[str]:
    """Return the unused keys that belong to a part which the model has: its own weights would miss a layer of theirs.

    What the model lacks altogether (a classifier, say) is no surplus.
    """

    def part(key: str) -> str:
        return re.sub(r"^(backbone\.)?(network\.)?", "", key).split(".")[0]

    parts = {part(key) for key in own}
    return [key for key in unused if part(key) in parts and not key.endswith(OPTIONAL)]


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    drop: tuple[str, ...] = (),
    allow_missing: tuple[str, ...] = (),
    keep_classes: Iterable[int] | None = None,
    say: Callable[[str], None] = print,
) -> LoadReport:
    """Load a weights file into a model and say what matched.

    path: see `read_checkpoint`. Layouts: ours, the official DeepBDC one, a bare backbone into a model and the reverse.
    drop: key prefixes of the file to leave out, for instance ("classifier.",).
    allow_missing: key prefixes that the model may want and the file lack.
    keep_classes: rows of `classifier.*` to keep, in order. The official CUB files have 200 outputs of which the even
        ones were trained.
    say: receives the report line.
    Raises UserError, naming the keys, unless every wanted key is in the file with the right shape and the file has no
    further weights for a part of the model; the model is changed only when all is well.
    """
    state, _ = read_checkpoint(path)
    report = load_state(model, state, path, drop=drop, allow_missing=allow_missing, keep_classes=keep_classes)
    say(str(report))
    return report


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    path: str | Path = "state dict",
    *,
    drop: tuple[str, ...] = (),
    allow_missing: tuple[str, ...] = (),
    keep_classes: Iterable[int] | None = None,
) -> LoadReport:
    """Load a state dict as `load_weights` does; `path` only names it in messages."""
    own = model.state_dict()
    state = from_official(state)
    report = LoadReport(Path(path), [], dropped=sorted(key for key in state if key.startswith(drop)) if drop else [])
    state = _align({key: value for key, value in state.items() if key not in set(report.dropped)}, own)
    if keep_classes is not None:
        rows = torch.as_tensor(list(keep_classes))
        state = {key: value[rows] if key.startswith("classifier.") else value for key, value in state.items()}
    for key, value in own.items():
        if key not in state:
            if not key.endswith(OPTIONAL) and not (allow_missing and key.startswith(allow_missing)):
                report.missing.append(key)
        elif state[key].shape != value.shape:
            report.misshaped.append(f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}")
        else:
            report.matched.append(key)
    report.unused = sorted(set(state) - set(own))
    surplus = _surplus(report.unused, own)
    if report.missing or report.misshaped or surplus or not report.matched:
        problems = []
        if report.missing:
            problems.append(f"{many(len(report.missing), 'key is', 'keys are')} missing ({_some(report.missing)})")
        if report.misshaped:
            problems.append(f"{many(len(report.misshaped), 'has', 'have')} another shape ({_some(report.misshaped)})")
        if report.unused:
            fitless = surplus or report.unused
            problems.append(f"{many(len(fitless), 'in the file fits', 'in the file fit')} nowhere ({_some(fitless)})")
        raise UserError(
            f"{path} is a checkpoint of another architecture: {'; '.join(problems) or 'no key matches'}. "
            "Build the model that it was saved from, or name prefixes to drop."
        )
    trained = {name for name, _ in model.named_parameters()}
    broken = [key for key in report.matched if key in trained and not state[key].isfinite().all()]
    if broken:
        raise UserError(
            f"{path} has weights that are no numbers ({_some(broken)}): its training has failed; take an earlier file"
        )
    model.load_state_dict({key: state[key] for key in report.matched}, strict=False)
    return report


def write_atomically(path: str | Path, write: Callable[[str], None]) -> None:
    """Call `write(temporary path)`, then move the result to `path`: readers see the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, object] | None = None) -> None:
    """Write the model's state dict as safetensors, atomically, with a JSON card of `metadata` in its header."""
    save_tensors(model.state_dict(), path, metadata)


def save_tensors(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, object] | None = None) -> None:
    """Write tensors as safetensors, atomically, with a JSON card of `metadata` in the header."""
    state = {key: value.detach().contiguous().cpu() for key, value in state.items()}
    card = json.dumps({"format": FORMAT, **(metadata or {})})
    write_atomically(path, lambda name: safetensors.torch.save_file(state, name, metadata={"covey": card}))
