"""Class splits: which classes are for training, validation and test. The YAML files in splits/ hold them as facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, nearest

SPLITS = Path(__file__).with_name("splits")
PARTS = ("train", "val", "test")


def list_splits() -> list[str]:
    """Names of the class splits that come with the project."""
    return sorted(path.stem for path in SPLITS.glob("*.yaml"))


def load_split(name: str) -> dict[str, Any]:
    """Content of a class split: a name from `list_splits`, or the path of a YAML or JSON file.

    Either ``train``, ``val`` and ``test`` are lists of classes (names; or, with ``numbered: 1``, positions in the data
    set's own class order counted from 1), or ``rule`` says them by position in the sorted names:
    ``{modulo: 5, train: [0, 1, 2], val: [3], test: [4]}``.
    """
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml", ".json"):
        path = SPLITS / f"{name}.yaml"
        if not path.is_file():
            raise UserError(f"there is no class split '{name}'{nearest(name, list_splits())}")
    if not path.is_file():
        raise UserError(f"class split file '{name}' does not exist")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"class split file '{name}' cannot be read: {error}".replace("\n", " ")) from error
    if not isinstance(content, dict) or not ("rule" in content or any(part in content for part in PARTS)):
        raise UserError(f"class split file '{name}' must have train, val and test lists or a rule")
    return content


def split_classes(name: str, class_names: list[str]) -> dict[str, list[str]]:
    """Class names of each part for a data set with `class_names`; the parts are checked to share no class."""
    content = load_split(name)
    if "rule" in content:
        rule, ordered = content["rule"], sorted(class_names)
        if content.get("classes", len(ordered)) != len(ordered):
            raise UserError(
                f"the class split '{name}' is for {content['classes']} classes, the data set has {len(ordered)}"
            )
        residues = {part: set(rule.get(part, ())) for part in PARTS}
        parts = {p: [c for i, c in enumerate(ordered) if i % rule["modulo"] in residues[p]] for p in PARTS}
    else:
        parts = {part: [_class_name(entry) for entry in content.get(part) or ()] for part in PARTS}
        if "numbered" in content:
            parts = {
                part: [_numbered(name, int(e) - content["numbered"], class_names) for e in parts[part]]
                for part in PARTS
            }
    seen: dict[str, str] = {}
    for part, names in parts.items():
        for entry in names:
            if entry in seen:
                raise UserError(
                    f"the class split '{name}' has the class '{entry}' twice, in {seen[entry]} and in {part}"
                )
            seen[entry] = part
    return parts


def _class_name(entry: Any) -> str:
    """A class name; of [coarse, fine] pairs the fine one."""
    return str(entry[-1] if isinstance(entry, list) else entry)


def _numbered(split: str, position: int, class_names: list[str]) -> str:
    if not 0 <= position < len(class_names):
        raise UserError(
            f"the class split '{split}' names class number {position}, the data set has {len(class_names)} classes"
        )
    return class_names[position]
