"""Read the vectors of a folder: every `<system>/<system>.json` below it, one `Vector` per test."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MERGED = ("args", "inputs", "outputs", "gradients", "expected")  # a case's entries are merged over the item's
REPLACED = ("mode", "tolerance", "tolerance_float32", "weights", "note")


@dataclass(frozen=True)
class Vector:
    """One test: an item of `vectors`, or one case of it, as plain data. `item` is the merged JSON entry."""

    system: str
    name: str
    kind: str
    folder: Path
    stats_fields: tuple[str, ...]
    item: Mapping = field(repr=False)
    named: frozenset[str] = field(repr=False)  # npz arrays that the item or any of its cases names on its own

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The stored arrays of the item."""
        return _read_npz(self.folder / self.item["npz"]) if self.item.get("npz") else {}

    @property
    def keys(self) -> dict[str, list[int]]:
        """{reference key: shape} of the item's module."""
        return _read_json(self.folder / self.item["keys"]) if self.item.get("keys") else {}

    @property
    def table(self):
        """Content of the item's JSON table."""
        return _read_json(self.folder / self.item["table"])


@functools.lru_cache(maxsize=4)
def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@functools.lru_cache(maxsize=16)
def _read_json(path: Path):
    return json.loads(path.read_text())


def find_systems(folder: Path) -> dict[str, Path]:
    """Return {system: index file} of every `<system>/<system>.json` at or below the folder, sorted by name."""
    found = {path.stem: path for path in sorted(folder.rglob("*.json")) if path.stem == path.parent.name}
    return dict(sorted(found.items()))


def read_vectors(index: Path) -> list[Vector]:
    """Return all tests of one system's index file."""
    content = json.loads(index.read_text())
    fields = tuple(content.get("conventions", {}).get("stats_fields", ()))
    return [
        Vector(content.get("system", index.stem), name, item["kind"], index.parent, fields, merged, named)
        for item in content["vectors"]
        for name, merged, named in _cases(item, index.parent)
    ]


def _cases(item: Mapping, folder: Path) -> Iterator[tuple[str, dict, frozenset[str]]]:
    cases = item.get("cases")
    if cases is None and item.get("table") and "table_value" not in item:
        cases = _read_json(folder / item["table"])[item.get("part") or "cases"]
    named = {
        name for part in (item, *(cases or ())) for side in ("outputs", "gradients") for name in part.get(side, {})
    }
    named |= set(item.get("aux") or ())
    if cases is None:
        yield item["name"], dict(item), frozenset(named)
        return
    for number, case in enumerate(cases):
        merged = dict(item)
        merged.update({key: {**item.get(key, {}), **case[key]} for key in MERGED if key in case})
        merged.update({key: case[key] for key in REPLACED if key in case})
        yield f"{item['name']}/{case.get('case', number)}", merged, frozenset(named)
