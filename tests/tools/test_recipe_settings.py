"""The recipes of settings: they build the models they name, follow each other, and hold the published numbers."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch

from episodes.class_splits import load_split
from episodes.sources.table import parse_spec
from fewshot.encoder import PretrainModel
from fewshot.methods import METHODS, create_encoder, create_head
from tools.cli import parse
from tools.config import Evaluate, MetaTrain, Pretrain, SelfDistill
from tools.groups import like_training

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SETTINGS = sorted(
    path.relative_to(RECIPES).with_suffix("").as_posix()
    for path in RECIPES.glob("*/*.yaml")
    if path.parent.name not in ("benchmark", "video", "classify", "compare", "gcp")
)  # a grid has settings of its own; the others have test files of their own (test_video_recipes.py, ...)
KINDS = {"pretrain": Pretrain, "distill": SelfDistill, "1shot": MetaTrain, "5shot": MetaTrain}


@functools.cache
def read(name: str):
    """The options of a recipe, by its path below recipes/ without the suffix; its name says for which script."""
    kind = Evaluate if "_test" in name else KINDS[name.rpartition("_")[2]]
    return parse(kind, "script", ["--config", str(RECIPES / f"{name}.yaml")])


def neighbours(name: str) -> list[str]:
    return [other for other in SETTINGS if other.split("/")[0] == name.split("/")[0]]


def pretrain_before(name: str) -> Pretrain:
    """The pre-training that a recipe's model comes from, found by following the checkpoints."""
    config = read(name)
    while not isinstance(config, Pretrain):
        run = re.sub(r"(/born\d+)?/best\.safetensors$", "", config.checkpoint)
        config = next(c for other in neighbours(name) if (c := read(other)).run == run)
    return config


def build(config: Pretrain, num_classes: int) -> PretrainModel:
    """The model of a pre-training, without memory for its weights."""
    model = config.model
    with torch.device("meta"):
        encoder = create_encoder(
            model.method, model.backbone, model.backbone_options, model.reduce_dim, activation=model.activation
        )
        return PretrainModel(encoder, num_classes, model.dropout)


@pytest.mark.parametrize("name", SETTINGS)
def test_its_comment_says_whether_it_was_run(name):
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    assert re.search(r"Expected: .*%", comment)
    assert ("Not run here" in comment) != ("Measured" in comment)
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("name", SETTINGS)
def test_its_data_can_be_asked_for(name):
    """Relative places only; options and class splits that exist; no test class in training or validation."""
    config = read(name)
    specs = config.test if isinstance(config, Evaluate) else [config.data.train, config.data.val or "data/none"]
    for spec in specs:
        assert spec.startswith(("data/", "glyphs:"))
        choices = parse_spec(f"folder:{spec}" if spec.startswith("data/") else spec)[2]
        if "by" in choices:
            load_split(choices["by"])
    if not isinstance(config, Evaluate):
        assert config.data.val != config.data.train
        assert "test" not in specs[1]
        assert "test" not in specs[0] or name.startswith("cross_domain/")  # all 100 classes, on purpose


@pytest.mark.parametrize("name", [name for name in SETTINGS if not name.endswith("_pretrain")])
def test_it_starts_from_the_weights_that_another_recipe_leaves(name):
    ends = set()
    for other in map(read, neighbours(name)):
        if isinstance(other, SelfDistill):
            ends.add(f"{other.run}/born{other.generations}/best.safetensors")
        elif not isinstance(other, Evaluate):
            ends.add(f"{other.run}/best.safetensors")
    assert read(name).checkpoint in ends


@pytest.mark.parametrize("name", SETTINGS)
def test_its_model_and_heads_can_be_built(name):
    config, start = read(name), pretrain_before(name)
    method = getattr(config, "method", None) or start.model.method
    assert sum(parameter.numel() for parameter in build(start, 10).parameters()) > 1e4
    shots = config.k_shot if isinstance(config, Evaluate) else []
    if isinstance(config, MetaTrain):
        assert METHODS[method].episodic
        shots = [config.episodes.k_shot]
    for k in shots:
        create_head(method, k, **config.model.head)
    if not isinstance(config, SelfDistill):  # a student keeps the method of its teacher
        assert name.split("/")[1].startswith(method)


@pytest.mark.parametrize(
    ("name", "num_classes", "total"),
    [
        ("mini_imagenet/meta_deepbdc", 64, 25_552_065),
        ("mini_imagenet/stl_deepbdc", 64, 13_034_945),
        ("mini_imagenet/good_embed", 64, 12_465_344),
        ("tiered_imagenet/meta_deepbdc", 351, 24_135_520),
        ("tiered_imagenet/stl_deepbdc", 351, 15_404_704),
        ("cub/meta_deepbdc", 200, 17_887_497),
        ("cub/stl_deepbdc", 200, 12_893_705),
    ],
)
def test_parameter_totals_are_the_published_ones(name, num_classes, total):
    """Section 12 of the specification, counted in the published checkpoints (CUB: 200 outputs for 100 classes)."""
    model = build(read(f"{name}_pretrain"), num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == total


# Section 6.4 of the specification. Pre-training:
# epochs, milestones, lr, temperature lr, weight decay, d, dropout, (validation episodes, shot), first epoch with it
PRETRAIN = {
    "mini_imagenet/protonet": (170, [100, 150], 0.05, None, 1e-4, None, 0.0, (600, 5), 0),
    "mini_imagenet/good_embed": (170, [100, 150], 0.05, None, 5e-4, None, 0.0, None, 0),
    "mini_imagenet/meta_deepbdc": (170, [100, 150], 0.05, 1e-3, 5e-4, None, 0.8, (600, 1), 0),
    "mini_imagenet/stl_deepbdc": (170, [100, 150], 0.05, 1e-3, 5e-4, 128, 0.5, None, 0),
    "tiered_imagenet/protonet": (100, [40, 70], 0.05, None, 1e-4, None, 0.0, (600, 5), 70),
    "tiered_imagenet/meta_deepbdc": (100, [40, 70], 0.05, 1e-3, 1e-4, 256, 0.6, (1000, 1), 70),
    "tiered_imagenet/stl_deepbdc": (90, [40, 70], 0.05, 1e-3, 5e-4, 128, 0.5, None, 0),
    "cub/protonet": (150, [100], 0.05, None, 5e-4, None, 0.0, (300, 1), 0),
    "cub/good_embed": (220, [120, 170], 0.05, None, 5e-4, None, 0.0, None, 0),
    "cub/meta_deepbdc": (400, [], 0.05, None, 5e-4, 256, 0.6, None, 0),  # constant; the temperature's rate is lr
    "cub/stl_deepbdc": (220, [120, 170], 0.05, 1e-3, 5e-4, 128, 0.5, None, 0),
}
# Meta-training: epochs, milestones, lr, training episodes of 1-shot and of 5-shot, validation episodes
META = {
    "mini_imagenet/protonet": (100, [40, 80], 1e-4, 1000, 600, 600),
    "mini_imagenet/meta_deepbdc": (100, [40, 80], 1e-4, 1000, 600, 600),
    "tiered_imagenet/protonet": (100, [70], 5e-5, 1000, 1000, 1000),
    "tiered_imagenet/meta_deepbdc": (100, [70], 5e-5, 1000, 1000, 1000),
    "cub/protonet": (100, [40, 80], 1e-3, 600, 600, 300),
    "cub/meta_deepbdc": (60, [40], 1e-3, 600, 600, 600),
}
GENERATIONS = {
    **{"mini_imagenet/good_embed": 2, "mini_imagenet/stl_deepbdc": 3, "tiered_imagenet/stl_deepbdc": 1},
    **{"cub/good_embed": 11, "cub/stl_deepbdc": 18},
}
# C of the logistic regression, 1-shot and 5-shot
PENALTY = {
    **{"mini_imagenet/stl_deepbdc": (0.1, 2), "mini_imagenet/good_embed": (0.1, 2)},
    **{"tiered_imagenet/stl_deepbdc": (0.05, 30), "cub/stl_deepbdc": (20, 20), "cub/good_embed": (0.1, 2)},
}


@pytest.mark.parametrize("name", list(PRETRAIN))
def test_settings_of_pre_training(name):
    config = read(f"{name}_pretrain")
    optim = config.optim
    epochs, milestones, lr, temperature, decay, dim, dropout, validation, first = PRETRAIN[name]
    assert (optim.epochs, optim.lr) == (epochs, lr)
    assert (optim.milestones if optim.schedule == "multistep" else []) == milestones
    assert (optim.temperature_lr, optim.weight_decay, optim.batch_size, optim.gamma) == (temperature, decay, 64, 0.1)
    assert (optim.name, optim.momentum, optim.nesterov, optim.clip_norm) == ("sgd", 0.9, True, None)
    assert optim.schedule == ("multistep" if milestones else "constant")
    assert (config.model.method, config.model.reduce_dim, config.model.dropout) == (name.split("/")[1], dim, dropout)
    assert config.model.backbone == ("resnet18" if name.startswith("cub") else "resnet12")
    assert (config.data.augment, config.seed, config.validate_from) == ("standard", 1, first)
    if validation is None:
        assert (config.select, config.data.val) == ("last", None)
    else:
        rules = config.validation
        assert config.select == "best"
        assert config.data.val
        assert (rules.episodes, rules.k_shot, rules.n_way, rules.n_query) == (*validation, 5, 15)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("name", list(META))
def test_settings_of_meta_training(name, shots):
    config = read(f"{name}_{shots}shot")
    epochs, milestones, lr, one, five, validation = META[name]
    optim, rules = config.optim, like_training(config.validation, config.episodes)
    assert (optim.epochs, optim.milestones, optim.lr, optim.weight_decay) == (epochs, milestones, lr, 5e-4)
    assert optim.temperature_lr is None  # one group: the temperature uses the backbone's rate
    assert config.episodes.episodes == (one if shots == 1 else five)
    assert (config.episodes.n_way, config.episodes.k_shot, config.episodes.n_query) == (5, shots, 16)
    assert (rules.n_way, rules.k_shot, rules.n_query, rules.episodes) == (5, shots, 16, validation)
    assert (config.select, config.episodes_per_step, optim.accumulate) == ("best", 1, 1)
    assert config.data.augment == "standard"
    assert config.checkpoint == f"{read(f'{name}_pretrain').run}/best.safetensors"


@pytest.mark.parametrize("name", list(GENERATIONS))
def test_settings_of_self_distillation(name):
    config, before = read(f"{name}_distill"), read(f"{name}_pretrain")
    assert config.generations == GENERATIONS[name]
    assert config.optim == before.optim
    assert (config.distill_temperature, config.ce_weight, config.kd_weight) == (4.0, 0.5, 0.5)


@pytest.mark.parametrize("name", [*META, *PENALTY])
def test_settings_of_tests(name):
    tests = [read(other) for other in neighbours(name) if other.startswith(f"{name}_test")]
    assert sorted(k for config in tests for k in config.k_shot) == [1, 5]
    for config in tests:
        assert (config.n_way, config.n_query, config.episodes, config.repeats) == (5, 15, 2000, 5)
        assert all("split=test" in spec for spec in config.test)
        for k in config.k_shot if name in PENALTY else ():
            expected = dict(zip((1, 5), PENALTY[name], strict=True))[k]
            assert expected == create_head(name.split("/")[1], k, **config.model.head).C


@pytest.mark.parametrize("method", ["protonet", "good_embed", "meta_deepbdc", "stl_deepbdc"])
def test_across_domains_all_hundred_classes_train_and_the_target_validates(method):
    config = read(f"cross_domain/{method}_pretrain")
    assert config.data.train.endswith("mini_imagenet?split=train+val+test")
    assert "mini_imagenet" not in (config.data.val or "")
    assert config.model == read(f"mini_imagenet/{method}_pretrain").model
