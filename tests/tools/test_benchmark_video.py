"""A grid of videos from beginning to end: one source, tuned once to every target; what is kept, refused and told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from backbones import UserError
from tests.conftest import SHARED
from tests.tools import tiny
from tests.tools.test_benchmark import accuracies, program, same, times
from tools.benchmark import benchmark
from tools.cli import parse
from tools.config import Benchmark
from tools.grid.methods import title_of, tuned_part
from tools.grid.plan import plan_jobs, typed
from tools.grid.video_grid import place, sources_of, targets_of
from tools.groups import Kind
from tools.video_groups import VideoGrid

ROOT = Path(__file__).resolve().parents[2]
FILMS = "items=6&size=16"
SMALL = {"optim": {"epochs": 1, "batch_size": 54}, "data": {"augment": "none", "sampling": "segments"}}
GRID = {
    "backbone_options": {"dim": 24, "depth": 3, "heads": 3, "patch_size": 8},
    "size": 16,
    "frames": 8,
    "store": 18,
    "pretrain": {
        "ssl": {**SMALL, "decoder": {"decoder_dim": 12, "decoder_depth": 1, "decoder_heads": 2}},
        "supervised": SMALL,
    },
    "tune": {
        "optim": {"epochs": 2, "lr": 1e-3},
        "episodes": {"n_query": 2, "episodes": 2},
        "validation": {"n_query": 2, "episodes": 2},
        "data": {"augment": "none"},
    },
}


def options(run: Path, video: dict | None = None, **changes) -> Benchmark:
    """A grid of one source and two targets, of which one has no validation, that takes some seconds."""
    return Benchmark(
        str(run),
        media="videos",
        video=VideoGrid(**{**GRID, **(video or {})}),
        **{
            "sources": {"Digits": f"motions:digits?split=train&{FILMS}"},
            "targets": {
                "Greek": f"motions:greek?{FILMS}",
                "Night": {
                    "base": f"motions:night?split=train&{FILMS}",
                    "test": f"motions:night?split=test&{FILMS}",
                    "n_way": 3,
                    "n_query": 3,
                },
            },
            "methods": ["tamt", "protonet", "good_embed", "protonet+all"],
            "k_shot": [1],
            "n_query": 4,
            "episodes": 12,
            "per_method": {"tamt": {"model": {"options": {"head": {"groups": 2}}}}},
            "machine": tiny.CPU,
            **changes,
        },
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, dict]:
    run = tmp_path_factory.mktemp("grid")
    return run, benchmark(options(run))


def test_one_source_serves_all_targets_and_every_cell_has_a_record(first):
    run, metrics = first
    assert metrics["failed"] == [] and metrics["cells"] == 2 * 4
    weights = sorted(path.parent.relative_to(run).as_posix() for path in run.rglob("best.safetensors"))
    folders = [f"tune/Digits/{target}/seed1" for target in ("Greek", "Night")]
    tuned = [f"{folder}/{method}_1shot" for folder in folders for method in ("protonet+all", "tamt")]
    assert weights == ["source/Digits/ssl", "source/Digits/supervised", *tuned]
    logs = {
        target: (run / f"tune/Digits/{target}/seed1/tamt_1shot/log.jsonl").read_text() for target in ("Greek", "Night")
    }
    assert "val_accuracy" in logs["Greek"] and "val_accuracy" not in logs["Night"]
    records = [json.loads(line) for line in (run / "cells.jsonl").read_text().splitlines()]
    by_method = {(record["method"], record["target"]): record for record in records}
    assert by_method["protonet", "Greek"]["weights"] == by_method["good_embed", "Night"]["weights"]
    assert by_method["tamt", "Greek"]["weights"] != by_method["tamt", "Night"]["weights"]


def test_methods_get_the_same_episodes_and_targets_their_own_way(first):
    run, _ = first
    found = accuracies(run)
    assert {len(values) for values in found.values()} == {12}
    for name, values in found.items():
        queries = 9 if "/Night/" in name else 20
        assert np.allclose(values * queries, np.round(values * queries))
    table = (run / "table.md").read_text()
    assert "- Night: 3-way, queries of a class: 3" in table
    assert "- the source's network as it is: ProtoNet, Good-Embed" in table


def test_costs_say_what_is_trained_and_how_long(first):
    run, metrics = first
    costs = {row["title"]: row for row in metrics["costs"]}
    assert costs["TAMT"]["trainings"] == costs["ProtoNet, fine-tuned"]["trainings"] == 2
    assert costs["ProtoNet"]["trained"] == 0
    assert 0 < costs["TAMT"]["trained"] < costs["TAMT"]["total"]
    assert costs["ProtoNet, fine-tuned"]["trained"] == costs["ProtoNet, fine-tuned"]["total"]
    assert costs["supervised pre-training, Digits"]["total"] > 20_000
    table = (run / "table.md").read_text()
    assert f"| TAMT | adapters tuned | {costs['TAMT']['trained']:,} |" in table
    page = (run / "index.html").read_text()
    assert "cost, TAMT" in page and "video_vit_small, 8 frames (segments), 16 px, center view" in page


def test_a_second_run_keeps_everything_and_another_target_asks_for_no_new_source(first, capsys):
    run, before = first
    old = times(run)
    targets = {**options(run).targets, "Latin": f"motions:latin?{FILMS}"}
    capsys.readouterr()
    more = benchmark(options(run, targets=targets))
    assert more["cells"] == before["cells"] + 4 and more["failed"] == []
    new = times(run)
    assert {name for name in new if name not in old} and all(new[name] == old[name] for name in old)
    assert {name for name in new if name not in old and name.startswith("source/")} == set()


def test_a_ready_checkpoint_is_a_source_and_gives_the_same_results(first, tmp_path):
    run, _ = first
    ready = {"Digits": {"checkpoint": str(run / "source/Digits/supervised/best.safetensors")}}
    metrics = benchmark(options(tmp_path, sources=ready, methods=["protonet", "tamt"]))
    assert metrics["failed"] == [] and not (tmp_path / "source").exists()
    found = accuracies(tmp_path)
    assert same(found, {name: values for name, values in accuracies(run).items() if name in found}) and len(found) == 4


def test_a_run_killed_while_it_tunes_goes_on_and_ends_as_if_nothing_had_happened(first, tmp_path):
    run, marker = tmp_path / "run", tmp_path / "killed"
    ready = {"Digits": {"checkpoint": str(first[0] / "source/Digits/supervised/best.safetensors")}}
    targets = {"Night": options(run).targets["Night"]}
    config = options(run, sources=ready, targets=targets, methods=["tamt", "protonet"])
    before = "from pathlib import Path; from tests.tools.killing import die_at\n"
    before += f"die_at('last.ckpt', 1, Path({str(marker)!r}))"
    assert program(config, tmp_path, before).returncode == -9
    assert marker.exists() and not (run / "table.md").exists()
    benchmark(config)
    found = accuracies(run)
    assert same(found, {name: values for name, values in accuracies(first[0]).items() if name in found})


def test_seeds_share_a_source_unless_each_is_to_have_its_own(tmp_path):
    shared = plan_jobs(options(tmp_path, seeds=[1, 2]))
    own = plan_jobs(options(tmp_path, video={"source_seed": None}, seeds=[1, 2]))
    assert [sum(job.kind == "video_pretrain" for job in jobs) for jobs in (shared, own)] == [2, 4]
    assert [sum(job.kind == "video_tune" for job in jobs) for jobs in (shared, own)] == [8, 8]
    frozen = [job for job in shared if job.cells and job.cells[0]["cell"]["method"] == "protonet"]
    assert [len(job.cells) for job in frozen] == [4, 4]  # ProtoNet and Good-Embed, two seeds: features once a target


def test_options_of_a_method_win_over_those_of_a_target_and_these_over_the_grid(tmp_path):
    config = options(tmp_path, per_method={"protonet+all": {"optim": {"lr": 3e-5}}})
    config.targets["Night"]["tune"] = {"optim": {"lr": "1e-6", "epochs": 7}}
    found = {(job.name.split("/")[2], job.options["model"]["method"], job.options["tune"]): job.options["optim"]
             for job in plan_jobs(config) if job.kind == "video_tune"}  # fmt: skip
    rates = {key[:2]: (optim["lr"], optim["epochs"]) for key, optim in found.items()}
    assert rates == {
        ("Greek", "tamt"): (1e-3, 2), ("Night", "tamt"): (1e-6, 7),
        ("Greek", "protonet"): (3e-5, 2), ("Night", "protonet"): (3e-5, 7),
    }  # fmt: skip


def test_options_are_read_once_and_belong_to_nobody():
    first = typed(Kind, {"shots": [1, 3], "unlabelled": 1}, "kinds.a")
    first.shots.append(9)
    assert typed(Kind, {"shots": [1, 3], "unlabelled": 1}, "kinds.b").shots == [1, 3]
    with pytest.raises(UserError, match="kinds.c.unlabelled must be .*, not True"):  # equal to 1, and hashed alike
        typed(Kind, {"unlabelled": True}, "kinds.c")


def test_what_is_tuned_follows_from_the_method_or_its_name():
    parts = ("tamt", "protonet", "otam", "trx", "meta_deepbdc", "stl_deepbdc", "tamt+all", "protonet+head", "tamt+head")
    assert [tuned_part(name) for name in parts] == [
        "adapters", "frozen", "frozen", "head", "head", "frozen", "all", "head", "head",
    ]  # fmt: skip
    assert title_of("tamt+all") == "TAMT, fine-tuned" and title_of("tamt") == "TAMT"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["protonet", "tamtt"]}, "did you mean 'tamt'"),
        ({"methods": ["maml"]}, "adapts the whole network"),
        ({"methods": ["tamt+some"]}, r"may be followed by \+frozen, \+head, \+adapters, \+all"),
        ({"methods": ["protonet+adapters"]}, "only TAMT has adapters"),
        ({"methods": ["good_embed+all"]}, "does not learn on episodes"),
        ({"methods": ["trx+frozen"]}, "would score by random weights"),
        ({"per_method": {"tamt": {"model": {"options": {"head": {"groups": 3}}}}}}, "methods, tamt: .*groups"),
        ({"reference": "tamt+all"}, "'tamt\\+all' is not compared"),
        ({"head": {"protonet": {"C": 1}}}, "head of 'protonet' does not take these options"),
        ({"size": 16}, "size is an option of a benchmark of pictures: videos have video.size"),
        ({"backbone": "resnet12"}, "backbone is an option of a benchmark of pictures: videos have video.backbone"),
        ({"sources": {"A": {"val": "motions:digits"}}}, "sources.A has neither train"),
        ({"sources": {"A": {"checkpoint": "no/such.pt"}}}, "sources.A.checkpoint 'no/such.pt' does not exist"),
        ({"sources": {"A": {"train": "motions:digits", "wihtout": []}}}, "'wihtout'; did you mean 'without'"),
        ({"sources": {"A": {"train": "motions:digits", "without": ["Gree"]}}}, "did you mean 'Greek'"),
        (
            {"sources": {"A": {"train": "motions:digits", "pretrain": {"sll": {}}}}},
            "no stage 'sll'; did you mean 'ssl'",
        ),
        ({"targets": {"T": {"base": "motions:greek"}}}, "targets.T has no test"),
        ({"targets": {"T": {"test": "motions:greek", "n_way": 1}}}, "targets.T.n_way must be a whole number from 2"),
        ({"targets": {"T": f"motions:greek?split=test&{FILMS}"}}, "targets.T, .*: it has no base"),
        ({"targets": {"T": f"motions:greek?{FILMS}"}, "n_query": 9}, "targets.T, kind standard: .*need 10"),
        ({"targets": {"T": f"{{splits}}/hmdb51?{FILMS}"}}, "targets.T.base is .*with --splits FOLDER"),
        ({"video": {"tune": {"optim": {"lrr": 1}}}}, r"video.tune.optim has the option 'lrr'; did you mean 'lr'"),
        ({"video": {"tune": {"optim": {"lr": "fast"}}}}, "video.tune.optim.lr must be a number, not fast"),
        ({"video": {"tune": {"optim": {"lr": 0}}}}, "optim.lr must be above 0"),
        ({"video": {"tune": {"seed": 3}}}, "video.tune.seed is set by the grid"),
        ({"video": {"tune": {"episodes": {"k_shot": 3}}}}, "video.tune.episodes.k_shot is set by the grid"),
        ({"video": {"store": 17}}, "video.store is 17, below the 18 pixels"),
        ({"video": {"size": 12, "store": None}}, "can't be cut into tubelets of 8"),
        ({"kinds": {"open": {"unknown_way": 1}}}, "kinds.open has the option 'unknown_way'; did you mean"),
    ],
)
def test_bad_options_are_refused_before_training(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        benchmark(options(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_options_of_videos_are_refused_for_pictures(tmp_path):
    with pytest.raises(UserError, match="video.size is of a benchmark of videos: add --media videos"):
        benchmark(Benchmark(str(tmp_path / "run"), video=VideoGrid(size=16)))


def test_folders_stand_for_their_names_in_the_texts_of_data_sets():
    grid = VideoGrid(splits="/lists/", videos="/videos", roots={"ssv2": "/disk2/20bn"})
    text = "{splits}/hmdb51?split=train&root={videos}/"
    assert place(text + "hmdb51", grid, "x") == "/lists/hmdb51?split=train&root=/videos/hmdb51"
    assert place(text + "ssv2&suffix=.webm", grid, "x").endswith("root=/disk2/20bn&suffix=.webm")
    with pytest.raises(UserError, match="x has {split}: there are"):
        place("{split}/hmdb51", grid, "x")
    with pytest.raises(UserError, match="say where the videos lie"):
        place(text + "hmdb51", VideoGrid(splits="/lists"), "x")


def recipe(name: str, *more: str) -> Benchmark:
    return parse(Benchmark, "benchmark", ["--config", str(ROOT / f"recipes/benchmark/{name}.yaml"), *more])


# Target: base, val and novel classes and videos of the published lists; rate, epochs, episodes, queries of its scripts.
PUBLISHED = {
    "HMDB51": (((31, 4280), (10, 1194), (10, 1292)), (1e-3, 30, 600, 300, 12)),
    "SSv2": (((64, 67013), (12, 1926), (24, 2857)), (5e-4, 30, 600, 300, 12)),
    "Diving48": (((36, 13478), (6, 1632), (6, 2929)), (1e-3, 25, 300, 150, 12)),
    "UCF101": (((70, 9154), (10, 1421), (21, 2745)), (1e-3, 25, 300, 150, 12)),
    "RareAct": (((48, 3897), (8, 638), (8, 608)), (1e-6, 40, 600, 500, 1)),
}


def test_the_grid_across_domains_has_the_published_settings(tmp_path):
    config = recipe("video_cross_domain", "--splits", "/lists", "--videos", "/videos")
    assert set(config.targets) == set(PUBLISHED) and config.episodes == 10_000 and config.k_shot == [1, 5]
    jobs = plan_jobs(config)
    assert sum(job.kind == "video_pretrain" for job in jobs) == 4 * 2  # K-400 is a checkpoint
    pairs = {(job.cells[0]["cell"]["source"], job.cells[0]["cell"]["target"]) for job in jobs if job.cells}
    assert len(pairs) == 5 * 5 - 4 and ("UCF101", "SSv2") not in pairs
    for job in jobs:
        if job.kind != "video_tune" or job.options["tune"] == "all":
            continue
        optim, episodes = job.options["optim"], job.options["episodes"]
        found = (optim["lr"], optim["epochs"], episodes["episodes"], job.options["validation"]["episodes"])
        assert (*found, episodes["n_query"]) == PUBLISHED[job.name.split("/")[2]][1]
        assert (optim["name"], optim["t_max"], optim["eta_min"], optim["weight_decay"]) == ("adam", 80, 1e-7, 5e-4)


def test_the_grid_across_domains_fits_the_published_lists():
    lists = SHARED / "data" / "splits" / "video"
    if not lists.is_dir():
        pytest.skip(f"no lists at {lists} (set COVEY_SHARED to their parent folder)")
    from video.clips_open import find_lists
    from video.clips_open import parse as parse_text

    config = recipe("video_cross_domain", "--splits", str(lists), "--videos", "/videos")
    for name, target in targets_of(config).items():
        for text, (classes, videos) in zip((target.base, target.val, target.test), PUBLISHED[name][0], strict=True):
            source, chosen = parse_text(text)
            (found,) = find_lists(Path(source), source, [chosen["split"]], chosen)
            assert (len(found.order), len(found.names)) == (classes, videos)
            smallest = min(found.classes.count(one) for one in found.order)
            assert smallest >= max(config.k_shot) + target.n_query


def test_a_list_of_a_target_opens_where_its_videos_lie(tmp_path):
    lists = SHARED / "data" / "splits" / "video"
    if not lists.is_dir():
        pytest.skip(f"no lists at {lists} (set COVEY_SHARED to their parent folder)")
    from video.clips_open import open_clips

    for name in json.loads((lists / "rareact" / "novel.json").read_text())["image_names"]:
        (tmp_path / Path(name).name).touch()
    config = recipe(
        "video_cross_domain", "--splits", str(lists), "--video.roots", f"{{rareact: {tmp_path}}}", "--videos", "/v"
    )
    dataset = open_clips(targets_of(config)["RareAct"].test)
    assert len(dataset) == 608 and dataset.names[0].startswith(str(tmp_path))


@pytest.mark.parametrize("name", ["video_embedded", "video_real"])
def test_a_recipe_that_needs_no_download_can_be_planned(name: str, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = recipe(name)
    jobs = plan_jobs(config)
    cells = len(config.methods) * len(config.sources) * len(config.targets) * len(config.seeds) * len(config.k_shot)
    assert sum(len(job.cells) for job in jobs) == cells
    stages = [stage for source in sources_of(config).values() for stage in source.pretrain]  # none for ready weights
    assert len(stages) == {"video_embedded": 1, "video_real": 0}[name]
    assert sum(job.kind == "video_pretrain" for job in jobs) == len(stages)
    assert all(job.options["data"]["augment"] == "none" for job in jobs if job.kind == "video_tune")


def test_the_recipe_on_real_footage_fits_its_data(monkeypatch):
    monkeypatch.chdir(ROOT)
    if not (ROOT / ".." / "shared" / "data" / "video").is_dir():
        pytest.skip("the videos are not at ../shared/data/video")
    config = recipe("video_real")
    config.sources = dict.fromkeys(config.sources, f"motions:digits?{FILMS}")  # the source's films take minutes
    config.dry_run = True
    assert benchmark(config)["cells"] > 0
    assert re.search("ucf_clips", (ROOT / "recipes/benchmark/video_real.yaml").read_text())
