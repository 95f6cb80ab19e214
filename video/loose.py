"""Videos without labels: the files of folders, however deep, folders of extracted frames, and single files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from episodes.errors import UserError
from episodes.sources.loose import UNLABELLED, files_below

from .clips import ClipSet
from .lists import VIDEO_SUFFIXES
from .readers import VideoOpener
from .readers_stills import STILL_SUFFIXES


def find_videos(places: Sequence[str | Path]) -> list[Path]:
    """Return the videos of the given folders and files, folders in depth, each once, sorted by folder.

    A folder that holds pictures is a video of these frames. Other files are left out with one warning that counts them.
    Raises UserError for a place that does not exist, a file that is no video by its name, and a folder without a video.
    """
    found: dict[Path, None] = {}
    others: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            inside = {file: _video(file) for file in files_below(place)}
            others += [file for file, video in inside.items() if video is None]
            videos = [video for video in inside.values() if video is not None]
            if not videos:
                raise UserError(f"'{place}' holds no video, nor do its sub-folders: give another folder, or files")
        elif not place.exists():
            raise UserError(f"'{place}' does not exist: give a folder of videos, or video files")
        elif place.suffix.lower() not in VIDEO_SUFFIXES:
            raise UserError(f"'{place}' is no video by its name: give .mp4 or .avi files, say, or a folder of them")
        else:
            videos = [place]
        found |= dict.fromkeys(videos)
    if others:
        warnings.warn(
            f"{len(others)} files beside the videos are no videos and are left out, the first is '{others[0]}'",
            stacklevel=2,
        )
    return list(found)


def _video(file: Path) -> Path | None:
    """Return the video that a file is, or belongs to."""
    suffix = file.suffix.lower()
    return file if suffix in VIDEO_SUFFIXES else file.parent if suffix in STILL_SUFFIXES else None


def loose_videos(paths: Sequence[str | Path], backend: str = "auto") -> ClipSet:
    """Return videos as a data set of one class; nothing is opened."""
    return ClipSet([str(path) for path in paths], np.zeros(len(paths), np.int64), [UNLABELLED], VideoOpener(backend))
