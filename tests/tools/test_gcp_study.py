"""The whole study on a tiny data set, going on with it, and what is refused before anything is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backbones import UserError
from classify.probing import read_lines
from classify.robustness import VALIDATION_CORRUPTIONS
from tests.tools import tiny
from tools.classify_config import ClassData, Probe
from tools.gcp_study import study
from tools.study_config import GcpStudy, Pair, Robust, Schedules
from tools.study_parts import gaps
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
    assert page.count("data:image/png") == 5 and "Fast schedules" in page and "<script" not in page
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
    assert found["LRfast"]["GAP"] == pytest.approx({"mean": 15.0, "spread": 50**0.5})


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
    ],
)
def test_what_is_refused_before_training(config, change, message):
    with pytest.raises(UserError, match=message):
        study(replace(config, **change))
    assert not Path(config.run).exists()
