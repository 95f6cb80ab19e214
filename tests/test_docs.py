"""What the documentation says exists: links, paths of recipes and scripts, and the Python example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert all((page.parent / link).exists() for link in links), links
    recipes = re.findall(r"recipes/[\w/]+\.yaml", text)
    assert all((ROOT / recipe).is_file() for recipe in recipes), recipes
    for script in re.findall(r"python -m (tools\.\w+|episodes\.[\w.]+)", text):
        file = ROOT / script.replace(".", "/")
        assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), script


def test_the_example_in_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["logits"].shape == (1, 15, 5)
