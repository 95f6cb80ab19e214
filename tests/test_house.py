"""The rules of the house, checked: imports run downwards, files stay small, scripts answer at once."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A room may import from rooms on lower floors and from itself; rooms on one floor do not know each other.
FLOORS = [{"moments"}, {"backbones"}, {"episodes"}, {"fewshot", "video", "classify", "detection", "distill"}, {"tools"}]
ROOMS = sorted(room for floor in FLOORS for room in floor if (ROOT / room).is_dir())
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
SCRIPTS = [path for path in FILES if path.is_relative_to(ROOT / "tools") and "__main__" in path.read_text()]
HEAVY = {"torch", "torchvision", "timm", "sklearn", "matplotlib", "scipy"}


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> set[str]:
    """The full names of all modules that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:  # a relative import can't leave its room
            names.add(node.module)
    return names


def floor_of(room: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_imports_run_downwards(path):
    room = path.relative_to(ROOT).parts[0]
    for name in imported(ast.parse(path.read_text())):
        other = name.split(".")[0]
        assert other != "tests", f"{shown(path)} imports {name}"
        if other in ROOMS and other != room:
            assert floor_of(other) < floor_of(room), f"{shown(path)} imports {name}, which is not below it"


def test_the_mathematics_needs_torch_alone():
    allowed = sys.stdlib_module_names | {"moments", "torch"}
    for path in (ROOT / "moments").rglob("*.py"):
        foreign = {name for name in imported(ast.parse(path.read_text())) if name.split(".")[0] not in allowed}
        assert not foreign, f"{shown(path)} imports {sorted(foreign)}"


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=shown)
def test_files_stay_under_400_lines(path):
    assert len(path.read_text().splitlines()) < 400


@pytest.mark.parametrize("path", SCRIPTS, ids=shown)
def test_help_needs_no_heavy_library(path):
    """`--help` answers at once, which it can't when it waits for torch."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{module!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        "    status = 0\n"
        "except SystemExit as stop:\n"
        "    status = stop.code or 0\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "sys.exit(f'--help ended with {status}' if status else f'--help loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_every_room_is_packaged():
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {f"{room}*" for room in ROOMS} <= set(packaged)
    for path in FILES:
        assert (path.parent / "__init__.py").exists(), f"{shown(path.parent)} would be left out of the package"


def test_requirements_have_lower_bounds_only():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            requirement = line.split("#")[0].split(";")[0]
            if requirement.strip():
                assert ">=" in requirement, f"{name}: {line} has no lower bound"
                assert not set("<~!") & set(requirement), f"{name}: {line} has more than a lower bound"
                assert "==" not in requirement, f"{name}: {line} pins"
