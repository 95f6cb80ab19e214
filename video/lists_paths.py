"""Where the videos of a list lie on this machine, and which of them belong together."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from episodes.errors import UserError

from .lists import VideoList


def place(found: VideoList, root: Path | None = None, strip: str | None = None, suffix: str = "") -> list[str]:
    """Return the paths of a list's videos.

    root: folder of the videos; default: names are relative to the folder of the list.
    strip: what to remove from the front of every name; by default, with a root, as many leading folders as it takes to
        find the first videos below it (lists often hold the paths of somebody's disk).
    suffix: added to names that have none, such as .webm.
    Raises UserError when a name does not start with `strip`.
    """
    names = [name if not suffix or Path(name).suffix else name + suffix for name in found.names]
    if strip is not None:
        wrong = next((name for name in names if not name.startswith(strip)), None)
        if wrong is not None:
            raise UserError(f"'{wrong}' of '{found.origin}' does not start with '{strip}', which is to be stripped")
        names = [name[len(strip) :] for name in names]
    base = root if root is not None else found.origin if found.origin.is_dir() else found.origin.parent
    if root is not None and strip is None:
        drop = _leading(names, base)
        names = ["/".join(name.split("/")[drop:]) for name in names] if drop else names
    elif strip is not None:
        names = [name.lstrip("/") for name in names]
    return [str(base / name) for name in names]


def _leading(names: Sequence[str], root: Path) -> int:
    """Return how many leading parts of the names to drop so that most of a few probes exist below `root`."""
    probes = [name.split("/") for name in names[:: max(1, len(names) // 5)][:5]]
    best, most = 0, -1
    for drop in range(max(len(parts) for parts in probes)):
        if drop == 0 and probes[0][0] == "":
            continue  # an absolute name would replace the root
        hits = sum(len(parts) > drop and os.path.exists(root.joinpath(*parts[drop:])) for parts in probes)
        if hits > most:
            best, most = drop, hits
    if most > 0:
        return best
    absolute = all(parts[0] == "" for parts in probes)
    return len(os.path.commonpath([os.path.dirname(n) for n in names]).split("/")) if absolute else 0


def absent(paths: Sequence[str]) -> list[int]:
    """Return the positions of paths that do not exist; each folder is listed once."""
    listed: dict[str, set[str]] = {}
    missing = []
    for position, path in enumerate(paths):
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listed[folder]:
            missing.append(position)
    return missing


def groups_of(found: VideoList, column: str) -> list[str]:
    """Return the group of every video: a column of the list, or `ucf`: what stands between _g and _c in its name.

    Clips of one group show one person or recording and must not be on both sides of a split.
    """
    if column in found.columns:
        return found.columns[column]
    if column == "ucf":
        groups = [re.search(r"_g(\d+)_c\d+", name) for name in found.names]
        if all(groups):
            return [group[1] for group in groups]
        wrong = found.names[groups.index(None)]
        raise UserError(f"'{wrong}' of '{found.origin}' is not named as in UCF-101 (v_Run_g01_c02), so it has no group")
    known = ", ".join([*found.columns, "ucf"])
    raise UserError(f"'{found.origin}' has no column '{column}' to group by: it has {known}")


def held_out(groups: Sequence[str], share: float = 0.25, seed: int = 0) -> np.ndarray:
    """Return which items (N,) bool are held out: whole groups in random order, until `share` of all items are.

    Raises UserError when there is only one group.
    """
    names, number, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise UserError(f"there is only one group, '{names[0]}': groups cannot be split")
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(names))
    taken = np.cumsum(sizes[order])
    count = 1 + int(np.argmin(np.abs(taken[:-1] - share * taken[-1])))
    return np.isin(number, order[:count])
