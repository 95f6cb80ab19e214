"""The recipes of TAMT's five targets hold the settings of the released scripts, and fit the lists of their videos."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.conftest import SHARED
from tools.cli import parse
from tools.config import Evaluate
from tools.groups import like_training
from tools.video.methods import create_video_head
from tools.video.models import design_video
from tools.video_config import VideoTune
from video.lists import read_list

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "video"
TUNED = sorted(path.stem for path in RECIPES.glob("tamt_*.yaml") if not path.stem.endswith("_test"))
# Specification, section 12: rate, epochs, training and validation episodes an epoch, queries, test episodes, repeats.
PUBLISHED = {
    "tamt_hmdb51": (1e-3, 30, 600, 300, 12, 2000, 5),
    "tamt_ucf101": (1e-3, 25, 300, 150, 12, 2000, 1),
    "tamt_ssv2": (5e-4, 30, 600, 300, 12, 1000, 5),
    "tamt_diving48": (1e-3, 25, 300, 150, 12, 2000, 3),
    "tamt_rareact": (1e-6, 40, 600, 500, 1, 500, 5),
}
AT_224 = {
    "tamt_hmdb51": ("--optim.lr 5e-4", "--optim.epochs 60"),
    "tamt_ssv2": ("--optim.lr 1e-3", "--optim.epochs 40"),
    "tamt_diving48": ("--optim.lr 5e-4", "--optim.epochs 50", "--episodes.episodes 30", "--validation.episodes 15"),
    "tamt_rareact": ("--optim.lr 1e-5", "--optim.epochs 30"),
}


def tuning(name: str, *flags: str) -> VideoTune:
    return parse(VideoTune, "video_tune", ["--config", str(RECIPES / f"{name}.yaml"), *flags])


def options_of_test(name: str) -> Evaluate:
    return parse(Evaluate, "evaluate", ["--config", str(RECIPES / f"{name}_test.yaml")])


def comment(name: str) -> str:
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def test_there_is_one_for_each_target():
    assert sorted(PUBLISHED) == TUNED


@pytest.mark.parametrize("name", TUNED)
def test_tuning_is_as_published(name):
    config = tuning(name)
    optim, rules = config.optim, like_training(config.validation, config.episodes)
    found = (optim.lr, optim.epochs, config.episodes.episodes, rules.episodes, config.episodes.n_query)
    assert found == PUBLISHED[name][:5]
    assert (optim.name, optim.weight_decay, optim.schedule) == ("adam", 5e-4, "cosine")
    assert (optim.t_max, optim.eta_min, optim.clip_norm, optim.accumulate) == (80, 1e-7, None, 1)
    assert (config.episodes.n_way, config.episodes.k_shot, rules.n_way, rules.k_shot) == (5, 5, 5, 5)
    assert (rules.n_query, config.episodes_per_step, config.seed) == (config.episodes.n_query, 1, 1)
    assert (config.tune, config.model.method, config.select, config.drop_path) == ("adapters", "tamt", "best", 0.1)
    assert config.machine.precision == "32-true"
    data = config.data
    assert (data.frames, data.sampling, data.step, data.augment) == (16, "reference", 2, "reference")


@pytest.mark.parametrize("name", TUNED)
def test_the_test_is_as_published_and_follows_the_tuning(name):
    config, trained = options_of_test(name), tuning(name)
    _, _, _, _, queries, episodes, repeats = PUBLISHED[name]
    assert (config.n_way, config.k_shot, config.n_query) == (5, [5], queries)
    assert (config.episodes, config.repeats) == (episodes, repeats)
    assert config.checkpoint == f"{trained.run}/best.safetensors"
    assert config.video.eval_view == "center" and "--video.eval_view reference" in comment(f"{name}_test")
    assert config.test[0].partition("=")[2] == trained.data.train.replace("base.json", "novel.json")


@pytest.mark.parametrize("name", TUNED)
def test_the_comment_tells_the_other_settings_and_whether_it_was_run(name):
    text = comment(name)
    assert "Not run here" in text and re.search(r"Expected: [\d.]+ %", text)
    assert "--episodes.k_shot 1" in text and "--data.size 224" in text
    assert all(flag in text for flag in AT_224.get(name, ()))
    flags = re.search(r"--data\.size 224((?: --[\w.]+ [\w.-]+)*)", text)[0].rstrip(".").split()
    assert tuning(name, *flags).data.size == 224  # the comment's flags are options
    assert max(map(len, (RECIPES / f"{name}.yaml").read_text().splitlines())) <= 120


@pytest.mark.parametrize("name", TUNED)
def test_the_lists_have_enough_videos_for_its_episodes(name):
    """The largest episode of all of these recipes uses up the smallest class of one of the lists."""
    config = tuning(name)
    folder = SHARED / "data" / "splits" / "video" / Path(config.data.train.partition("?")[0]).parent.name
    if not folder.is_dir():
        pytest.skip(f"no lists at {folder}")
    for part in ("base", "val", "novel"):
        classes = read_list(folder / f"{part}.json").classes
        sizes = [classes.count(one) for one in set(classes)]
        assert len(sizes) >= config.episodes.n_way
        assert min(sizes) >= config.episodes.k_shot + config.episodes.n_query


def test_the_model_has_the_parameters_of_the_released_one():
    """Specification, section 8; without what is never used: 27,648 of the blocks and 416 of the adapters."""
    config = tuning("tamt_hmdb51")
    torch.manual_seed(0)
    _, encoder = design_video(config.model, config.data.size, config.data.frames)
    sizes = [(value.numel(), value.requires_grad) for value in encoder.parameters()]
    assert sum(size for size, trained in sizes if trained) == 2_003_584 - 416
    assert sum(size for size, _ in sizes) == 23_910_400 - 27_648 - 416
    assert not list(create_video_head("tamt", 5).parameters())
