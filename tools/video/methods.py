"""Methods that score episodes of videos: those of videos alone, and those of images on a clip's averages or tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from backbones import UserError
from backbones.encoder import Encoder
from backbones.errors import nearest
from fewshot.meta_deepbdc import MetaDeepBDC
from fewshot.methods import METHODS, Method
from video.methods import VIDEO_METHODS
from video.pools import FrameMeans, TokenBDC, TokenMap, TokenMean

# Pool of a method -> what stands between backbone and head: (channels, (t, h, w), **options) -> module.
POOLS: dict[str, Callable[..., nn.Module]] = {
    "gap": lambda dim, grid, **options: TokenMean(dim, **options),
    "bdc": lambda dim, grid, **options: TokenBDC(dim, map_size=(grid[0] * grid[1], grid[2]), **options),
    "map": lambda dim, grid, **options: TokenMap(dim, **options),
    "frames": lambda dim, grid, **options: FrameMeans(dim, **options),
}


def tamt_head(k_shot: int, similarity: str = "squared") -> nn.Module:
    """TAMT's rule: minus the squared distance to class means, at every shot (paper).

    similarity: "auto" is the released code's rule, inner products in episodes of one shot; "inner" takes them always.
    """
    return MetaDeepBDC(k_shot, similarity)


def _plain(head: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda k_shot, **options: head(**options)


def list_video_methods() -> list[str]:
    """Return the names that `find_video_method` knows."""
    return [*VIDEO_METHODS, *(name for name, method in METHODS.items() if not method.adapts)]


def find_video_method(name: str) -> Method:
    """Look a method up; raises UserError with the nearest name, and for methods that adapt the whole network."""
    if name in VIDEO_METHODS:
        own = VIDEO_METHODS[name]
        head = tamt_head if own.head is None else _plain(own.head)
        return Method(own.title, own.pool, head, True, head, sized=own.sized)
    if name not in METHODS:
        raise UserError(f"method '{name}' is unknown{nearest(name, list_video_methods())}")
    if METHODS[name].adapts:
        raise UserError(
            f"method '{name}' adapts the whole network to every episode, which there is for pictures alone: "
            "name another one, such as tamt, anil or protonet"
        )
    return METHODS[name]


def create_video_head(name: str, k_shot: int, channels: int | None = None, **options: Any) -> nn.Module:
    """Build the episode head of a method for `k_shot` supports per class; options as in the head's class.

    channels: length of a feature or of its rows, for heads that have weights of this size.
    """
    return find_video_method(name).create_head(name, k_shot, channels, **options)


def create_pooled(pool: str, backbone: nn.Module, grid: tuple[int, int, int], options: dict[str, Any]) -> Encoder:
    """Put a pool of `POOLS` behind a video backbone. grid: (t, h, w) of its maps. Raises UserError for odd options."""
    try:
        return Encoder(backbone, POOLS[pool](backbone.out_channels, grid, **options))
    except (TypeError, ValueError) as error:
        raise UserError(f"what pools the clips ('{pool}') does not take these options: {error}") from error
