"""The whole study on a tiny data set, going on with it, and what is refused before anything is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backbones import UserError
from classify.probing import read_lines
from classify.robustness import VALIDATION_CORRUPTIONS
from tests.tools import tiny
from tools.classify_config import ClassData, Probe, TestData
from tools.gcp_study import study
from tools.robustness import score
from tools.study_config import VAL, GcpStudy, Pair, Robust, RobustScore, Schedules
from tools.study_parts import gaps
from tools.study_report import schedule_section
from tools.study_training import make_jobs


@pytest.fixture
def config(tmp_path) -> GcpStudy:
    train, val = (tiny.pack(tmp_path / f"{name}.npz", 4, 12, seed=0) for name in ("train", "val"))
    return GcpStudy(
        str(tmp_path / "study"),
        data=ClassData(train, val, 32, augment="pad", in_memory=True),
        network=Pair("conv4", {"width": 8, "pooled_stages": 3, "input_size": 32}, reduction=6),
        schedules=Schedules(names=["LRnorm", "LRfast"], stretch=0.02, batch_size=16, lr=0.1),
        probe=Probe(every=2, count=3),
        robust=Robust(["contrast", "fog"], True, [1, 5], ["brightness", "gaussian_noise"], limit=6, sequences=3),
        machine=tiny.CPU,
    )


def test_the_whole_study_and_going_on(config, capsys):
    found, folder = study(config), Path(config.run)
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(found))
    assert set(found["accuracy"]["GCP"]) == {"LRnorm", "LRfast"} and found["lost"]["LRfast"].keys() == {"GAP", "GCP"}
    assert found["parameters"]["GCP"] > found["parameters"]["GAP"]
    lines = read_lines(folder / "trainings" / "gcp_LRnorm_seed1" / "landscapes.jsonl")
    assert [line["step"] for line in lines] == [0, 2, 3, 5] and found["landscape"]["probes"] == 4
    robust = found["robustness"]["networks"]
    assert robust["GAP"]["own"]["mCE"] == pytest.approx(100) and robust["GAP"]["own"]["mFP"] is not None
    assert set(robust["GCP"]["errors"]) == {"contrast", "fog", *VALIDATION_CORRUPTIONS}
    assert set(robust["GCP"]["given"]["CE"]) == {"contrast", "fog"}  # the validation corruptions do not count
    assert "exact" in found["curvature"]["cosines"]
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png") == 6 and "Fast schedules" in page and "<script" not in page
    assert "| GCP |" in (folder / "report.md").read_text()
    capsys.readouterr()
    again = study(replace(config, resume=True))
    assert capsys.readouterr().out.count(" is done") == 4
    assert {**again, "seconds": 0} == {**found, "seconds": 0}
    baseline = replace(config.robust, baseline=str(folder / "baseline_GAP.json"), sequences=0)
    other = study(replace(config, resume=True, parts=["robustness"], robust=baseline))
    assert other["robustness"]["baseline"] == "GAP here"
    assert other["robustness"]["networks"]["GAP"]["given"]["mCE"] == pytest.approx(100)


def test_jobs_of_published_networks(config):
    jobs = make_jobs(replace(config, network=Pair("mobilenet_v2", reduction=128), schedules=Schedules(seeds=[1, 2])))
    assert len(jobs) == 12 and sum(job.config.probe.every > 0 for job in jobs) == 2
    gap, gcp = jobs[:2]
    assert (gap.config.network.name, gcp.config.network.name) == ("gap_mobilenet_v2", "gcp_mobilenet_v2")
    assert gcp.config.network.options["reduction"] == 128 and gcp.config.network.pool is None
    assert gcp.config.optim.family == "mobilenet" and gcp.config.optim.lr == pytest.approx(0.045 * 32 / 96)
    assert gcp.config.optim.epochs == 80


def test_gaps_are_taken_seed_by_seed():
    found = gaps({"GAP": {"LRnorm": [0.5, 0.7], "LRfast": [0.4, 0.5]}})
    one = found["LRfast"]["GAP"]
    assert (one["mean"], one["spread"]) == pytest.approx((15.0, 50**0.5)) and one["seeds"] == pytest.approx([10, 20])
    assert gaps({"GAP": {"LRnorm": [0.5], "LRfast": [0.4]}})["LRfast"]["GAP"]["spread"] is None


def test_the_report_says_when_a_training_was_too_short(tmp_path):
    def words(fast: float) -> str:
        gcp = {"LRnorm": [0.9, 0.9], "LRfast": [0.85, 0.7]}
        reached = {"GAP": {"LRnorm": [0.8, 0.8], "LRfast": [fast, fast]}, "GCP": gcp}
        lost = gaps(reached)
        section = schedule_section({"LRnorm": [0.1], "LRfast": [0.1]}, reached, lost, {"GAP": 1, "GCP": 2}, tmp_path)
        return " ".join(section.words)

    assert "GCP loses less with 1 of 2 seeds." in words(0.7) and "too short" not in words(0.7)
    assert "GAP reached less than half by LRfast" in words(0.02)


def test_robustness_is_the_mean_over_the_seeds(config):
    found = study(replace(config, parts=["schedules", "robustness"], schedules=replace(config.schedules, seeds=[1, 2])))
    robust = found["robustness"]["networks"]["GCP"]
    weights = {
        f"{seed}": str(Path(config.run) / f"trainings/gcp_LRnorm_seed{seed}/best.safetensors") for seed in (1, 2)
    }
    data = TestData(config.data.val, in_memory=True)
    apart = score(RobustScore(config.run + "_apart", 0, False, weights, None, data, config.robust, config.machine))
    apart = [apart["networks"][seed] for seed in ("1", "2")]
    assert apart[0]["errors"] != apart[1]["errors"]
    for key in ("errors", "flips", "top5"):
        for name, value in robust[key].items():
            assert np.mean([one[key][name] for one in apart], axis=0) == pytest.approx(value)
    assert robust["given"]["mCE"] == pytest.approx(np.mean([one["given"]["mCE"] for one in apart]))
    assert robust["spread"]["given"]["mCE"] == pytest.approx(np.std([one["given"]["mCE"] for one in apart], ddof=1))
    assert " ± " in (Path(config.run) / "report.md").read_text().split("## Robustness")[1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"robust": Robust(["fogg"])}, "did you mean 'fog'"),
        ({"robust": Robust(severities=[6])}, "severities are 1 to 5"),
        ({"robust": Robust(frost="nowhere")}, "is no folder"),
        ({"robust": Robust(baseline="nowhere.json")}, "cannot read the baseline"),
        ({"schedules": Schedules(names=["LRfast", "LRfast"])}, "name each once"),
        ({"schedules": Schedules(stretch=0.0)}, "must be above 0"),
        ({"probe": Probe(every=0)}, "no landscapes"),
        ({"probe": Probe(every=2, low=80.0)}, "are no range"),
        ({"probe": Probe(every=2, where="blocks.9")}, "blocks.9"),
        ({"robust": Robust([])}, "corruptions is an empty list"),
        ({"network": Pair("conv4", {"width": 8}, reduction=0)}, "use at least 1"),
        ({"network": Pair("conv5", {})}, "did you mean 'conv4'"),
        ({"data": ClassData("digits?items=train", "digits?items=test", 16)}, "at least 32 pixels"),
    ],
)
def test_what_is_refused_before_training(config, change, message):
    with pytest.raises(UserError, match=message):
        study(replace(config, **change))
    assert not Path(config.run).exists()


def test_validation_pictures_of_the_default_do_not_go_with_other_training_pictures(config):
    with pytest.raises(UserError, match="needs validation pictures"):
        study(replace(config, data=ClassData("digits", VAL, 32)))
    assert not Path(config.run).exists()
