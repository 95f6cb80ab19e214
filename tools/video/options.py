"""Defaults of what options name, for comparing options that were given with those of a file."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from backbones.video_vit import VideoViT
from backbones.video_zoo import VIDEO_VITS
from backbones.zoo import BACKBONES


def defaults(build: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of what builds something, by name."""
    parameters = inspect.signature(build).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def network_defaults(backbone: str) -> dict[str, Any]:
    """Return the options that a video backbone has where none are given; empty for networks of libraries."""
    if backbone in VIDEO_VITS:
        return {**defaults(VideoViT), **VIDEO_VITS[backbone]}
    build = BACKBONES.get(backbone.partition(":")[2])
    if build is None:
        return {}
    made = typing.get_type_hints(build).get("return")
    return {**(defaults(made) if inspect.isclass(made) else {}), **defaults(build)}
