"""The bench's command line, the lines it prints, and that the plain forms compute what ours do."""

from __future__ import annotations

import functools
import io
import json
import math
import sys
import time

import numpy as np
import pytest
import torch
from rich.console import Console

from backbones import create_backbone
from fewshot.encoder import Encoder
from fewshot.methods import METHODS
from moments import BDC, bdc_vector
from tools.bench import bdc, episode, heads, logistic, peers, prototypes, sampler, show, stl_test
from tools.bench.__main__ import CASES, main, parser
from tools.bench.case import Case, Row, call_count, measure
from tools.bench.plain import PlainBDC, plain_bdc_vector

KEYS = ["case", "shape", "ours_s", "other_s", "ratio", "ours_mb", "other_mb"]


def tiny_encoder() -> Encoder:
    backbone = create_backbone("resnet12", widths=(2, 3, 4, 5))
    return Encoder(backbone, BDC(5))


def test_options():
    options = parser().parse_args(["bdc", "sampler", "--json", "--repeats", "2"])
    assert (options.cases, options.json, options.repeats) == (["bdc", "sampler"], True, 2)
    assert (options.threads, options.device) == (1, "cpu")
    assert parser().parse_args([]).cases == []  # all of them


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--threads", "none"], ["--device", "tpu"]])
def test_options_out_of_range(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_list_names_every_case(capsys):
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CASES)


def test_unknown_case_names_the_nearest(capsys):
    assert main(["bdc", "smapler"]) == 2
    output = capsys.readouterr()
    assert output.err.strip() == "error: case 'smapler' is unknown; did you mean 'sampler'?"
    assert output.out == ""  # refused before anything was measured


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_absent_device_is_refused(capsys):
    assert main(["bdc", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_json_lines_of_measured_cases(capsys, monkeypatch):
    monkeypatch.setattr(bdc, "SHAPES", {(2, 6, 3, 3): 1, (1, 4, 2, 2): 1})
    assert main(["bdc", "--json", "--repeats", "2"]) == 0
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert [list(line) for line in lines] == [KEYS, KEYS]
    assert [(line["case"], line["shape"]) for line in lines] == [("bdc", "2x6x3x3"), ("bdc", "1x4x2x2")]
    for line in lines:
        assert line["ours_s"] > 0 and line["ratio"] == pytest.approx(line["other_s"] / line["ours_s"])
    assert "bdc 2x6x3x3" in output.err  # progress


def test_missing_peer_is_said_and_the_others_go_on(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn.data", None)  # as if it were not installed
    monkeypatch.setattr(bdc, "SHAPES", {(1, 4, 2, 2): 1})
    assert main(["sampler", "bdc", "--json"]) == 1
    output = capsys.readouterr()
    assert [json.loads(line)["case"] for line in output.out.splitlines()] == ["bdc"]
    assert "sampler: learn2learn, which this case compares with, can't be imported" in output.err


def test_unknown_memory_is_null_in_json_and_a_dash_in_the_table():
    row = Row("x", "1x2", "peer", 0.5, 1.5, 3.0, math.nan, math.nan, 5)
    assert json.loads(show.json_line(row))["ours_mb"] is None
    console = Console(file=io.StringIO(), width=80)
    show.show_table([row], "cpu: some processor, 1 thread", console)
    text = console.file.getvalue()
    assert all(part in text for part in ("x 1x2", "peer, 5 rounds", "500 ms", "1.5 s", "3.0x", "some processor", " - "))


def test_progress_counts_the_calls():
    ticks = []
    case = bdc.case((1, 4, 2, 2), repeats=3)
    measure(case, lambda: ticks.append(1))
    assert len(ticks) == call_count(case) == 10


def test_plain_form_equals_ours():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 7, 4, 5, generator=generator, dtype=torch.float64)
    x[0, 2], x[1, 4] = 0, x[1, 1]  # a dead channel, two equal ones
    temperature = torch.full((1, 1), -2.0, dtype=torch.float64)
    upstream = torch.randn(3, 28, generator=generator, dtype=torch.float64)
    results = []
    for function in (bdc_vector, plain_bdc_vector):
        inputs = x.clone().requires_grad_(), temperature.clone().requires_grad_()
        out = function(*inputs)
        results.append((out.detach(), *torch.autograd.grad(out, inputs, upstream)))
    for mine, plain in zip(*results, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-11)
    layer = PlainBDC(7, map_size=(4, 5)).double()
    torch.testing.assert_close(layer(x), BDC(7, map_size=(4, 5)).double()(x))


def test_both_sides_of_an_episode_take_the_same_step():
    torch.manual_seed(0)
    ours = tiny_encoder()
    plain = episode.plain_copy(ours)
    name = "backbone.layer1.0.conv1.weight"
    start = ours.state_dict()[name].clone()
    episode.step(ours, 16, "cpu")()
    assert torch.equal(plain.state_dict()[name], start)  # they share nothing
    episode.step(plain, 16, "cpu")()
    moved, moved_plain = ours.state_dict()[name] - start, plain.state_dict()[name] - start
    assert moved.abs().max() > 0
    torch.testing.assert_close(moved, moved_plain, rtol=1e-2, atol=1e-2 * moved.abs().max().item())


def test_episode_case_runs():
    row = measure(episode.case(tiny_encoder(), side_px=16, repeats=1))
    assert (row.case, row.shape) == ("episode", "80x3x16x16, 5-way 1-shot 15-query")
    assert row.ours_s > 0 and row.other_s > 0


def test_sampler_case_says_what_it_compares():
    pytest.importorskip("learn2learn", reason="learn2learn could not be built here: see make setup")
    cases = list(sampler.cases())
    assert len({case.shape for case in cases}) == len(cases) == 2  # a JSON line tells the two apart
    assert all(case.unit_count == sampler.EPISODES for case in cases)


@pytest.mark.parametrize(
    "build",
    [
        lambda: prototypes.case(6, 20, 8),
        lambda: logistic.case(1, 60, 6, 20, 8, 1),
        lambda: logistic.variable_case(8, 20, 16, 8),
    ],
)
def test_stored_features_and_the_plain_loop_score_alike(build):
    case = build()
    ours, plain = case.ours(), case.other()
    assert len(ours) == case.unit_count == 8
    assert 0.3 < ours.mean() < 1
    assert ours == pytest.approx(plain, abs=2 / 75)  # near-ties, and where scikit-learn stops


def test_a_whole_test_is_beside_fewer_episodes_of_scikit_learn():
    case = stl_test.case(1, 60, 6, 20, episodes=30, other_episodes=4)
    assert len(case.ours()) == 30 and len(case.other()) == 4
    assert case.ours()[:4] == pytest.approx(case.other(), abs=2 / 75)
    row = measure(case)
    assert row.repeats == 1 and row.ratio == pytest.approx(row.other_s / row.ours_s)
    assert "30 episodes" in row.shape and "4 episodes" in row.other_name
    ticks = []
    measure(case, lambda: ticks.append(1))
    assert len(ticks) == call_count(case) == 2


def test_units_of_both_sides_are_counted_apart(monkeypatch):
    """A clock on which every unit takes a second."""
    clock, done = [0.0], {"ours": 0, "other": 0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def run(side: str, count: int):
        done[side] += count
        clock[0] += count

    case = Case("x", "1", lambda: run("ours", 10), lambda: run("other", 2), "peer", 5, 10, other_count=2)
    row = measure(case)
    assert (row.ours_s, row.other_s, row.ratio) == (1.0, 1.0, 1.0)
    assert done == {"ours": 70, "other": 14}


@pytest.mark.parametrize("method", ["protonet", "covnet", "bd_cspn", "stl_deepbdc"])
def test_a_head_alone_and_in_parts_scores_alike(method, monkeypatch):
    monkeypatch.setattr(heads, "SHAPES", {"gap": (12,), "bdc": (15,), "map": (6, 3, 3)})
    case = heads.case(method, 6, 20, episodes=5)
    assert case.ours() == pytest.approx(case.other(), abs=1 / 75)


def test_heads_are_all_methods_that_have_features():
    assert "deepemd" in heads.SLOW and set(heads.SLOW) <= set(METHODS)
    assert {METHODS[name].pool for name in METHODS} == set(heads.SHAPES)


@pytest.mark.parametrize("name", list(peers.PEERS))
def test_peers_score_the_same_test(name):
    """easyfsl gets our very episodes; learn2learn draws its own."""
    pytest.importorskip(name, reason=f"{name} is not installed: see make setup")
    case = peers.case(name, 6, 20, episodes=200)
    ours, theirs = case.ours(), np.array(case.other())
    assert len(theirs) == case.other_count == 200
    assert abs(ours.mean() - theirs.mean()) < (1e-6 if name == "easyfsl" else 0.05)


def test_a_missing_peer_leaves_the_other_row(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "easyfsl.methods", None)  # as if it were not installed
    monkeypatch.setattr(peers, "PEERS", {"easyfsl": peers.easyfsl_loop, "loop": lambda *_: lambda: None})
    monkeypatch.setattr(peers, "EPISODES", 4)
    small = functools.partial(peers.case, n_classes=6, n_items=20, episodes=4, repeats=1)
    monkeypatch.setattr(peers, "case", small)
    assert main(["peers", "--json", "--repeats", "1"]) == 1
    output = capsys.readouterr()
    assert [json.loads(line)["case"] for line in output.out.splitlines()] == ["peers"]
    assert "peers: easyfsl can't be imported" in output.err
