"""Recipes can be read, say what they are, and fit the data that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.cli import parse
from tools.compare import check
from tools.config import Compare

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "recipes").glob("results_*.yaml"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_recipe_of_results_can_be_run(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    opening = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"python -m tools.demo --config recipes/{path.name}" in "\n".join(opening)
    config = parse(Compare, "demo", ["--config", str(path)])
    assert config.run == f"runs/{path.stem}" and len(config.seeds) == 3 and config.episodes >= 600
    if not (ROOT / ".." / "shared" / "data" / "images").is_dir():
        pytest.skip("the pictures are not at ../shared/data/images")
    assert len(check(config)) == len(config.test)  # opens every data set and builds every sampler
