"""The sizes of a video transformer, as the shapes of its tensors tell them; heads leave no trace there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from backbones.video_vit import VideoViT
from backbones.video_zoo import VIDEO_VITS

# Sizes that a state dict tells, as `VideoViT` names them -> how people say them.
_WORDS = {
    "dim": "width {}",
    "depth": "{} blocks",
    "patch_size": "patches of {0} x {0} pixels",
    "tubelet_size": "tubelets of {} frames",
    "mlp_ratio": "an MLP {:g} times as wide",
}


def sizes(vit: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the tensors of a `VideoViT` tell of it: dim, depth, tubelet_size, patch_size, mlp_ratio, ...

    vit: by the names of `VideoViT`. Sizes whose tensors are absent are left out.
    """
    embed, hidden = vit.get("patch_embed.proj.weight"), vit.get("blocks.0.mlp.fc1.weight")
    numbers = {int(found[1]) for key in vit if (found := re.match(r"blocks\.(\d+)\.", key))}
    result: dict[str, Any] = {"depth": max(numbers, default=-1) + 1}
    if embed is not None:
        result |= {"dim": embed.shape[0], "tubelet_size": embed.shape[2], "patch_size": embed.shape[3]}
    if hidden is not None:
        result["mlp_ratio"] = round(hidden.shape[0] / hidden.shape[1], 4)
    result["qkv_bias"] = "blocks.0.attn.q_bias" in vit
    result["layer_scale"] = "blocks.0.gamma_1" in vit
    return result


def guess(network: Mapping[str, Any]) -> str | None:
    """Return the name of the backbone of these sizes, None where there is none of them."""
    for name, known in VIDEO_VITS.items():
        wanted = {"patch_size": 16, "tubelet_size": 2, **known}
        if all(network.get(key) == wanted[key] for key in ("dim", "depth", "patch_size", "tubelet_size")):
            return name
    return None


def options_of(network: Mapping[str, Any]) -> str:
    """Write sizes as options, the usual patches, tubelets and MLPs left out: '{dim: 48, depth: 4}'."""
    usual = {"dim": None, "depth": None, "patch_size": 16, "tubelet_size": 2, "mlp_ratio": 4.0}
    own = {key: network[key] for key, value in usual.items() if key in network and network[key] != value}
    return f"{{{', '.join(f'{key}: {value}' for key, value in own.items())}}}"


def other_sizes(state: Mapping[str, Tensor], vit: VideoViT, flag: str = "--model.backbone") -> str:
    """Say what sizes a state dict tells where a network has others, and how to name them; empty where they agree.

    state: by the names of `VideoViT`. flag: that names a backbone on the command line; `FLAG_options` are its options.
    """
    theirs, own = sizes(state), sizes(vit.state_dict())
    other = [key for key in _WORDS if key in theirs and key in own and theirs[key] != own[key]]
    if not other:
        return ""

    def said(network: Mapping[str, Any], keys: list[str]) -> str:
        words = {**_WORDS, "depth": "{} block" if network["depth"] == 1 else "{} blocks"}
        return ", ".join(words[key].format(network[key]) for key in keys)

    name = guess(theirs)
    mend = (
        f"{flag} {name}" if name else f"{flag}_options '{options_of(theirs)}' and its heads, which tensors don't tell"
    )
    shown = [key for key in _WORDS if key in other or (key in ("dim", "depth", "patch_size") and key in theirs)]
    return f"holds a transformer of {said(theirs, shown)}, and the network has {said(own, other)}: give {mend}"
