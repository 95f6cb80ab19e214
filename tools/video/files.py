"""The kinds of video checkpoints, told apart by their cards and the names of their tensors, and how each is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones import UserError
from backbones.checkpoint import load_state, read_checkpoint
from backbones.video_layouts import LAYOUTS, load_source
from backbones.video_vit import VideoViT
from backbones.video_zoo import FRAMEWISE, VIDEO_VITS
from backbones.wording import many
from tools.video.methods import find_video_method
from tools.video.models import (
    BACKBONE,
    Encoder,
    LoadedVideo,
    Say,
    VideoArchitecture,
    architecture_of,
    new_plan,
    random_parts,
    source_key,
)
from tools.video.options import defaults, network_defaults
from tools.video.peek import layout_of, peek
from tools.video_groups import VideoModel
from video.encoders import freeze_for
from video.pools import FrameMeans, TokenBDC, TokenMap, TokenMean
from video.tamt import TamtModel, create_tamt, load_trainable_state
from video.tamt_layout import load_tuned

# What builds the part between network and head, for the defaults of its options.
POOLING = {"tamt": create_tamt, "gap": TokenMean, "bdc": TokenBDC, "map": TokenMap, "frames": FrameMeans}
PARTS = ("backbone.", "pool.")  # of an encoder; everything else in a file of ours belongs to a head


@dataclass
class Clip:
    """What is asked of clips; None takes what a card says."""

    size: int | None = None
    frames: int | None = None
    sampling: str | None = None
    step: int | None = None

    def on(self, plan: VideoArchitecture) -> VideoArchitecture:
        """Put what is asked for into an architecture."""
        for name, value in vars(self).items():
            if value is not None:
                setattr(plan, name, value)
        return plan


def read_any(
    path: Path, model: VideoModel, clip: Clip, say: Say, untuned: str, source: str | None, freeze: bool
) -> LoadedVideo:
    """Do what `read_video_model` does for a file."""
    path, shapes, card = peek(path)
    method = model.method
    ours = card.get("domain") == "video"
    if ours:
        _check_asked(path, card, model)
    if "backbone" in card and not ours and not (model.backbone or "").startswith(f"{FRAMEWISE}:"):
        raise UserError(
            f"{path} is a checkpoint of pictures ({card['backbone']}): to use it on every frame of clips, name "
            f"--model.backbone {FRAMEWISE}:{card['backbone']}"
        )
    if ours and "source_key" in card and card.get("tune") != "all":
        return _read_adapters(path, card, clip, say, method, source, freeze)
    if source is not None:
        raise UserError(f"{path} is no adapter file, which has its network elsewhere: leave source out")
    if ours and "method" in card:
        return _read_tuned(path, card, clip, say, method, freeze)
    if not ours and layout_of(shapes) == "tamt":
        return _read_released(path, model, clip, say, method, freeze)
    return _read_source(path, shapes, card, model, clip, say, method or untuned, freeze)


def _check_asked(path: Path, card: dict[str, Any], model: VideoModel) -> None:
    """Refuse another network than the card's, and other options of a tuned file: nobody would see them left out."""
    asked, own = model.backbone, card["backbone"]
    if asked not in (None, own):
        raise UserError(f"{path} is of {own}, not of {asked}: leave the backbone out, or name another checkpoint")
    if "method" not in card:
        return
    pool = POOLING[architecture_of(card).pooling]
    network = {**network_defaults(own), "frames": card.get("frames")}
    for what, given, usual in (
        ("options", model.options, defaults(pool)),
        ("backbone_options", model.backbone_options, network),
    ):
        has = {**usual, **card.get(what, {})}
        for name, value in given.items():
            if has.get(name) != value:
                own_value = f"has {has[name]}" if name in has else "has none"
                raise UserError(
                    f"{path} was tuned with {what} of its own, and {name} is {value} here where it {own_value}: leave "
                    f"the {what} out, or tune the source weights anew"
                )


def _check_frames(path: Path, card: dict[str, Any], clip: Clip, encoder: Encoder) -> None:
    """Refuse clips of another number of frames than TAMT's moment head was tuned for."""
    fixed = isinstance(encoder, TamtModel) and encoder.pool.second_moment == "elstc"
    if fixed and clip.frames not in (None, card["frames"]):
        raise UserError(
            f"{path} was tuned on clips of {card['frames']} frames, and TAMT's moment head takes no others: leave out "
            f"frames, which is {clip.frames}"
        )


def _plan_of_tuned(card: dict[str, Any], clip: Clip, method: str | None, path: Path) -> VideoArchitecture:
    """Return the architecture of a tuned file for another method, where its representations can be used by it."""
    plan = clip.on(architecture_of(card))
    if method is None or method == plan.method:
        return plan
    own, asked = plan.pooling, find_video_method(method).pool
    if own == "tamt" and asked == "gap":
        plan.pool = "tamt"  # vectors are vectors
    elif own != asked and (own == "tamt" or asked in ("tamt", "bdc")):
        raise UserError(
            f"{path} was tuned for {plan.method}, whose representations {method} can't use: tune for {method}, or "
            "name a method on averages, such as protonet or good_embed"
        )
    elif own != asked:
        plan.options = {}
    plan.method = method
    return plan


def _own_state(path: Path) -> tuple[dict, dict]:
    """Return the tensors of an encoder and those of a head in a file of ours."""
    state, _ = read_checkpoint(path)
    encoder = {key: value for key, value in state.items() if key.startswith(PARTS)}
    return encoder, {key: value for key, value in state.items() if key not in encoder}


def _read_tuned(path: Path, card: dict, clip: Clip, say: Say, method: str | None, freeze: bool) -> LoadedVideo:
    plan = _plan_of_tuned(card, clip, method, path)
    encoder, (state, head) = plan.build(freeze), _own_state(path)
    _check_frames(path, card, clip, encoder)
    drop = () if plan.pooling == architecture_of(card).pooling else ("pool.",)
    report = load_state(encoder, state, path, drop=drop, allow_missing=drop)
    say(f"{report} [{card['stage']}, epoch {card.get('epoch')}]")
    return LoadedVideo(plan, encoder, card, head, seen=list(card.get("class_names") or []))


def _read_adapters(
    path: Path, card: dict, clip: Clip, say: Say, method: str | None, source: str | None, freeze: bool
) -> LoadedVideo:
    """Put the network that an adapter file belongs to under it."""
    plan = _plan_of_tuned(card, clip, method, path)
    encoder, (state, head) = plan.build(freeze), _own_state(path)
    _check_frames(path, card, clip, encoder)
    place = find_source(path, card, source)
    classes: list[str] = list(card.get("class_names") or [])
    if place is not None:
        _load_network(encoder, place, lambda text: None)
        classes += peek(Path(place))[2].get("class_names") or []
    if source_key(encoder) != card["source_key"]:
        what = place or f"the weights that {plan.backbone} brings"
        raise UserError(
            f"{path} was tuned around another network than {what}: give the weights that it belongs to with --source"
            + (f" ({card['source']} when it was tuned)" if card.get("source") else "")
        )
    freeze_for(encoder, "adapters")  # the file holds all that is not the network, whatever was trained of it
    if plan.pooling != architecture_of(card).pooling:
        state = {key: value for key, value in state.items() if not key.startswith("pool.")}
        encoder.pool.requires_grad_(False)
    load_trainable_state(encoder, state, str(path))
    if not freeze:
        encoder.requires_grad_(True)
    say(f"{path}: {many(len(state), 'tensor')} tuned around {place or plan.backbone} [epoch {card.get('epoch')}]")
    return LoadedVideo(plan, encoder, card, head, source=place, seen=list(dict.fromkeys(classes)))


def find_source(path: Path, card: dict, source: str | None) -> str | None:
    """Return where the network of an adapter file is; None where it brings its own (library weights).

    A relative path in the card is looked for from here, then beside the adapter file.
    """
    if source is not None:
        return source
    named = card.get("source")
    if not named:
        return None
    for place in (Path(named), path.parent / named, path.parent / Path(named).name):
        if place.exists():
            return str(place)
    raise UserError(
        f"{path} needs the network that it was tuned around, and {named} is not there: give its path with --source"
    )


def _read_released(
    path: Path, model: VideoModel, clip: Clip, say: Say, method: str | None, freeze: bool
) -> LoadedVideo:
    """Read a tuned file of the released TAMT code."""
    _known(path, model, "tamt")
    plan = clip.on(new_plan(model, "tamt"))
    if find_video_method(plan.method).pool not in ("tamt", "gap"):
        raise UserError(f"{path} is a tuned TAMT model, whose vectors {plan.method} can't use: name tamt or protonet")
    plan.pool, plan.options = "tamt", dict(model.options)
    encoder = plan.build(freeze)
    load_tuned(encoder, path, say)
    return LoadedVideo(plan, encoder, {}, {})


def _read_source(
    path: Path, shapes: dict, card: dict, model: VideoModel, clip: Clip, say: Say, method: str, freeze: bool
) -> LoadedVideo:
    """Read source weights into an encoder whose other parts start fresh."""
    if card.get("domain") == "video":
        plan = architecture_of(card)
        trained = {key: value for key, value in plan.backbone_options.items() if key not in ("final_norm", "drop_path")}
        plan.backbone_options = {**trained, **model.backbone_options}
        if clip.frames and plan.frames and clip.frames != plan.frames:
            say(f"note: {path} was trained on clips of {plan.frames} frames, these have {clip.frames}")
    else:
        if layout := layout_of(shapes):
            _known(path, model, layout)
        plan = new_plan(model)
    plan.method, plan.options = method, dict(model.options)
    encoder = clip.on(plan).build(freeze)
    _load_network(encoder, path, say)
    seen = list(card.get("class_names") or [])
    return LoadedVideo(plan, encoder, card, {}, source=str(path), seen=seen, fresh=random_parts(encoder))


def _known(path: Path, model: VideoModel, layout: str) -> None:
    """Refuse weights of a video transformer for which the options name no such network."""
    if model.backbone is not None and model.backbone not in VIDEO_VITS:
        raise UserError(
            f"{path} holds a video transformer ({LAYOUTS[layout]}) and not {model.backbone}: name its backbone, such "
            f"as --model.backbone {BACKBONE}"
        )


def _load_network(encoder: Encoder, path: str | Path, say: Say) -> None:
    """Load source weights into the network of an encoder, and its norm where both have one."""
    network = encoder.backbone.vit if isinstance(encoder, TamtModel) else encoder.backbone
    if isinstance(network, VideoViT):
        load_source(encoder, path, say=say)
        return
    file, _, card = peek(Path(path))
    state, _ = read_checkpoint(file)
    if card.get("domain") == "video":  # a classifier of clips: its network is an image network on every frame
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
        norms = {key: state[key] for key in ("fc_norm.weight", "fc_norm.bias") if key in state}
        if norms and getattr(encoder.pool, "fc_norm", None) is not None:
            encoder.pool.load_state_dict(norms)
    report = load_state(network.backbone, state, file, drop=("classifier.", "head.", "fc_norm.", "pool."))
    say(f"{report}; the network of every frame")
