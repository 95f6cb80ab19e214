"""tools.classify compare: trainings, rates from validation pictures, the report, going on, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from backbones import UserError, create_backbone, save_weights
from tests.tools import tiny
from tools.classify import compare, main, networks
from tools.classify_compare_config import ClassifyCompare, ClassifyNetworks
from tools.classify_compare_jobs import check_entries, make_entries
from tools.classify_config import ClassData, ClassOptim, Network
from tools.cli import parse

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "compare"

NETWORKS = {
    "GAP": {"network": {"pool": "gap"}},
    "iSQRT, 6": {"network": {"pool": "isqrt", "reduction": 6}, "rates": [0.02, 0.1]},
    "BDC": {"network": {"pool": "bdc"}, "against": "iSQRT, 6", "optim": {"epochs": 1}},
}


@pytest.fixture
def config(tmp_path) -> ClassifyCompare:
    train, val, test = (tiny.pack(tmp_path / f"{name}.npz", 4, 12) for name in ("train", "val", "test"))
    return ClassifyCompare(
        str(tmp_path / "compare"),
        networks=NETWORKS,
        seeds=[1, 2],
        test=test,
        timed_steps=1,
        data=ClassData(train, val, 16, augment="none", in_memory=True),
        network=Network("conv4", options=tiny.NETWORK),
        optim=ClassOptim(3, 16, lr=0.05, schedule="cosine"),
        machine=tiny.CPU,
    )


def test_the_whole_comparison_and_going_on(config, capsys):
    found, folder = compare(config), Path(config.run)
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(found))
    networks, trainings = found["networks"], folder / "trainings"
    assert list(networks) == list(NETWORKS) and found["pictures"] == 48
    assert networks["BDC"]["ahead"]["of"] == "iSQRT, 6" and networks["iSQRT, 6"]["ahead"]["of"] == "GAP"
    assert networks["iSQRT, 6"]["parameters"] > 0 and networks["GAP"]["step_seconds"] > 0
    tried = networks["iSQRT, 6"]["tried"]
    best = max(tried, key=tried.get)
    assert networks["iSQRT, 6"]["rate"] == float(best)
    names = {path.name for path in trainings.iterdir()}
    assert names == {
        *(f"{name}_seed{seed}" for name in ("gap", "bdc", f"isqrt_6_lr{best}") for seed in (1, 2)),
        *(f"isqrt_6_lr{rate}_seed1" for rate in tried),
    }
    with open(trainings / "gap_seed2" / "answers.csv", newline="") as file:
        right = [int(row["right"]) for row in csv.DictReader(file)]
    assert sum(right) / 48 == pytest.approx(networks["GAP"]["by_seed"][1])
    assert "epochs: 1\n" in (trainings / "bdc_seed1" / "config.yaml").read_text()
    page, report = (folder / "index.html").read_text(), (folder / "report.md").read_text()
    assert page.count("data:image/png") == 1 and "<script" not in page
    assert "| iSQRT, 6 − GAP |" in report and "| BDC − iSQRT, 6 |" in report
    capsys.readouterr()
    again = compare(replace(config, resume=True, timed_steps=0))
    assert capsys.readouterr().out.count("is trained already") == len(names)
    assert {name: one["by_seed"] for name, one in again["networks"].items()} == {
        name: one["by_seed"] for name, one in networks.items()
    }
    with pytest.raises(UserError, match="optim.lr was 0.05 and is now 0.5"):
        compare(replace(config, resume=True, optim=replace(config.optim, lr=0.5)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"networks": {"GAP": {}}}, "needs two networks"),
        ({"networks": {"A b": {}, "a.b": {}, "a-b": {}, "A  b": {}}}, "two names are alike"),
        ({"networks": {**NETWORKS, "x": {"netwrok": {}}}}, "networks.x has no 'netwrok'; did you mean 'network'"),
        ({"networks": {**NETWORKS, "x": {"network": {"pool": "isqrtt"}}}}, "networks.x: pooling 'isqrtt' is unknown"),
        ({"networks": {**NETWORKS, "x": {"network": {"pol": "gap"}}}}, "networks.x: .*pol"),
        ({"networks": {**NETWORKS, "x": {"optim": {"lr": -1}}}}, "lr"),
        ({"networks": {**NETWORKS, "x": {"rates": [0.1, "fast"]}}}, "give a list of learning rates"),
        ({"networks": {**NETWORKS, "x": {"against": "GPA"}}}, "did you mean 'GAP'"),
        ({"networks": {**NETWORKS, "x": "gap"}}, "networks.x is 'gap': give groups"),
        ({"networks": {**NETWORKS, "x": {"network": "gap"}}}, "networks.x.network is 'gap': give options"),
        ({"networks": {**NETWORKS, "x": {"optim": None}}}, "networks.x.optim is None: give options"),
        ({"networks": {**NETWORKS, "x": {"against": ["GAP"]}}}, "networks.x is compared with "),
        ({"networks": {**NETWORKS, "x": {"rates": [True, 0.1]}}}, "give a list of learning rates"),
        ({"networks": {**NETWORKS, "x": {"rates": [float("inf")]}}}, "give a list of learning rates"),
        ({"networks": {**NETWORKS, "x": {"rates": 0}}}, "give a list of learning rates"),
        ({"networks": {**NETWORKS, "x": {"rates": [0.1, 0.1]}}}, "both lie in the folder 'x_lr0.1_seed1'"),
        (
            {"networks": {**NETWORKS, "GAP_lr0.1": {}, "GAP": {"rates": [0.1, 0.2]}}},
            "GAP and networks.GAP_lr0.1",
        ),
        ({"networks": {1: {}, 2: {}}}, "the name 1, which is no text"),
        ({"timed_steps": -1}, "timed_steps must be at least 0"),
        ({"test": "digits?items=test"}, "the network was not trained on"),
        (
            {"networks": {**NETWORKS, "x": {"network": {"pool": "gap", "weights": "none.pt"}}}},
            "networks.x: no checkpoint at none.pt",
        ),
        ({"data": ClassData("none.npz", "digits", 16)}, "none.npz"),
        ({"seeds": [1, 1]}, "name each once"),
        ({"test": None, "data": ClassData("digits", None)}, "rates are chosen from on validation pictures"),
    ],
)
def test_what_is_refused_before_anything_is_trained(config, change, message):
    with pytest.raises(UserError, match=message):
        compare(replace(config, **change))
    assert not Path(config.run).exists()


def test_finished_trainings_of_other_lengths_are_not_mixed(config):
    """A constant schedule lets a run be prolonged; some networks of a comparison must not be."""
    networks = {name: {"network": {"pool": "gap"}} for name in ("a", "b")}
    config = replace(config, networks=networks, seeds=[1], timed_steps=0)
    config = replace(config, optim=replace(config.optim, epochs=1, schedule="constant"))
    compare(config)
    with pytest.raises(UserError, match="optim.epochs is 2, and .*a_seed1 was trained for 1"):
        compare(replace(config, resume=True, optim=replace(config.optim, epochs=2)))


def test_the_report_tells_what_rates_were_chosen_from(config):
    networks = {"a": {"network": {"pool": "gap"}}, "b": {"network": {"pool": "gap"}, "rates": [0.02, 0.1]}}
    config = replace(config, networks=networks, seeds=[1], timed_steps=0, optim=replace(config.optim, epochs=1))
    compare(config)
    report = (Path(config.run) / "report.md").read_text()
    assert "with seed 1" in report and "b: 0.02 (" in report and "too high" not in report
    compare(replace(config, resume=True, test=None))
    assert "the accuracies are too high" in (Path(config.run) / "report.md").read_text()


def test_pictures_to_test_on_are_needed(config):
    networks = {name: {"network": {"pool": "gap"}} for name in ("a", "b")}
    with pytest.raises(UserError, match="--test"):
        compare(replace(config, networks=networks, test=None, data=ClassData("digits", None)))


def test_weights_to_start_from_must_fit_before_any_training(config, tmp_path):
    save_weights(create_backbone("conv4", **{**tiny.NETWORK, "width": 5}), tmp_path / "a.safetensors")
    other = {"network": {"pool": "gap", "weights": str(tmp_path / "a.safetensors")}}
    with pytest.raises(UserError, match="networks.x: .*a.safetensors"):
        compare(replace(config, networks={**NETWORKS, "x": other}))
    assert not Path(config.run).exists()


def test_options_of_a_network_win_over_the_common_ones(config):
    gap, isqrt, bdc = make_entries(config)
    assert gap.options.network.name == "conv4" and gap.options.network.pool == "gap" and gap.rates == ()
    assert isqrt.options.network.reduction == 6 and isqrt.rates == (0.02, 0.1)
    assert bdc.options.optim.epochs == 1 and bdc.options.optim.batch_size == 16 and bdc.against == "iSQRT, 6"


def test_the_command_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as end:
        main(["compare", "--help"])
    assert end.value.code == 0 and "--networks" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_networks_of_the_recipes_can_be_built(path):
    config = parse(ClassifyCompare, "classify compare", ["--config", str(path)])
    entries = make_entries(config)
    check_entries(entries)
    assert len(entries) == 8 and len({entry.options.optim.epochs for entry in entries}) == 1
    assert all(len(entry.rates) > 1 for entry in entries)  # every network has a choice, from validation pictures
    assert len({config.data.train, config.data.val, config.test}) == 3


def test_published_networks_are_listed(capsys):
    rows = networks(ClassifyNetworks("gsop_net?_resnet18", costs=True, size=64, num_classes=10))
    assert [row["name"] for row in rows] == ["gsop_net1_resnet18", "gsop_net2_resnet18"]
    assert all(row["multiply_adds"] > row["GAP's"] > 0 or row["parameters"] == row["with_GAP"] for row in rows)
    counts = {row["name"]: row["parameters"] for row in networks(ClassifyNetworks("*resnet50"))}
    assert counts["eca_resnet50"] == 25_557_112 and counts["mpncov_resnet50"] == 56_929_832
    assert "mpncov_resnet50" in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean 'so_vit_7'"):
        networks(ClassifyNetworks("so_vit7"))
