"""A folder of finished arrays, so that drawn data sets are drawn once."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np


def cache_folder() -> Path:
    """The folder named by COVEY_CACHE, else ~/.cache/covey."""
    return Path(os.environ.get("COVEY_CACHE") or Path.home() / ".cache" / "covey")


def cached_arrays(key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that `make` returns, from ``<cache folder>/<key>.npz`` if they are there.

    The file is written under another name and then moved, so a reader never sees half of it; a damaged file is made
    anew; a folder that cannot be written only means that the arrays are made each time.
    """
    path = cache_folder() / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        pass  # absent or damaged
    arrays = make()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as handle:
            temporary = handle.name
            np.savez(handle, **arrays)
        os.replace(temporary, path)
    except OSError:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
    return arrays
