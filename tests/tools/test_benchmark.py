"""The grid from beginning to end: what is shared, what is kept, what fails, and what is left after a kill."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from backbones import UserError
from tests.tools import tiny
from tools.benchmark import benchmark
from tools.config import Benchmark
from tools.grid.job import launch
from tools.groups import Episodes, Machine, Optim

ROOT = Path(__file__).resolve().parents[2]


def options(run: Path, packs: dict[str, str], **changes) -> Benchmark:
    """A grid of one source, two targets, three methods and one shot that takes some seconds."""
    return Benchmark(
        str(run),
        **{
            "sources": {"A": {"train": packs["train"], "val": packs["val"]}},
            "targets": {"T": packs["test"], "V": packs["val"]},
            "methods": ["protonet", "simpleshot", "meta_deepbdc"],
            "k_shot": [1],
            "size": 16,
            "augment": "none",
            "backbone_options": tiny.NETWORK,
            "n_query": 5,
            "episodes": 30,
            "pretrain": Optim(epochs=2, batch_size=16, temperature_lr=1e-3),
            "meta": Optim(epochs=2, lr=1e-3),
            "meta_episodes": Episodes(n_query=3, episodes=4),
            "validation": Episodes(n_query=3, episodes=5),
            "machine": tiny.CPU,
            **changes,
        },
    )


def accuracies(run: Path) -> dict[str, np.ndarray]:
    """Accuracies of every episode, by cell."""
    files = sorted((run / "cells").rglob("*.npz"))
    return {file.relative_to(run).as_posix(): np.load(file)["accuracies"] for file in files}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def times(run: Path) -> dict[str, int]:
    """When each result was written."""
    return {path.relative_to(run).as_posix(): path.stat().st_mtime_ns
            for path in run.rglob("*") if path.name == "best.safetensors" or path.suffix == ".npz"}  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory, packs) -> tuple[Path, dict]:
    run = tmp_path_factory.mktemp("grid")
    return run, benchmark(options(run, packs))


def test_every_cell_has_a_record_and_is_in_the_tables(first):
    run, metrics = first
    records = [json.loads(line) for line in (run / "cells.jsonl").read_text().splitlines()]
    assert len(records) == metrics["cells"] == 3 * 2
    assert {(r["method"], r["target"]) for r in records} == {
        (m, t) for m in ("protonet", "simpleshot", "meta_deepbdc") for t in "TV"
    }
    for record in records:
        values = np.load(run / record["episodes_file"])["accuracies"]
        assert record["episodes"] == len(values) == 30
        assert record["accuracy"] == pytest.approx(values.mean())
        assert len(record["weights"]) == 64
    assert json.loads((run / "metrics.json").read_text()) == metrics
    markdown, latex = (run / "table.md").read_text(), (run / "table.tex").read_text()
    row = next(r for r in metrics["rows"] if (r["row"], r["group"]) == ("ProtoNet", "T"))
    assert f"{100 * row['mean']:.2f}" in markdown and f"{100 * row['mean']:.2f}" in latex
    with open(run / "table.csv", newline="") as file:
        assert [(r["source"], r["row"]) for r in csv.DictReader(file)][:2] == [("A", "ProtoNet")] * 2
    assert "ranks need 5 blocks" in markdown and not (run / "ranks.png").exists()
    page = (run / "index.html").read_text()
    assert page.count("data:image/png") == 2 and "SimpleShot" in page
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert facts["tested on T"].endswith("test.npz") and "val.npz" in facts["trained on A"]
    assert facts["command"].startswith("python -m tools.") and facts["a job runs on"] == "CPU, 1 thread"


def test_a_pre_training_serves_all_targets_and_methods_that_pool_alike(first):
    run, _ = first
    assert sorted(path.parent.name for path in run.rglob("best.safetensors")) == [
        "meta_deepbdc_1shot", "pretrain_bdc", "pretrain_gap", "protonet_1shot",
    ]  # fmt: skip


def test_methods_get_the_same_episodes(first):
    run, _ = first
    records = {}
    for line in (run / "cells.jsonl").read_text().splitlines():
        record = json.loads(line)
        file = json.loads((run / record["episodes_file"]).with_suffix(".json").read_text())
        records.setdefault(record["target"], []).append(file["key"]["options"])
    assert all(settings == found[0] for found in records.values() for settings in found)


def test_a_second_run_does_what_is_new_and_nothing_else(tmp_path, packs, capsys):
    config = {"methods": ["protonet", "simpleshot"], "targets": {"T": packs["test"]}}
    before = benchmark(options(tmp_path, packs, **config))
    old = times(tmp_path)
    capsys.readouterr()
    again = benchmark(options(tmp_path, packs, **config))
    assert again["rows"] == before["rows"] and times(tmp_path) == old
    assert capsys.readouterr().out.count("kept") == 4
    more = benchmark(options(tmp_path, packs, methods=["protonet", "simpleshot", "baseline_pp"]))
    assert more["cells"] == 6
    assert {name: when for name, when in times(tmp_path).items() if name in old} == old  # no training, no old cell
    fewer = benchmark(options(tmp_path, packs, methods=["simpleshot"], targets={"T": packs["test"]}))
    assert [row["row"] for row in fewer["rows"]] == ["SimpleShot"]
    benchmark(options(tmp_path, packs, **config, episodes=20))
    new = times(tmp_path)
    assert {name for name in old if new[name] != old[name]} == {name for name in old if name.startswith("cells")}
    assert {len(a) for n, a in accuracies(tmp_path).items() if "/T/" in n and "baseline" not in n} == {20}


def test_other_options_of_a_training_repeat_it_and_what_starts_from_it(tmp_path, packs):
    benchmark(options(tmp_path, packs, methods=["protonet", "meta_deepbdc"], targets={"T": packs["test"]}))
    old = times(tmp_path)
    special = {"meta_deepbdc": {"pretrain": {"lr": 0.01}}}
    config = {"methods": ["protonet", "meta_deepbdc"], "targets": {"T": packs["test"]}, "per_method": special}
    benchmark(options(tmp_path, packs, **config))
    new = times(tmp_path)
    assert {name for name in old if new[name] != old[name]} == {
        name for name in old if "meta_deepbdc" in name or "pretrain_bdc" in name
    }


def test_methods_with_options_of_their_own_have_pre_trainings_of_their_own(tmp_path, packs):
    config = options(tmp_path, packs, methods=["meta_deepbdc", "stl_deepbdc"], targets={"T": packs["test"]})
    config.per_method = {"stl_deepbdc": {"reduce_dim": 4, "generations": 1}}
    assert benchmark(config)["failed"] == []
    folders = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("best.safetensors")}
    place = "train/A/seed1"
    assert folders == {f"{place}/{name}" for name in
                       ("pretrain_bdc", "pretrain_bdc_2", "meta_deepbdc_1shot", "distill_bdc/born1")}  # fmt: skip


def test_a_target_with_validation_pictures_chooses_its_own_epoch(tmp_path, packs):
    targets = {"T": packs["test"], "W": {"test": packs["test"], "val": packs["val"]}}
    config = options(tmp_path, packs, sources={"A": packs["train"]}, targets=targets, methods=["simpleshot"])
    benchmark(config)
    logs = {path.parts[-4]: path.read_text() for path in tmp_path.rglob("log.jsonl")}
    assert logs.keys() == {"A", "A@W"}
    assert "val_accuracy" in logs["A@W"] and "val_accuracy" not in logs["A"]


def test_a_kind_with_unknown_classes_and_one_with_shots_of_its_own(tmp_path, packs):
    kinds = {"standard": {}, "open": {"unknown_ways": 1}, "varied": {"sizes": "imbalanced", "shots": [1, 3]}}
    config = options(tmp_path, packs, kinds=kinds, k_shot=[1, 2], methods=["simpleshot"], targets={"T": packs["test"]})
    metrics = benchmark(config)
    columns = [row["column"] for row in metrics["rows"] if row["measure"] == "accuracy"]
    assert columns == ["standard, 1-shot", "standard, 2-shot", "open, 1-shot", "open, 2-shot", "varied, varied shots"]
    assert [row["column"] for row in metrics["rows"] if row["measure"] == "auroc"] == columns[2:4]
    assert "AUROC" in (tmp_path / "table.md").read_text() and "AUROC" in (tmp_path / "table.tex").read_text()
    assert "AUROC of unknown queries in percent, mean" in (tmp_path / "index.html").read_text()


def test_methods_of_every_sort_have_their_place(tmp_path, packs):
    """Heads on maps, on images, on all queries, on unlabelled pictures, and centred on the source."""
    methods = ["simpleshot", "covnet", "tim", "semi_soft_kmeans", "maml"]
    config = options(
        tmp_path, packs, methods=methods, targets={"T": packs["test"]}, kinds={"semi": {"unlabelled": 2}}, episodes=6,
        head={"simpleshot": {"variant": "CL2N"}}, n_query=3, pretrain=Optim(epochs=1), meta=Optim(epochs=1, lr=1e-3),
        meta_episodes=Episodes(n_query=2, episodes=2), validation=Episodes(n_query=2, episodes=2),
    )  # fmt: skip
    metrics = benchmark(config)
    assert metrics["failed"] == [] and metrics["cells"] == len(methods)
    table = (tmp_path / "table.md").read_text()
    assert "- SimpleShot: features centred on the mean of the base classes" in table
    assert "- unlabelled pictures: used by Soft k-means (semi-supervised)" in table and "- transductive:" in table


def test_another_benchmark_can_take_the_very_same_episodes(tmp_path, packs):
    kinds = {"standard": {}, "open": {"unknown_ways": 1}}
    config = options(tmp_path / "a", packs, kinds=kinds, methods=["simpleshot"], targets={"T": packs["test"]})
    config.write_episodes = True
    benchmark(config)
    folder = tmp_path / "a" / "episodes" / "T"
    assert sorted(path.name for path in folder.iterdir()) == [
        "open_1shot_seed1.jsonl.gz",
        "standard_1shot_seed1.jsonl.gz",
    ]
    target = {"T": {"test": packs["test"], "episodes": str(folder)}}
    benchmark(
        options(tmp_path / "b", packs, kinds=kinds, methods=["simpleshot"], targets=target, n_query=2, episodes=7)
    )
    assert same(accuracies(tmp_path / "a"), accuracies(tmp_path / "b"))
    with pytest.raises(UserError, match="targets.T, kind standard: .*seed2"):
        benchmark(options(tmp_path / "c", packs, methods=["simpleshot"], targets=target, seeds=[2]))


def broken_folder(root: Path) -> Path:
    """A folder whose last picture starts and ends like a whole one and is none."""
    tiny.folder(root, classes=6, items=8)
    victim = sorted(root.rglob("*.png"))[-1]
    content = victim.read_bytes()
    victim.write_bytes(content[:40] + bytes(len(content) - 60) + content[-20:])
    return victim


def test_a_broken_picture_fails_its_cells_and_the_next_run_tries_only_these(tmp_path, packs, capsys):
    run, pictures = tmp_path / "run", tmp_path / "pictures"
    victim = broken_folder(pictures)
    config = {"targets": {"T": packs["test"], "B": str(pictures)}, "methods": ["simpleshot", "meta_deepbdc"]}
    metrics = benchmark(options(run, packs, n_query=3, **config))
    assert metrics["cells"] == 2 and len(metrics["failed"]) == 2
    assert all("/B/" in entry["cell"] and victim.name in entry["reason"] for entry in metrics["failed"])
    table = (run / "table.md").read_text()
    assert "failed [1]" in table and f"- [1]: {metrics['failed'][0]['reason']}" in table
    assert "failed [1]" in (run / "table.tex").read_text() and "failed [1]" in (run / "index.html").read_text()
    old = times(run)
    without = benchmark(options(run, packs, n_query=3, **config, skip_broken=True))
    assert without["failed"] == [] and without["cells"] == 4
    assert {name: when for name, when in times(run).items() if name in old} == old  # no training anew
    Image.new("RGB", (20, 20)).save(victim)
    capsys.readouterr()
    again = benchmark(options(run, packs, n_query=3, **config))
    assert again["failed"] == [] and again["cells"] == 4
    assert {name: when for name, when in times(run).items() if name in old} == old
    assert capsys.readouterr().out.count("1 of 1 cell") == 2


def test_a_file_that_is_cut_off_is_refused_unless_broken_ones_are_left_out(tmp_path, packs, capsys):
    victim = broken_folder(tmp_path / "pictures")
    victim.write_bytes(victim.read_bytes()[:40])
    config = options(tmp_path / "run", packs, targets={"B": str(tmp_path / "pictures")}, n_query=3, dry_run=True)
    with pytest.raises(UserError, match="1 of 48 images cannot be read .*leave them out with --skip-broken"):
        benchmark(config)
    config.skip_broken = True
    with pytest.warns(UserWarning, match="1 of 48 images cannot be read and are left out"):
        assert benchmark(config)["cells"] == 3


def test_a_training_that_diverges_takes_with_it_what_starts_from_it_and_no_more(tmp_path, packs):
    special = {"meta_deepbdc": {"meta": {"lr": 1e30}}, "stl_deepbdc": {}}
    config = options(tmp_path, packs, methods=["protonet", "stl_deepbdc", "meta_deepbdc"], per_method=special)
    metrics = benchmark(config)
    assert {entry["cell"].split("/")[-1] for entry in metrics["failed"]} == {"meta_deepbdc_1shot_seed1"}
    assert all("finite" in entry["reason"] or "nan" in entry["reason"] for entry in metrics["failed"])
    assert not any("--" in entry["reason"] for entry in metrics["failed"])  # no option that this script lacks
    assert metrics["cells"] == 4


def program(config: Benchmark, folder: Path, before: str = "") -> subprocess.CompletedProcess:
    """Run the script in a process of its own, after some lines of Python."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(asdict(config)))
    code = f"{before}\nimport sys\nsys.argv = ['benchmark', '--config', {str(recipe)!r}]\n"
    code += "import tools.benchmark\ntools.benchmark.main()\n"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("file", "count"), [("last.ckpt", 2), ("simpleshot_1shot_seed1.json", 2)])
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(first, tmp_path, packs, file, count):
    run, marker = tmp_path / "run", tmp_path / "killed"
    config = options(run, packs)
    before = "from pathlib import Path; from tests.tools.killing import die_at\n"
    before += f"die_at({file!r}, {count}, Path({str(marker)!r}))"
    assert program(config, tmp_path, before).returncode == -9
    assert marker.exists() and not (run / "table.md").exists()
    benchmark(config)
    assert same(accuracies(run), accuracies(first[0]))


def test_the_script_ends_with_1_when_a_cell_failed(tmp_path, packs):
    pictures = tmp_path / "pictures"
    broken_folder(pictures)
    config = options(tmp_path / "run", packs, targets={"B": str(pictures)}, methods=["simpleshot"], n_query=3)
    done = program(config, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "1 of 1 cell failed" in done.stdout and "Traceback" not in done.stderr


def test_results_that_were_cut_off_on_disk_are_made_again(tmp_path, packs):
    config = options(tmp_path, packs, methods=["simpleshot", "protonet"])
    before, good = benchmark(config), accuracies(tmp_path)
    arrays, (record, empty, *_) = sorted(tmp_path.rglob("*.npz")), sorted((tmp_path / "cells").rglob("*.json"))
    arrays[-1].write_bytes(arrays[-1].read_bytes()[:100])
    record.write_text(record.read_text()[:50])
    empty.write_text("{}")
    (tmp_path / "train/A/seed1/protonet_1shot/done.json").write_text("")
    again = benchmark(config)
    assert again["failed"] == [] and again["cells"] == before["cells"] == len(good)
    assert same(accuracies(tmp_path), good)


def test_training_on_two_processes(first, tmp_path, packs):
    config = options(
        tmp_path, packs, methods=["simpleshot", "protonet"], targets={"T": packs["test"]}, episodes_per_step=2
    )
    config.machine = Machine(accelerator="cpu", devices=2, threads=1)
    metrics = benchmark(config)
    assert metrics["failed"] == []
    place = "train/A/seed1/pretrain_gap"
    assert json.loads((tmp_path / place / "spec.json").read_text())["options"]["machine"]["devices"] == 2
    two, one = (json.loads((run / place / "metrics.json").read_text()) for run in (tmp_path, first[0]))
    assert two["steps"] == one["steps"]  # the global batch stays; batch statistics are those of half of it
    assert two["kept"]["loss"] == pytest.approx(one["kept"]["loss"], rel=0.05)


def test_what_a_training_program_refuses_is_one_sentence(tmp_path, packs):
    wrong = tiny.pretrain_options(tmp_path / "run", packs["train"])
    wrong.machine, wrong.optim.lr = Machine(devices=2), -1.0
    with pytest.raises(UserError, match=r"^optim.lr must be above 0, not -1.0$"):
        launch("pretrain", wrong, tmp_path)


def test_a_dry_run_writes_nothing(tmp_path, packs, capsys):
    benchmark(options(tmp_path / "run", packs, dry_run=True))
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out.count("to do") == 4 + 2 * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["protonett"]}, "did you mean 'protonet'"),
        ({"machine": Machine(accelerator="cpu", devices=2)}, "episodes_per_step of protonet is 1, but 2 devices share"),
        ({"per_method": {"protonet": {"episodes_per_step": 0}}}, "episodes_per_step must be at least 1"),
        ({"head": {"protonett": {}}}, "did you mean 'protonet'"),
        ({"head": {"protonet": {"C": 1}}}, "head of 'protonet' does not take these options"),
        ({"targets": {"T": "no/such/folder"}}, "no file, folder or source"),
        ({"targets": {}}, "targets is empty: name at least one"),
        ({"targets": {"T": {"text": "digits"}}}, "targets.T must be the text of a data set, or {test: ...}"),
        ({"sources": {"A": {"train": "digits", "vall": "digits"}}}, "sources.A has the option 'vall'; did you mean"),
        ({"n_way": 7}, "7-way.*there are 6"),
        ({"kinds": {"open": {"unknown_way": 1}}}, "kinds.open has the option 'unknown_way'; did you mean"),
        ({"kinds": {"open": {"unknown_ways": "some"}}}, "kinds.open.unknown_ways must be a whole number, not some"),
        ({"kinds": {"open": {"unknown_ways": 3}}}, "there are 6"),
        ({"per_method": {"protonet": {"meta": {"epoch": 3}}}}, "per_method.protonet.meta has the option 'epoch'"),
        ({"per_method": {"protonet": {"meta": {"epochs": 0}}}}, "epochs must be at least 1"),
        ({"per_method": {"protonet": {"select": "worst"}}}, "per_method.protonet.select must be one of best, last"),
        ({"reference": "tim"}, "reference 'tim' is not compared"),
        ({"backbone": "conv5"}, "did you mean 'conv4'"),
        ({"address": "127.0.0.1:6379"}, "address 127.0.0.1:6379 is an option of Ray: add --engine ray"),
        ({"gpus_per_job": 0.5}, "gpus_per_job 0.5 is an option of Ray: add --engine ray"),
        ({"cpus_per_job": 0}, "cpus_per_job must be at least 1"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_before_training(tmp_path, packs, changes, message):
    with pytest.raises(UserError, match=message):
        benchmark(options(tmp_path / "run", packs, **changes))
    assert not (tmp_path / "run").exists()


def test_names_that_share_a_folder_and_a_second_process_are_refused(tmp_path, packs):
    import filelock

    with pytest.raises(UserError, match="would share a folder"):
        benchmark(options(tmp_path, packs, targets={"a b": packs["test"], "a_b": packs["test"]}))
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another benchmark is running"):
        benchmark(options(tmp_path, packs))
