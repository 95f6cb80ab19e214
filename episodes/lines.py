"""Text files of one JSON object a line, compressed or not: what episode files are made of."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from episodes.errors import UserError

FORMAT = "covey-episodes-1"


@contextlib.contextmanager
def opened(path: str | Path, mode: str, compressed: bool) -> Iterator[IO[str]]:
    """Open a text file for reading or writing; a compressed one says neither its name nor the time."""
    if not compressed:
        with open(path, mode, encoding="utf-8", newline="\n") as file:
            yield file
        return
    with (
        open(path, f"{mode}b") as raw,
        gzip.GzipFile("", f"{mode}b", 6, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
    ):
        yield file


def read_lines(path: str | Path) -> Iterator[str]:
    """Yield the lines of an episode file; raises UserError where it can't be read or is cut off."""
    try:
        with opened(path, "r", Path(path).suffix == ".gz") as file:
            yield from file
    except FileNotFoundError as error:
        raise UserError(f"there is no episode file '{path}'") from error
    except EOFError as error:
        raise UserError(f"the episode file '{path}' is cut off: copy or write it again") from error
    except (OSError, UnicodeDecodeError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read the episode file '{path}' ({reason}): copy or write it again") from error
