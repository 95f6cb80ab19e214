"""Where the real videos lie, and small films written on the spot."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.conftest import SHARED


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """Folder of the real video packs; tests that need it are skipped where it is absent."""
    folder = SHARED / "data" / "video"
    if not folder.is_dir():
        pytest.skip(f"no video packs at {folder} (set COVEY_SHARED to the folder above data)")
    return folder


@pytest.fixture(scope="session")
def samples(shared_videos, tmp_path_factory) -> Path:
    """The files of decoder_samples, unpacked."""
    folder = tmp_path_factory.mktemp("samples")
    zipfile.ZipFile(shared_videos / "decoder_samples" / "decoder_samples.zip").extractall(folder)
    return folder


@pytest.fixture(scope="session")
def expected(samples) -> dict:
    """What PyAV reads of every sample, by file name."""
    return json.loads((samples / "expected.json").read_text())


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """A cache folder for each test module's run, never the user's."""
    folder = tmp_path_factory.getbasetemp() / "covey-cache"
    monkeypatch.setenv("COVEY_CACHE", str(folder))
    return folder
