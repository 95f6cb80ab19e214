"""Class names made short enough to stand under a small picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

_GLYPH = re.compile(r"(?:.+/)?(\S+) U\+[0-9A-F]{4,6}")


def short_names(class_names: Sequence[str]) -> list[str]:
    """Return the names without what says nothing here: folders that all share, code points, underscores.

    The result has the same length and order. Names that differed still differ: where shortening would make two alike,
    all stay as they were.
    """
    names = [str(name) for name in class_names]
    glyphs = [_GLYPH.fullmatch(name) for name in names]
    folders = {name.rpartition("/")[0] for name in names}
    tails = [name.rpartition("/")[2] if len(folders) == 1 else name for name in names]
    spaced = [tail.replace("_", " ").strip() or tail for tail in tails]
    candidates = ([found[1] for found in glyphs] if names and all(glyphs) else spaced, spaced, names)
    return next((short for short in candidates if len(set(short)) == len(set(names))), names)
