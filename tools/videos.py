"""`python -m tools.videos`: check lists of videos, write one from a folder of class folders, look into checkpoints."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    command = argparse.ArgumentParser(
        prog="python -m tools.videos",
        description="Check lists of videos before a training meets what is wrong with them, write lists, and look into "
        "checkpoints of video networks.",
    )
    jobs = command.add_subparsers(dest="job", required=True, metavar="check|list|inspect")
    check = jobs.add_parser("check", help="missing, unreadable, frame counts, labels, videos that are in two splits")
    check.add_argument(
        "lists", nargs="+", metavar="LIST", help="list (.json, .txt, .csv), folder of lists or of classes, .zip pack"
    )
    check.add_argument("--root", type=Path, help="folder of the videos (default: that of the list)")
    check.add_argument("--strip", metavar="PREFIX", help="front of the names to remove (default: found by looking)")
    check.add_argument("--suffix", default="", help="added to names that have none, such as .webm")
    check.add_argument("--names", type=Path, metavar="FILE", help="class names, one a line, or a CSV")
    check.add_argument(
        "--decode",
        choices=("none", "first", "all"),
        default="first",
        help="none: look for the files alone; first: count frames and decode the first; all: decode every frame",
    )
    check.add_argument("--clip", type=_positive, default=16, help="frames of a clip; shorter videos are noted")
    check.add_argument("--backend", default="auto", help="auto, pyav, decord or torchcodec")
    check.add_argument("--workers", type=_positive, default=2, help="processes (default: 2)")
    check.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="for one video (default: 60)")
    check.add_argument("--all", action="store_true", help="name every video with a problem, not the first ten")
    check.add_argument("--json", action="store_true", help="one JSON object a list instead of text")
    make = jobs.add_parser("list", help="write a list of the videos in a folder of class folders")
    make.add_argument("folder", type=Path, metavar="FOLDER", help="one folder a class, of video files or frame folders")
    make.add_argument("--out", type=Path, required=True, help="list to write: .json, .csv or .txt")
    make.add_argument("--frames", action="store_true", help="open every video and count its frames (.txt keeps them)")
    make.add_argument("--absolute", action="store_true", help="write whole paths instead of those below the folder")
    make.add_argument("--workers", type=_positive, default=2, help="processes that count (default: 2)")
    look = jobs.add_parser("inspect", help="say what a checkpoint holds, and whether it fits a network")
    look.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="file, or folder of transformers")
    look.add_argument("--backbone", metavar="NAME", help="network to compare with (default: the one of its sizes)")
    look.add_argument("--source", metavar="FILE", help="network that an adapter file belongs to (default: its card's)")
    look.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return command


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 where problems were found, 2 for bad input, 130 when interrupted."""
    options = parser().parse_args(arguments)
    from episodes.errors import UserError

    try:
        return {"check": check, "list": write, "inspect": look_into}[options.job](options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


def check(options: argparse.Namespace) -> int:
    """Check lists by themselves and against each other."""
    from episodes.errors import UserError
    from video.clips_open import find_lists
    from video.lists_check import SHOWN, as_text, check_lists
    from video.readers import VideoOpener, working_backend

    if options.limit <= 0:
        raise UserError(f"--limit {options.limit:g} must be above 0 seconds")
    if options.root is not None and not options.root.is_dir():
        raise UserError(f"--root '{options.root}' is no folder")
    backend = working_backend(options.backend)
    names = {"names": str(options.names)} if options.names else {}
    lists = [found for text in options.lists for found in find_lists(Path(text).expanduser(), text, None, names)]
    depth = {"none": None, "first": "open", "all": "all"}[options.decode]
    results = check_lists(
        lists,
        options.root,
        options.strip,
        options.suffix,
        depth=depth,
        clip=options.clip,
        opener=VideoOpener(backend),
        workers=options.workers,
        limit_s=options.limit,
    )
    if not options.json and depth:
        print(f"decoded by {backend}")
    for result in results:
        print(json.dumps(result.as_json()) if options.json else as_text(result, sys.maxsize if options.all else SHOWN))
    return int(any(result.problems for result in results))


def write(options: argparse.Namespace) -> int:
    """Write a list of what is in a folder."""
    from episodes.errors import UserError
    from video.clips_check import check_videos
    from video.lists import folder_list, write_list
    from video.readers import VideoOpener

    found = folder_list(options.folder.expanduser())
    if options.out.suffix.lower() not in (".json", ".csv", ".txt"):
        raise UserError(f"a list is written as .json, .csv or .txt, not as '{options.out.name}'")
    places = [str(found.origin / name) for name in found.names]
    if options.frames:
        reports = check_videos(VideoOpener(), places, options.workers)
        bad = [report for report in reports if report.problem]
        if bad:
            raise UserError(
                f"{len(bad)} of {len(places)} videos cannot be read, the first is '{bad[0].name}' ({bad[0].problem}): "
                "replace or delete them"
            )
        found.frames = [report.frames for report in reports]
    if options.absolute:
        found.names = [str(Path(place).resolve()) for place in places]
    try:
        write_list(options.out, found)
    except OSError as error:
        raise UserError(f"cannot write '{options.out}' ({error.strerror})") from error
    print(f"{options.out}: {len(found.names)} videos, {len(found.order)} classes")
    if not options.absolute and options.out.resolve().parent != found.origin.resolve():
        folder = found.origin.resolve()
        print(f"names are below {folder}: open it as '{options.out}?root={folder}', check it with --root {folder}")
    return 0


def look_into(options: argparse.Namespace) -> int:
    """Say what a checkpoint holds."""
    from tools.video.inspection import inspect
    from tools.video.inspection_text import as_text

    found = inspect(options.checkpoint.expanduser(), options.backbone, options.source)
    print(json.dumps(found.as_json()) if options.json else as_text(found))
    return int(bool(found.problems))


if __name__ == "__main__":
    sys.exit(main())
