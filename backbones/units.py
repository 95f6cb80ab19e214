"""Numbers with their units, for people."""

from __future__ import annotations


def file_size(count: float) -> str:
    """Return a number of bytes in GB, MB or, below 0.1 MB, kB."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
