"""Shared fixtures: where the real data lies, and one thread per test process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("COVEY_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options must stand in the outermost conftest, or a plain `pytest` does not know them."""
    parser.addoption(
        "--golden",
        metavar="DIR",
        help="folder of reference vectors, <system>/<system>.json (default: golden/ in the shared folder)",
    )


@pytest.fixture(scope="session")
def shared_images() -> Path:
    """Folder of the real image packs; tests that need it are skipped where it is absent."""
    folder = SHARED / "data" / "images"
    if not folder.is_dir():
        pytest.skip(f"no image packs at {folder} (set COVEY_SHARED to their parent folder)")
    return folder
