"""A file of rows in blocks with checksums, and the JSON beside it that says what they are and which are finished."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from episodes.errors import UserError
from episodes.run import write_json

FORMAT = "covey-features-1"
HEADER, ROWS = "store.json", "features.bin"


@dataclass
class Header:
    """What `store.json` says.

    parts: of the key. shape: (N, ...) of all rows. checksums: CRC-32 of every block of `block_rows` rows, None for one
    that is not finished.
    """

    parts: dict[str, Any]
    shape: list[int]
    block_rows: int
    checksums: list[int | None]
    format: str = FORMAT

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * np.dtype(self.parts["dtype"]).itemsize

    def span(self, block: int) -> tuple[int, int]:
        """Return the first row of a block and the one after its last."""
        return block * self.block_rows, min((block + 1) * self.block_rows, self.shape[0])

    def missing(self) -> list[int]:
        """Return the blocks that are not finished."""
        return [block for block, checksum in enumerate(self.checksums) if checksum is None]


def inspect(path: Path, parts: dict[str, Any], verify: bool, say: Callable[[str], None]) -> Header | None:
    """Read and check a store; blocks that are not whole become unfinished. None where there is no (readable) store.

    Raises UserError when the store is of other `parts`.
    """
    try:
        header = Header(**json.loads((path / HEADER).read_text()))
        if header.format != FORMAT or len(header.checksums) != -(-header.shape[0] // header.block_rows):
            raise ValueError("unknown format")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, LookupError, ZeroDivisionError):
        say(f"'{path / HEADER}' is damaged")
        return None
    for name, wanted in parts.items():
        if header.parts.get(name) != wanted:
            raise UserError(
                f"the feature store '{path}' is of other {name} ({_short(header.parts.get(name))} instead of "
                f"{_short(wanted)}): give the folder of these {name}, or delete this one"
            )
    finished = len(header.checksums) - len(header.missing())
    bad = _damaged(path / ROWS, header, verify)
    for block in bad:
        header.checksums[block] = None
    if bad:
        say(f"{len(bad)} of {len(header.checksums)} blocks of '{path / ROWS}' are cut off or damaged")
    elif finished < len(header.checksums):
        say(f"'{path}' is unfinished, {finished} of {len(header.checksums)} blocks are there")
    return header


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def _damaged(file: Path, header: Header, verify: bool) -> list[int]:
    """Return the finished blocks that are not on disk as they were written."""
    size = file.stat().st_size if file.is_file() else 0
    bad = []
    with open(file, "rb") if size else contextlib.nullcontext() as rows:
        for block, checksum in enumerate(header.checksums):
            start, stop = (row * header.row_bytes for row in header.span(block))
            if checksum is None:
                continue
            if stop > size:
                bad.append(block)
            elif verify:
                rows.seek(start)
                if zlib.crc32(rows.read(stop - start)) != checksum:
                    bad.append(block)
    return bad


def create(path: Path, parts: dict[str, Any], shape: list[int], block_rows: int) -> Header:
    """Lay out an empty store; raises UserError when the disk has no room for it."""
    header = Header(parts, shape, block_rows, [None] * -(-shape[0] // block_rows))
    needed, free = shape[0] * header.row_bytes, shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(
            f"the features need {needed / 2**30:.1f} GB on disk and '{path.parent}' has {free / 2**30:.1f} GB: give a "
            "folder on another disk, store them as float16, or do without a store"
        )
    path.mkdir(exist_ok=True)
    (path / ROWS).unlink(missing_ok=True)  # whoever still reads an older file keeps it
    write_json(path / HEADER, asdict(header))
    return header


def write_block(path: Path, header: Header, block: int, content: np.ndarray) -> None:
    """Bring the rows to disk, and only then say so in the header."""
    with open(path / ROWS, "r+b" if (path / ROWS).is_file() else "w+b") as file:
        file.truncate(header.shape[0] * header.row_bytes)
        file.seek(header.span(block)[0] * header.row_bytes)
        file.write(content.data)
        file.flush()
        os.fsync(file.fileno())
    header.checksums[block] = zlib.crc32(content.data)
    write_json(path / HEADER, asdict(header))
