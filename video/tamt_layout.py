"""Tuned models in the layout of the released TAMT code: which tensor stands where, reading and writing.

That layout also has tensors which take no part in anything: two groups in every block and a branch of the adapters.
They are not built here; they are read, can be kept, and are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backbones import UserError
from backbones.checkpoint import LoadReport, read_checkpoint, write_atomically
from backbones.video_layouts import LAYOUTS, detect_layout, foreign_key, split_state, vit_keys
from backbones.video_sizes import other_sizes
from backbones.wording import many
from video.tamt import TamtModel

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Slot:
    """One tensor of a tuned model file.

    key: its name there. shape: its shape. own: its name in `TamtModel`, None when nothing uses it.
    parameter: False for batch norm statistics. trained: whether the released code gives it to the optimiser.
    """

    key: str
    shape: tuple[int, ...]
    own: str | None
    parameter: bool = True
    trained: bool = True


def reference_slots(model: TamtModel) -> list[Slot]:
    """List the tensors of the released layout of a model, in the order of the released modules.

    Raises UserError for a model with options that the released code does not have.
    """
    vit, own = model.backbone.vit, model.state_dict()
    _check_variant(model)
    dim, frames = vit.out_channels, model.pool.frames
    block_keys = vit_keys(vit.depth, vit.depth == 0 or vit.blocks[0].attn.q_bias is not None)
    slots: list[Slot] = []

    def used(key: str, name: str, trained: bool = True) -> None:
        parameter = not key.endswith(_NORM[2:])
        slots.append(Slot(key, tuple(own[name].shape), name, parameter, trained and parameter))

    def norm(key: str, name: str | None, size: int, trained: bool = True) -> None:
        for leaf in _NORM:
            shape, parameter = (() if leaf == _NORM[-1] else (size,)), leaf in _NORM[:2]
            slots.append(Slot(f"{key}.{leaf}", shape, name and f"{name}.{leaf}", parameter, parameter and trained))

    for key in block_keys:
        used(foreign_key(key, "tamt"), f"backbone.vit.{key}", trained=False)
        place = f"feature.{key.rpartition('.mlp.')[0] or key.rpartition('.norm2.')[0]}"
        if key.endswith(".norm2.bias"):
            slots += [Slot(f"{place}.norm3.{leaf}", (dim,), None, trained=False) for leaf in ("weight", "bias")]
        if key.endswith(".mlp.fc2.bias"):
            slots.append(Slot(f"{place}.temporal_conv.weight", (dim, 1, 3), None, trained=False))
            slots.append(Slot(f"{place}.temporal_conv.bias", (dim,), None, trained=False))
            number = place.rpartition(".")[2]
            if number in model.backbone.adapters:
                _adapter_slots(f"{place}.tam", f"backbone.adapters.{number}", frames, slots, used, norm)
    for part in ("fc_norm", "fc_norm2", "temporal_conv"):
        for leaf in ("weight", "bias"):
            used(f"feature.{part}.{leaf}", f"backbone.mix.{part}.{leaf}")
    used("head2.weight", "pool.project.weight")
    used("head2.bias", "pool.project.bias")
    for n, (part, m) in enumerate((p, m) for p in ("reduce", "aggregate") for m in (1, 2)):
        used(f"layer_reduce{n + 1}.weight", f"pool.{part}{m}.weight")
        norm(f"layer_reduce_bn{n + 1}", f"pool.{part}_norm{m}", own[f"pool.{part}_norm{m}.weight"].shape[0])
    return slots


def _adapter_slots(key: str, name: str, frames: int, slots: list[Slot], used: Callable, norm: Callable) -> None:
    """Add an adapter's tensors: the branch G, which requires a gradient and never gets one, then what is used."""
    slots.append(Slot(f"{key}.G.0.weight", (2 * frames, frames), None))
    norm(f"{key}.G.1", None, 2 * frames)
    slots.append(Slot(f"{key}.G.3.weight", (3, 2 * frames), None))
    used(f"{key}.L.0.weight", f"{name}.down.weight")
    for leaf in _NORM:
        used(f"{key}.L.1.{leaf}", f"{name}.norm.{leaf}")
    used(f"{key}.L2.0.weight", f"{name}.scale.weight")
    used(f"{key}.L3.0.weight", f"{name}.shift.weight")


def _check_variant(model: TamtModel) -> None:
    """Refuse what the released layout can't say."""
    pool, mix = model.pool, model.backbone.mix
    plain = all(adapter.scale.kernel_size == (1,) for adapter in model.backbone.adapters.values())
    normed = all(hasattr(adapter.norm, "running_mean") for adapter in model.backbone.adapters.values())
    whole = pool.second_moment == "elstc" and mix.temporal_conv is not None and hasattr(mix.fc_norm, "weight")
    if not (plain and normed and whole) or any(block.gamma_1 is not None for block in model.backbone.vit.blocks):
        raise UserError(
            "this model has options that the released TAMT layout can't hold: build it with variant='reference'"
        )


def to_reference(model: TamtModel, unused: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the model's tensors by their released names, unused ones included.

    unused: values of those, as `load_tuned` returned them; absent ones get norms of 1 and 0, and zeros.
    """
    own, unused = model.state_dict(), unused or {}
    return {
        slot.key: own[slot.own] if slot.own else unused.get(slot.key, _neutral(slot)) for slot in reference_slots(model)
    }


def _neutral(slot: Slot) -> Tensor:
    if slot.key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    one = slot.key.endswith((".running_var", ".weight")) and len(slot.shape) == 1
    return torch.ones(slot.shape) if one else torch.zeros(slot.shape)


def save_tuned(model: TamtModel, path: str | Path, epoch: int = 0, unused: Mapping[str, Tensor] | None = None) -> None:
    """Write a tuned model as the released code does: a torch file with `epoch` and `state`, atomically."""
    content = {"epoch": epoch, "state": {k: v.detach().cpu().clone() for k, v in to_reference(model, unused).items()}}
    write_atomically(path, lambda name: torch.save(content, name))


def load_tuned(
    model: TamtModel, path: str | Path, say: Callable[[str], None] = print
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Load a tuned model of the released code; returns the report and the tensors that nothing uses.

    Raises UserError when the file is a source checkpoint, or a tensor is missing, unknown or of another shape.
    """
    state, _ = read_checkpoint(path)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    report, unused = load_reference(model, state, path)
    say(f"{report}; layout: {LAYOUTS['tamt']}; {many(len(unused), 'tensor')} that nothing uses")
    return report, unused


def load_reference(
    model: TamtModel, state: Mapping[str, Tensor], path: str | Path = "state dict"
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Load tensors by their released names, as `load_tuned` does; `path` only names them in messages."""
    layout = detect_layout(state)
    if layout != "tamt":
        raise UserError(
            f"{path} is a source checkpoint ({LAYOUTS[layout]}) and no tuned model: load it with load_source, then tune"
        )
    if text := other_sizes(split_state(state).vit, model.backbone.vit):
        raise UserError(f"{path} {text}")
    slots = {slot.key: slot for slot in reference_slots(model)}
    optional = ("num_batches_tracked",)
    missing = [key for key, slot in slots.items() if slot.own and key not in state and not key.endswith(optional)]
    unknown = sorted(key for key in state if key not in slots)
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {slot.shape}"
        for key, slot in slots.items()
        if key in state and tuple(state[key].shape) != slot.shape
    ]
    problems = [
        f"{many(len(keys), *what)} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})"
        for keys, what in (
            (missing, ("key is missing", "keys are missing")),
            (shapes, ("has another shape", "have another shape")),
            (unknown, ("fits nowhere", "fit nowhere")),
        )
        if keys
    ]
    if problems:
        raise UserError(
            f"{path} is a tuned model of another architecture: {'; '.join(problems)}; build the model with its width, "
            "adapted blocks, frames and groups"
        )
    taken = {slot.own: state[key] for key, slot in slots.items() if slot.own and key in state}
    model.load_state_dict(taken, strict=False)
    report = LoadReport(Path(path), sorted(key for key, slot in slots.items() if slot.own and key in state))
    return report, {key: state[key] for key, slot in slots.items() if not slot.own and key in state}


def keymap(model: TamtModel) -> dict[str, dict]:
    """Return {tensor of a tuned model: its shape, and where it comes from in every source layout}.

    None: it starts fresh; a list: parts that are stacked. Tensors of the head have a shape alone.
    """
    result = {}
    for slot in reference_slots(model):
        entry: dict[str, object] = {"shape": list(slot.shape)}
        if slot.key.startswith("feature."):
            name = (slot.own or "").removeprefix("backbone.vit.").removeprefix("backbone.mix.")
            source = slot.own is not None and (slot.own.startswith("backbone.vit.") or name.startswith("fc_norm."))
            for layout in ("videomae_finetuned", "videomae_pretrained", "transformers"):
                entry[layout] = foreign_key(name, layout) if source else None
            newer = foreign_key(name, "transformers_v5") if source else None
            if newer != entry["transformers"]:
                entry["transformers_v5"] = newer
        result[slot.key] = entry
    return result
