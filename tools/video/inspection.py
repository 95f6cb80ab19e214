"""What a video checkpoint holds and whether it fits: layout, stage, network, tensors, cards. Nothing in it is run."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones import UserError
from backbones.checkpoint import read_checkpoint
from backbones.video_layouts import (
    LAYOUTS,
    SourceState,
    config_disagreements,
    detect_layout,
    misplaced_blocks,
    split_state,
    vit_keys,
)
from backbones.video_sizes import guess, sizes
from backbones.video_vit import VideoViT
from backbones.video_zoo import VIDEO_VITS, create_video_backbone
from backbones.wording import many
from tools.video.peek import layout_of, peek

STAGES = {
    "video_ssl": "masked pre-training",
    "video_supervised": "supervised source training",
    "video_tune": "tuned on episodes of a target",
}
SHOWN = 4  # names of tensors in a line


@dataclass
class Fit:
    """How the tensors of a file meet those of a network. unused: the file's own names of what belongs to no network."""

    backbone: str
    matched: list[str]
    missing: list[str]
    misshaped: list[str]
    unused: list[str]


@dataclass
class Inspection:
    """What was found in a file.

    kind: whose file it is and of what stage. backbone: name of the network, None for other sizes. network: sizes that
        the tensors tell. heads: of that backbone, since they leave no trace in tensors. parts: what else is there.
    card: what the file says of itself. problems: what would stop a run.
    """

    path: str
    kind: str
    layout: str | None
    stage: str | None
    backbone: str | None = None
    network: dict[str, Any] = field(default_factory=dict)
    heads: int | None = None
    parts: list[str] = field(default_factory=list)
    tensors: int = 0
    numbers: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    fit: Fit | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def inspect(path: Path, backbone: str | None = None, source: str | None = None) -> Inspection:
    """Look into a checkpoint.

    backbone: network to compare with; None takes the one that the card or the sizes name. source: weights of the
        network that an adapter file belongs to; None looks where its card says.
    Raises UserError, in one sentence, for what is no checkpoint of videos.
    """
    file, shapes, card = peek(path)
    layout, ours = _layout(path, shapes, card), card.get("domain") == "video"
    state = {re.sub(r"^(module\.)+", "", key): value for key, value in read_checkpoint(file)[0].items()}
    stage = card.get("stage") or (_stage(state, layout) if layout else None)
    found = Inspection(str(path), "", layout, stage, tensors=len(state), card=card)
    found.numbers = sum(value.numel() for value in state.values())
    found.dtypes = dict(Counter(str(value.dtype).removeprefix("torch.") for value in state.values()))
    sick = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    _problem(found, sick, "tensor holds numbers that are", "tensors hold numbers that are", "not finite")
    found.kind = LAYOUTS[layout] if layout and not ours else "covey"
    if ours or not found.kind.startswith(("VideoMAE", "TAMT")):
        found.kind += f"; {STAGES.get(stage, stage) or 'no card that says of what'}"
    if layout is not None:
        parts = split_state(state)
        found.network = sizes(parts.vit)
        found.backbone = card.get("backbone") or guess(found.network)
        options = dict(card.get("backbone_options", {})) if ours and backbone in (None, found.backbone) else {}
        found.fit = compare(parts, backbone or found.backbone, found.network, options)
        if found.backbone in VIDEO_VITS:
            found.heads = {**VIDEO_VITS[found.backbone], **options}["heads"]
        _judge(found, parts)
        found.notes += _config_notes(path, found)
    found.parts = _parts(state, layout)
    if stage == "video_tune" and not found.problems:
        _read(found, path, source)
    return found


def _layout(path: Path, shapes: dict[str, tuple[int, ...]], card: dict[str, Any]) -> str | None:
    """Return the layout, None for files of ours without a transformer in them; refuse everything else."""
    if card.get("domain") == "video":
        return layout_of(shapes)
    if "backbone" in card:
        raise UserError(
            f"{path} is a checkpoint of pictures ({card.get('method', 'no method')} on {card['backbone']}), not of "
            f"videos: frames:{card['backbone']} as a backbone uses it on every frame of a clip"
        )
    layout = layout_of(shapes)
    if layout is not None:
        return layout
    if any("patch_embed" in key and len(shape) == 4 for key, shape in shapes.items()):
        raise UserError(f"{path} is a transformer of pictures (its patch embedding has no time), not of videos")
    if any(len(shape) == 4 for shape in shapes.values()):
        raise UserError(f"{path} holds a network of pictures (tensors {some(list(shapes))}), not one of videos")
    detect_layout(shapes)  # raises with the layouts that are known
    raise UserError(f"{path} holds blocks of a video transformer without its patch embedding: it was saved in part")


def compare(
    parts: SourceState, backbone: str | None, network: dict[str, Any], options: dict[str, Any] | None = None
) -> Fit:
    """Compare a file's transformer with a backbone; None: with one of the file's own sizes. No memory is taken.

    options: of the backbone, where the file's card has some.
    """
    own = ("dim", "depth", "tubelet_size", "patch_size", "mlp_ratio")
    with torch.device("meta"):
        if backbone is None:
            sized = {key: network[key] for key in own if key in network}
            vit = VideoViT(**sized, heads=1, qkv_bias=network["qkv_bias"])
        else:
            scale = {"layer_scale": 1.0} if network["layer_scale"] else {}
            vit = create_video_backbone(backbone, **{**scale, **(options or {})})
    if not isinstance(vit, VideoViT):
        raise UserError(f"{backbone} is no video transformer, so a checkpoint of one cannot be compared with it")
    own = {key: value.shape for key, value in vit.state_dict().items()}
    theirs = {key: value.shape for key, value in parts.vit.items()}
    misshaped = [f"{k} {tuple(theirs[k])} not {tuple(own[k])}" for k in own if k in theirs and theirs[k] != own[k]]
    unused = [key for key in theirs if key not in own] + sorted(parts.rest)
    matched = [key for key in own if theirs.get(key) == own[key]]
    return Fit(
        backbone or "a network of its own sizes", matched, [k for k in own if k not in theirs], misshaped, unused
    )


def _judge(found: Inspection, parts: SourceState) -> None:
    """Add what would stop a run to the problems."""
    fit, deep = found.fit, found.network["depth"]
    known = set(vit_keys(deep, layer_scale=True))
    beyond = [key for key in fit.unused if key in known and key in parts.vit]
    _problem(found, fit.missing, "tensor is", "tensors are", f"missing that {fit.backbone} needs")
    _problem(found, fit.misshaped, "has", "have", f"another shape than in {fit.backbone}")
    _problem(found, beyond, "has", "have", f"no place in {fit.backbone}")
    _problem(found, misplaced_blocks(parts), "tensor inside blocks belongs", "tensors inside blocks belong",
             "to no known network")  # fmt: skip
    if found.layout.startswith("transformers") and not found.network["qkv_bias"]:
        found.notes.append("there are no biases of queries and values: early releases of transformers 5 dropped them")


def _problem(found: Inspection, names: list[str], one: str, more: str, what: str) -> None:
    if names:
        found.problems.append(f"{many(len(names), one, more)} {what} ({some(names)})")


def _config_notes(path: Path, found: Inspection) -> list[str]:
    """Compare a config.json beside the file; head counts leave no trace in tensors."""
    if found.backbone is None or found.backbone not in VIDEO_VITS:
        return []
    with torch.device("meta"):
        return config_disagreements(path, create_video_backbone(found.backbone))


def _stage(state: dict[str, Tensor], layout: str) -> str:
    if layout == "tamt":
        return "video_tune"
    if any(key.startswith(("decoder", "mask_token", "encoder_to_decoder")) for key in state):
        return "video_ssl"
    if any(re.match(r"(head|classifier)\.weight$", key) for key in state):
        return "video_supervised"
    return "video_ssl" if layout == "videomae_pretrained" else "the network alone"


def _parts(state: dict[str, Tensor], layout: str | None) -> list[str]:
    """Say what a file holds besides the transformer."""
    parts = []
    linear = next((v for k, v in state.items() if re.fullmatch(r"(head|classifier)\.weight", k)), None)
    if linear is not None:
        parts.append(f"a classifier of {linear.shape[0]} classes")
    if decoder := {int(n) for key in state for n in re.findall(r"^decoder\.\S*?(?:blocks|layers)\.(\d+)\.", key)}:
        parts.append(f"a decoder of {max(decoder) + 1} blocks")
    if any("fc_norm.weight" in key for key in state):
        parts.append("a norm behind the average of the tokens")
    adapted = {int(n) for key in state for n in re.findall(r"(?:blocks\.(?=\d+\.tam\.)|adapters\.)(\d+)\.", key)}
    if adapted:
        parts.append(f"TAMT's adapters of blocks {', '.join(map(str, sorted(adapted)))}")
    branch = next((value for key, value in state.items() if key.endswith(".tam.G.0.weight")), None)
    if branch is not None:
        parts.append(f"made for {branch.shape[1]} steps in time")
    if layout == "tamt" and "head2.weight" in state:
        groups = state["layer_reduce3.weight"].shape[1] if "layer_reduce3.weight" in state else "?"
        parts.append(f"TAMT's moment head of {groups} groups and {state['head2.weight'].shape[0]} outputs")
    return parts


def _read(found: Inspection, path: Path, source: str | None) -> None:
    """Read a tuned file as every script does, and report what that says: adapters need the network around them."""
    from tools.video.models import read_video_model
    from tools.video_groups import VideoModel

    if found.card.get("domain") != "video" and found.backbone is None:
        found.notes.append("the network is of no known size: name backbone_options to use the file")
        return
    try:
        model = VideoModel(backbone=found.backbone) if found.backbone else None
        read_video_model(path, model, say=found.notes.append, source=source)
    except UserError as error:
        found.problems.append(str(error).removeprefix(f"{path} "))


def some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", ... {len(names) - SHOWN} more" if len(names) > SHOWN else "")
