"""The bench's command line, the lines it prints, and that the plain forms compute what ours do."""

from __future__ import annotations

import io
import json
import math
import sys

import pytest
import torch
from rich.console import Console

from backbones import create_backbone
from fewshot.encoder import Encoder
from moments import BDC, bdc_vector
from tools.bench import bdc, episode, logistic, prototypes, sampler, show
from tools.bench.__main__ import CASES, main, parser
from tools.bench.case import Row, call_count, measure
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


@pytest.mark.parametrize("build", [lambda: prototypes.case(6, 20, 8), lambda: logistic.case(1, 60, 6, 20, 8, 1)])
def test_stored_features_and_the_plain_loop_score_alike(build):
    case = build()
    ours, plain = case.ours(), case.other()
    assert len(ours) == case.unit_count == 8
    assert 0.3 < ours.mean() < 1
    assert ours == pytest.approx(plain, abs=2 / 75)  # near-ties, and where scikit-learn stops
