"""Trained backbones for whatever needs one: classification and few-shot weights tell what network they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from backbones.checkpoint import from_official, load_state, read_checkpoint
from backbones.errors import UserError
from backbones.zoo import create_backbone


def load_backbone(path: str | Path, name: str | None = None, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the backbone of a checkpoint with its weights; returns it, in eval mode, and the file's card.

    path: weights of covey: of tools.classify (any pooling), or of the few-shot scripts. Their card names the network,
        its strides included; pooling layers, heads and classifiers are left behind.
    name, options: of `create_backbone`, for files without a card, such as a library's.
    Raises UserError for files that do not fit, that name no network, and of videos.
    """
    state, card = read_checkpoint(path)
    if card.get("domain") == "video":
        raise UserError(f"{path} is a network of videos, which has no backbone of pictures")
    if name is None:
        if "backbone" not in card:
            raise UserError(f"{path} does not say what network it is of: name its backbone")
        name, options = card["backbone"], {**card.get("backbone_options", {}), **options}
    backbone = create_backbone(name, **options)
    own = from_official(state)
    inside = {key.removeprefix("backbone."): value for key, value in own.items() if key.startswith("backbone.")}
    load_state(backbone, inside or own, path, drop=() if inside else ("classifier.", "fc.", "head.", "pool."))
    return backbone.eval(), card
