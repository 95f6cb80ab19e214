"""Numbers in sentences, with their nouns and units."""

from __future__ import annotations


def many(count: int, one: str, more: str | None = None) -> str:
    """Return a number with its words: many(1, "key is", "keys are") -> "1 key is". more: default `one` + s."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def file_size(count: float) -> str:
    """Return a number of bytes in GB, MB or, below 0.1 MB, kB."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
