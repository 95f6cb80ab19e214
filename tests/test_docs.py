"""What the documentation says exists: links, paths of recipes and scripts, and the Python example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from backbones.checkpoint import save_weights
from fewshot.card import design
from fewshot.encoder import EpisodeModel
from fewshot.methods import create_head
from tests.tools import tiny

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


def test_the_examples_in_the_readme_run(tmp_path, monkeypatch):
    first, second = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    torch.manual_seed(0)
    plan, encoder = design("protonet", "conv4", {"width": 8, "pooled_stages": 3, "input_size": 28})
    weights = tmp_path / "runs/mine/best.safetensors"
    save_weights(EpisodeModel(encoder, create_head("protonet", 1)), weights, plan.card("meta"))
    tiny.folder(tmp_path / "photos/known", classes=3, items=2)
    tiny.folder(tmp_path / "photos/new", classes=3, items=4)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(first, "README.md", "exec"), names)
    assert len(names["names"]) == 12
    assert names["shares"].shape == (12, 3)
    assert len(names["result"].accuracies) == 600
    exec(compile(second, "README.md", "exec"), names)
    assert names["logits"].shape == (1, 15, 5)
