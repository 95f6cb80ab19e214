"""Landscapes recorded by `tools.classify train`: the training is bit for bit the same with and without."""

from __future__ import annotations

import pytest
import torch

from backbones import read_checkpoint
from classify.probing import read_lines
from tests.tools import tiny
from tools.classify_config import ClassData, ClassifyTrain, ClassOptim, Network, Probe
from tools.classify_training import train


def options(run, pictures, **probe) -> ClassifyTrain:
    return ClassifyTrain(
        str(run),
        data=ClassData(pictures, size=16, augment="pad"),
        network=Network("conv4", "isqrt", tiny.NETWORK, reduction=6, dropout=0.3),
        optim=ClassOptim(2, 16, lr=0.05, schedule="LRfast"),
        probe=Probe(**probe),
        machine=tiny.CPU,
        pictures=False,
    )


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_probes_leave_the_training_bit_identical(tmp_path, batch_norm):
    pictures = tiny.pack(tmp_path / "pack.npz", classes=4, items=12)
    train(options(tmp_path / "plain", pictures))
    train(options(tmp_path / "probed", pictures, every=2, count=3, batch_norm=batch_norm))
    plain, probed = (read_checkpoint(tmp_path / name / "best.safetensors")[0] for name in ("plain", "probed"))
    assert plain.keys() == probed.keys() and all(torch.equal(plain[key], probed[key]) for key in plain)
    lines = read_lines(tmp_path / "probed" / "landscapes.jsonl")
    assert [line["step"] for line in lines] == [0, 2, 3, 5]  # three steps an epoch, counted anew
    assert lines[0]["etas"] == [0.1, pytest.approx(37.55), 75.0]
    assert not (tmp_path / "plain" / "landscapes.jsonl").exists()
