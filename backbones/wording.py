"""Numbers in sentences."""

from __future__ import annotations


def many(count: int, one: str, more: str | None = None) -> str:
    """Return a number with its words: many(1, "key is", "keys are") -> "1 key is". more: default `one` + s."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"
