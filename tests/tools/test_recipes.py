"""Every recipe says what it is and can be read; the paper's hold its settings; those of results fit their data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.classify_compare_config import ClassifyCompare
from tools.classify_config import ClassifyTrain
from tools.cli import parse
from tools.compare import check
from tools.config import Benchmark, Compare, Evaluate, MetaTrain, Pretrain, SelfDistill
from tools.grid.check import check as check_grid
from tools.grid.plan import plan_jobs
from tools.study_config import GcpStudy
from tools.video_config import VideoPretrain, VideoTune

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
RESULTS = [path for path in RECIPES if path.stem.startswith("results_")]
TOOLS = {
    "benchmark": Benchmark,
    "classify compare": ClassifyCompare,
    "classify train": ClassifyTrain,
    "demo": Compare,
    "evaluate": Evaluate,
    "gcp_study": GcpStudy,
    "meta_train": MetaTrain,
    "pretrain": Pretrain,
    "self_distill": SelfDistill,
    "video_pretrain": VideoPretrain,
    "video_tune": VideoTune,
}


def opening(path: Path) -> str:
    """Return the comment that a recipe opens with, as one line."""
    lines = path.read_text().splitlines()
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return re.sub(r"\s+", " ", " ".join(line.lstrip("# ") for line in lines[:count]))


def read(path: Path):
    """Return the options of a recipe for the tool that its opening names."""
    tool = re.search(r"python -m tools\.(\w+(?: train| compare)?) --config (\S+\.yaml)", opening(path))
    assert tool and tool[2] == path.relative_to(ROOT).as_posix()
    return parse(TOOLS[tool[1]], tool[1], ["--config", str(path)])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT / "recipes").as_posix())
def test_a_recipe_opens_with_what_it_is_and_has_no_unknown_option(path: Path):
    text = opening(path)
    assert "Paper:" in text and "Expected:" in text
    config = read(path)
    assert config.run == f"runs/{path.relative_to(ROOT / 'recipes').with_suffix('').as_posix()}"
    start = getattr(config, "checkpoint", None) or getattr(config, "weights", None)
    start = start or getattr(getattr(config, "network", None), "weights", None)
    if start and start.startswith("runs/"):  # what a stage starts from is what another recipe leaves behind
        folder = re.sub(r"/born\d+$", "", Path(start).parent.as_posix())
        assert (ROOT / "recipes" / Path(folder).relative_to("runs")).with_suffix(".yaml").is_file()


# dataset, method: epochs, milestones, weight decay, reduction, dropout of the pre-training (DeepBDC spec 6.4)
PRETRAINING = {
    ("mini_imagenet", "protonet"): (170, [100, 150], 1e-4, None, 0.0),
    ("mini_imagenet", "good_embed"): (170, [100, 150], 5e-4, None, 0.0),
    ("mini_imagenet", "meta_deepbdc"): (170, [100, 150], 5e-4, None, 0.8),
    ("mini_imagenet", "stl_deepbdc"): (170, [100, 150], 5e-4, 128, 0.5),
    ("tiered_imagenet", "protonet"): (100, [40, 70], 1e-4, None, 0.0),
    ("tiered_imagenet", "meta_deepbdc"): (100, [40, 70], 1e-4, 256, 0.6),
    ("tiered_imagenet", "stl_deepbdc"): (90, [40, 70], 5e-4, 128, 0.5),
    ("cub", "protonet"): (150, [100], 5e-4, None, 0.0),
    ("cub", "good_embed"): (220, [120, 170], 5e-4, None, 0.0),
    ("cub", "stl_deepbdc"): (220, [120, 170], 5e-4, 128, 0.5),
}


@pytest.mark.parametrize(("dataset", "method"), PRETRAINING)
def test_pretraining_is_as_published(dataset: str, method: str):
    config = read(ROOT / "recipes" / dataset / f"{method}_pretrain.yaml")
    found = (config.optim.epochs, config.optim.milestones, config.optim.weight_decay)
    assert (*found, config.model.reduce_dim, config.model.dropout) == PRETRAINING[dataset, method]
    assert (config.optim.lr, config.optim.batch_size) == (0.05, 64)
    if "deepbdc" in method:
        assert config.optim.temperature_lr == 1e-3


# dataset, method, shot: epochs, milestones, rate, training episodes an epoch (DeepBDC spec 6.4)
META_TRAINING = {
    **{("mini_imagenet", m, 1): (100, [40, 80], 1e-4, 1000) for m in ("protonet", "meta_deepbdc")},
    **{("mini_imagenet", m, 5): (100, [40, 80], 1e-4, 600) for m in ("protonet", "meta_deepbdc")},
    **{("tiered_imagenet", m, k): (100, [70], 5e-5, 1000) for m in ("protonet", "meta_deepbdc") for k in (1, 5)},
    **{("cub", "protonet", k): (100, [40, 80], 1e-3, 600) for k in (1, 5)},
    **{("cub", "meta_deepbdc", k): (60, [40], 1e-3, 600) for k in (1, 5)},
}


@pytest.mark.parametrize(("dataset", "method", "k_shot"), META_TRAINING)
def test_meta_training_is_as_published(dataset: str, method: str, k_shot: int):
    config = read(ROOT / "recipes" / dataset / f"{method}_{k_shot}shot.yaml")
    optim, episodes = config.optim, config.episodes
    found = (optim.epochs, optim.milestones, optim.lr, episodes.episodes)
    assert found == META_TRAINING[dataset, method, k_shot]
    assert (episodes.n_way, episodes.k_shot, episodes.n_query, optim.weight_decay) == (5, k_shot, 16, 5e-4)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_comparison_fits_the_data_that_it_names(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    config = read(path)
    assert len(config.seeds) == 3 and config.episodes >= 600
    if not (ROOT / ".." / "shared" / "data" / "images").is_dir():
        pytest.skip("the pictures are not at ../shared/data/images")
    assert len(check(config)) == len(config.test)  # opens every data set and builds every sampler


# Those of videos are looked at in test_benchmark_video.py.
GRIDS = sorted(set((ROOT / "recipes" / "benchmark").glob("*.yaml")) - set((ROOT / "recipes/benchmark").glob("video_*")))


def local(config: Benchmark) -> bool:
    """Whether all pictures of a grid are at hand."""
    texts = [text for part in (config.sources, config.targets) for value in part.values()
             for text in ([value] if isinstance(value, str) else value.values())]  # fmt: skip
    return all(text.startswith(("glyphs:", "digits")) or Path(text.partition("?")[0]).exists() for text in texts)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_grid_can_be_planned_and_fits_its_data(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    config = read(path)
    text = opening(path)
    assert ("Not run here" in text) != ("Measured" in text)
    cells = len(config.methods) * len(config.sources) * len(config.targets) * len(config.seeds) * len(config.kinds)
    jobs = plan_jobs(config)
    varied = config.kinds.get("meta_dataset")
    assert sum(len(job.cells) for job in jobs) == cells * (1 if varied else len(config.k_shot))
    if local(config):
        check_grid(config)  # opens every data set and builds every model, head and sampler


def test_the_first_recipe_of_a_grid_is_the_default():
    config = read(ROOT / "recipes" / "benchmark" / "embedded.yaml")
    config.run = Benchmark().run
    assert config == Benchmark()


def test_across_domains_the_grid_has_the_settings_of_the_single_recipes():
    """Where the epoch is chosen by validation, each target has its own trainings; the others have one for all."""
    config = read(ROOT / "recipes" / "benchmark" / "mini_to_cub_aircraft_cars.yaml")
    jobs = {job.name: job for job in plan_jobs(config)}
    trained = {name for name in jobs if "/pretrain_" in name}
    assert len(trained) == 3 * 2 + 2 and len([name for name in jobs if "distill" in name.split("/")[-1]]) >= 2
    singles = ROOT / "recipes" / "cross_domain"
    for method in ("protonet", "good_embed", "meta_deepbdc", "stl_deepbdc"):
        one = read(singles / f"{method}_pretrain.yaml")
        test = next(job for job in jobs.values() if job.cells and job.cells[0]["cell"]["method"] == method
                    and job.cells[0]["cell"]["target"] == "CUB")  # fmt: skip
        job = jobs[test.needs[0]]
        while job.needs:
            job = jobs[job.needs[0]]
        for key in ("epochs", "milestones", "lr", "weight_decay", "schedule"):
            assert job.options["optim"][key] == getattr(one.optim, key)
        assert job.options["select"] == one.select and job.options["data"]["train"] == one.data.train
        assert (job.options["model"]["dropout"], job.options["model"]["reduce_dim"]) == (
            one.model.dropout, one.model.reduce_dim
        )  # fmt: skip


# stage of the Kinetics source: epochs, videos a step, clips of each, rates, warm-up, beta2, layer decay (TAMT spec 11)
SOURCE = {
    "ssl": (400, 1024, 1, 1.5e-4, 1e-5, 40, 0.95, 1.0),
    "supervised": (140, 384, 2, 5e-4, 1e-6, 5, 0.999, 0.75),
}


@pytest.mark.parametrize("stage", SOURCE)
def test_source_training_is_as_published(stage: str):
    config = read(ROOT / "recipes" / "video" / f"kinetics400_{stage}.yaml")
    optim, data = config.optim, config.data
    rates = (optim.lr, optim.final_lr, optim.warmup_epochs, optim.beta2, optim.layer_decay)
    assert (optim.epochs, optim.batch_size, optim.repeats, *rates) == SOURCE[stage]
    assert (config.stage, config.backbone, data.size, data.sampling, data.step) == (
        stage, "video_vit_small", 112, "window", 4,
    )  # fmt: skip
    if stage == "ssl":
        assert (config.mask_ratio, data.augment) == (0.9, "multiscale")
        assert config.decoder == {"decoder_dim": 192, "decoder_depth": 4, "decoder_heads": 3}
    else:
        mixing = (config.mixup, config.cutmix, config.label_smoothing, config.drop_path)
        assert (mixing, data.augment) == ((0.8, 1.0, 0.1, 0.1), "randaug")
