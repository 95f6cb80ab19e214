"""A first look into a checkpoint: its tensors' shapes, its card, and whether it is of videos. No weights are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors

from backbones import UserError
from backbones.checkpoint import read_checkpoint
from backbones.video_layouts import detect_layout


def peek(path: Path) -> tuple[Path, dict[str, tuple[int, ...]], dict[str, Any]]:
    """Return the file itself, its tensors' shapes and its card, empty without one. A folder stands for the file in it.

    Raises UserError for what is no readable checkpoint.
    """
    if path.is_dir():
        path = next((path / n for n in ("model.safetensors", "pytorch_model.bin") if (path / n).is_file()), path)
    if path.suffix == ".safetensors" and path.is_file():
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
                return path, shapes, json.loads((file.metadata() or {}).get("covey", "{}"))
        except (safetensors.SafetensorError, OSError, ValueError):
            pass  # the reader below has the sentence for it
    state, card = read_checkpoint(path)
    return path, {key: tuple(value.shape) for key, value in state.items()}, card


def layout_of(shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Return the layout of a video transformer's tensors, None for anything else (transformers of pictures too)."""
    if not any("patch_embed" in key and len(shape) == 5 for key, shape in shapes.items()):
        return None
    try:
        return detect_layout([key.removeprefix("module.") for key in shapes])
    except UserError:
        return None


def is_video_file(path: str | Path) -> bool:
    """Whether a checkpoint is of videos: by its card, or by the names of its tensors where it has none."""
    _, shapes, card = peek(Path(path))
    return card.get("domain") == "video" if "backbone" in card else layout_of(shapes) is not None
