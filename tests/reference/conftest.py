"""Turn the vectors of a folder into tests: `pytest tests/reference [--golden DIR]`."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

from tests.conftest import SHARED
from tests.reference.load import find_systems, read_vectors

CLAIMED = Path(__file__).parent / "claimed.txt"


def claimed_systems() -> list[str]:
    """Return the systems this project answers for, one per line of claimed.txt."""
    return [line.strip() for line in CLAIMED.read_text().splitlines() if line.strip() and not line.startswith("#")]


def adapters_of(system: str):
    """Return the adapter module of a system, or None: adapters/<system>.py with a table KINDS."""
    name = f"tests.reference.adapters.{system}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def golden_folder(config: pytest.Config) -> Path | None:
    """Return the folder to read; None when no folder was named and the usual one is absent."""
    named = config.getoption("--golden")
    folder = Path(named) if named else SHARED / "golden"
    if folder.is_dir():
        return folder
    if named:
        raise pytest.UsageError(f"--golden {named}: no such folder")
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vector" in metafunc.fixturenames:
        metafunc.parametrize(("vector", "float32"), _parameters(metafunc.config))


def _parameters(config: pytest.Config) -> list:
    folder = golden_folder(config)
    if folder is None:
        return [_skipped("golden", f"no reference vectors at {SHARED / 'golden'}: name their folder with --golden")]
    systems = find_systems(folder)
    if not systems:
        return [_skipped("golden", f"no <system>/<system>.json under {folder}")]
    parameters = []
    claimed = claimed_systems()
    for system, index in systems.items():
        vectors = read_vectors(index)
        if system not in claimed:
            reason = f"{len(vectors)} vectors of '{system}': this system is not in {CLAIMED.name} yet"
            parameters.append(_skipped(system, reason))
            continue
        for vector in vectors:
            parameters.append(pytest.param(vector, False, id=f"{system}/{vector.name}"))
            if _float32_tolerance(vector):
                parameters.append(pytest.param(vector, True, id=f"{system}/{vector.name}/float32"))
    for system in claimed:
        if system not in systems:
            parameters.append(_skipped(system, f"no {system}/{system}.json under {folder}"))
    return parameters


def _float32_tolerance(vector) -> dict | None:
    """Return the item's own tolerance in float32, else the one the system's adapters state for its kind."""
    own = vector.item.get("tolerance_float32")
    adapters = adapters_of(vector.system)
    return own or getattr(adapters, "FLOAT32_TOLERANCE", {}).get(vector.kind)


def _skipped(name: str, reason: str):
    return pytest.param(None, False, id=name, marks=pytest.mark.skip(reason=reason))
