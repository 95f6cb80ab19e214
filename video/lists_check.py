"""What is wrong with lists of videos: files that are missing or unreadable, wrong counts, odd labels, overlaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .clips_check import Depth, Report, check_videos
from .lists import VideoList
from .lists_paths import absent, place
from .readers import MEMBER, VideoOpener

SHOWN = 10  # names of one kind of problem


@dataclass
class ListReport:
    """What was found of one list.

    fewest: the smallest class and its size. frames: (least, median, most) of the readable videos.
    problems: kind -> names, each with what is wrong with it. notes: what may be meant so.
    """

    origin: str
    videos: int
    classes: int
    fewest: tuple[str, int]
    frames: tuple[int, int, int] | None = None
    problems: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return dict(vars(self))


def paths_of(found: VideoList, root: Path | None, strip: str | None, suffix: str) -> list[str]:
    """Return the names by which the videos of a list are opened."""
    if found.origin.suffix.lower() == ".zip":
        return [f"{found.origin}{MEMBER}{name}" for name in found.names]
    return place(found, root, strip, suffix)


def check_lists(
    lists: Sequence[VideoList],
    root: Path | None = None,
    strip: str | None = None,
    suffix: str = "",
    *,
    depth: Depth | None = "open",
    clip: int = 16,
    opener: VideoOpener | None = None,
    workers: int = 2,
    limit_s: float = 60.0,
    show: bool = True,
) -> list[ListReport]:
    """Check lists by themselves and against each other; a video that is in several of them is opened once.

    depth: open (count frames, decode the first one), all (decode every frame), or None: only look whether files exist.
    clip: frames of a clip; shorter videos are noted.
    """
    paths = [paths_of(found, root, strip, suffix) for found in lists]
    everything = list(dict.fromkeys(path for some in paths for path in some))
    packs = [path for path in everything if MEMBER in path]
    loose = [path for path in everything if MEMBER not in path]
    missing = {loose[i] for i in absent(loose)}
    there = [path for path in [*packs, *loose] if path not in missing]
    seen = check_videos(opener or VideoOpener(), there, workers, depth, limit_s, show) if depth else []
    reports = {report.name: report for report in seen}
    results = [_one(found, some, missing, reports, clip) for found, some in zip(lists, paths, strict=True)]
    _overlaps(lists, paths, results)
    return results


def _one(found: VideoList, paths: list[str], missing: set[str], reports: dict[str, Report], clip: int) -> ListReport:
    sizes = Counter(found.classes)
    smallest = min(found.order, key=lambda name: sizes[name])
    result = ListReport(str(found.origin), len(paths), len(found.order), (smallest, sizes[smallest]))
    problems = {
        "missing": [path for path in paths if path in missing],
        "unreadable": [f"{p}: {reports[p].problem}" for p in paths if p in reports and reports[p].problem],
        "other number of frames than listed": [
            f"{path}: {reports[path].frames} frames, listed {count}"
            for path, count in zip(paths, found.frames, strict=True)
            if count is not None and path in reports and reports[path].frames not in (0, count)
        ],
        "listed twice": [path for path, times in Counter(paths).items() if times > 1],
    }
    result.problems = {kind: names for kind, names in problems.items() if names}
    counts = sorted(reports[p].frames for p in paths if p in reports and not reports[p].problem)
    if counts:
        result.frames = (counts[0], counts[len(counts) // 2], counts[-1])
        short = sum(count < clip for count in counts)
        if short:
            result.notes.append(f"{short} videos have fewer than {clip} frames: frames of their clips repeat")
    if paths and len(result.problems.get("missing", ())) == len(paths):
        result.notes.append("not one video is where the list says: name their folder with --root")
    numbers = found.labels
    if numbers and (gaps := len(set(range(max(numbers) + 1)) - set(numbers))):
        result.notes.append(
            f"labels are {min(numbers)}..{max(numbers)} with {gaps} numbers unused, as in a part of a larger set; "
            "they are numbered anew"
        )
    return result


def _overlaps(lists: Sequence[VideoList], paths: list[list[str]], results: list[ListReport]) -> None:
    """Add videos that are in two lists, which must not happen, and classes of the same name, which may."""
    for later in range(1, len(lists)):
        for earlier in range(later):
            shared = set(paths[earlier]) & set(paths[later])
            other = results[earlier].origin
            if shared:
                results[later].problems[f"also in {other}"] = sorted(shared)
            classes = set(lists[earlier].order) & set(lists[later].order)
            named = sorted(name for name in classes if not name.startswith("class "))
            if named:
                results[later].notes.append(f"{len(named)} classes are also in {other}, such as '{named[0]}'")


def as_text(result: ListReport, shown: int = SHOWN) -> str:
    """Write a report for people."""
    name, size = result.fewest
    frames = (
        "" if result.frames is None else f", frames {result.frames[0]}-{result.frames[2]} (median {result.frames[1]})"
    )
    lines = [
        f"{result.origin}: {result.videos} videos, {result.classes} classes, smallest '{name}' with {size}{frames}"
    ]
    for kind, names in result.problems.items():
        lines.append(f"  {len(names)} {kind}:")
        lines += [f"    {name}" for name in names[:shown]]
        if len(names) > shown:
            lines.append(f"    ... and {len(names) - shown} more")
    lines += [f"  note: {note}" for note in result.notes]
    return "\n".join(lines if result.problems or result.notes else [lines[0] + ": nothing wrong"])
