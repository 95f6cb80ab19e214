"""What tuning stores of the frozen part: which videos may be stored, whether there is room, and their stand-ins."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from backbones import UserError
from backbones.encoder import Encoder
from backbones.wording import file_size, many
from episodes.features import bytes_to_write
from episodes.processes import from_main, team_of, together
from episodes.sources.cache import cache_folder
from fewshot.encoder import EpisodeModel
from tools.video_config import VideoTune
from video.clips import Clips
from video.stored import StoredClips, row_bytes, stem_key, stem_of, store_clips
from video.tamt import TamtModel

Validator = Callable[[nn.Module], dict[str, float]]


def check_cache(config: VideoTune, tune: str, train: Clips) -> None:
    """Refuse to store where nothing is frozen, and clips that are others at every look."""
    if config.cache not in ("disk", "memory"):
        return
    if tune == "all":
        raise UserError(f"--cache {config.cache} keeps what the frozen part says, and --tune all freezes nothing")
    if train.view.random:
        raise UserError(
            f"--cache {config.cache} needs clips that are the same at every look, and data.augment is "
            f"{config.data.augment}: --data.augment none, or --cache none"
        )


def may_be_stored(config: VideoTune, tune: str, sets: dict[str, Clips | None]) -> dict[str, Clips]:
    """Return the sets of clips, by name, whose stems are to be stored: none, those of validation alone, or all."""
    if config.cache == "none" or tune == "all":
        return {}
    return {name: clips for name, clips in sets.items() if clips is not None and not clips.view.random}


def store(
    config: VideoTune, encoder: TamtModel | Encoder, sets: dict[str, Clips], fabric, say: Callable[[str], None]
) -> dict[str, StoredClips]:
    """Run the frozen part over sets of clips and return their stand-ins; none where `auto` finds no room on the disk.

    All processes call it together: each runs its share.
    """
    if not sets:
        return {}
    encoder, team = encoder.to(fabric.device), team_of(fabric)
    encode, key = stem_of(encoder, fabric.autocast), stem_key(encoder, config.machine.precision)
    with together(team):
        size = row_bytes(encode, next(iter(sets.values())), config.feature_dtype, fabric.device)
        lacks = _lack_of_room(config, key, sets, size) if team.main and config.cache == "auto" else ""
    if lacks := from_main(team, lacks):
        say(f"{lacks}: clips are computed anew every time (--features names a folder on another disk)")
        return {}
    found, folder = {}, _folder(config)
    for name, clips in sets.items():
        started = time.perf_counter()
        cache = "memory" if config.cache == "memory" else "disk"
        asked: list[int] = []  # batches that were encoded: none where everything was on the disk
        found[name] = store_clips(
            _noting(encode, asked), clips, key, cache, folder, config.feature_dtype, show=team.main, say=say, team=team
        )
        where = f"{'stored' if asked else 'found'} in {'memory' if cache == 'memory' else folder}"
        took = f", {time.perf_counter() - started:.1f} s" if asked else ""
        videos = many(len(clips.dataset), f"{name} video")
        say(f"the frozen part of {videos} is {where}: {file_size(size * len(clips.dataset))}{took}")
    return found


def _noting(encode: Callable[[Tensor], Tensor], asked: list[int]) -> Callable[[Tensor], Tensor]:
    """Return the function that also notes how many clips it was asked about."""

    def noted(clips: Tensor) -> Tensor:
        asked.append(len(clips))
        return encode(clips)

    return noted


def on_stored(validate: Validator | None, after: EpisodeModel) -> Validator | None:
    """Return a validation that scores `after`, which shares the weights of the module that it is called with."""
    return None if validate is None else lambda module: validate(after)


def _folder(config: VideoTune) -> Path:
    return Path(config.features) if config.features else cache_folder() / "features"


def _lack_of_room(config: VideoTune, key: str, sets: dict[str, Clips], size: int) -> str:
    """Say that the disk has no room for what is to be stored; empty where it has."""
    folder = _folder(config).absolute()
    need = sum(bytes_to_write(size, clips, key, folder, config.feature_dtype) for clips in sets.values())
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    said = f"storing the frozen part takes {file_size(need)}, and {there} has {file_size(free)} left"
    return "" if need < free else said
