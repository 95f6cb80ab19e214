"""Landscapes: what is measured, and that measuring changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from backbones import UserError, create_backbone, create_network
from backbones.parts import ordered_parts, split
from backbones.pooled import with_pooling
from classify.landscape import evenly_spaced, probe, probe_network, undisturbed
from classify.probing import LandscapeRecorder, compare_landscapes, read_lines
from episodes.engine import Progressed


@pytest.fixture
def network():
    torch.manual_seed(0)
    backbone = create_backbone("conv4", width=8, pooled_stages=2, input_size=16)
    return with_pooling(backbone, "isqrt", 4, reduction=6, dropout=0.5)


def test_a_quadratic_by_hand():
    """With logits (y, 0) of one class the loss is softplus(-y), so everything can be written down."""
    y, targets = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([0])
    etas = evenly_spaced(0.5, 2.0, 4)
    seen = probe(lambda y: torch.cat([y, torch.zeros_like(y)], 1), y, targets, etas)
    g = -torch.sigmoid(-y)
    assert seen.etas == (0.5, 1.0, 1.5, 2.0)
    assert seen.loss == pytest.approx(F.softplus(-y).item()) and seen.gradient_norm == pytest.approx(g.abs().item())
    for eta, loss, distance in zip(seen.etas, seen.losses, seen.distances, strict=True):
        there = y + eta * g
        assert loss == pytest.approx(F.softplus(-there).item())
        assert distance == pytest.approx((-torch.sigmoid(-there) - g).abs().item())
    assert seen.loss_band == (seen.losses[0], seen.losses[3])  # uphill
    assert 0 < seen.smoothness <= 0.25  # the curvature of softplus is at most 1/4
    assert json.loads(json.dumps(seen.record()))["smoothness"] == seen.smoothness


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_a_probe_leaves_network_and_random_numbers_alone(network, batch_norm):
    network.train()
    images, labels = torch.randn(6, 3, 16, 16), torch.arange(6) % 4
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [part.training for part in network.modules()]
    state = torch.get_rng_state()
    probe_network(*split(network), network, images, labels, [0.1, 1.0], 0, batch_norm)
    assert all((network.state_dict()[name] == value).all() for name, value in before.items())
    assert modes == [part.training for part in network.modules()] and (torch.get_rng_state() == state).all()
    assert all(p.grad is None for p in network.parameters())


def test_undisturbed_puts_back_after_an_error(network):
    network.train()
    mean = network.backbone.blocks[0][1].running_mean.clone()
    with pytest.raises(RuntimeError), undisturbed(network):
        network(torch.randn(4, 3, 16, 16))
        network.eval()
        raise RuntimeError
    assert network.training and (network.backbone.blocks[0][1].running_mean == mean).all()


NAMES = ["gcp_resnet18", "gap_resnet50", "gcp_mobilenet_v2", "gap_shufflenet_v2_x0_5"]


@pytest.mark.parametrize("name", NAMES)
def test_the_two_parts_are_the_whole(name):
    network = create_network(name, 5).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole = network(images)
        for after in list(ordered_parts(network.backbone))[:3]:
            stem, tail = split(network, after)
            torch.testing.assert_close(tail(stem(images)), whole)


@pytest.mark.parametrize(
    "name", ["conv4", "resnet12", "resnet10", "eca_resnet18", "gsop_net1_resnet18", "timm:resnet14t"]
)
def test_other_networks_that_can_be_cut(name):
    options = {} if ":" in name or name == "conv4" else {"widths": (4, 6, 8, 10)}
    network = with_pooling(create_backbone(name, **options), "gap", 3).eval()
    stem, tail = split(network)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert stem(images).shape[2] < 64
        torch.testing.assert_close(tail(stem(images)), network(images))


def test_networks_that_are_no_chain_are_refused():
    with pytest.raises(UserError, match="more than its stages"):
        split(with_pooling(create_backbone("torchvision:resnet18"), "gap", 3))
    with pytest.raises(UserError, match="no chain"):
        split(with_pooling(create_backbone("timm:mobilenetv2_035"), "gap", 3))


def test_parts_of_small_networks(network):
    with torch.no_grad():
        stem, tail = split(network.eval(), "block2")
        images = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(tail(stem(images)), network(images))
    with pytest.raises(UserError, match="no part 'layer1'.*stem, block1"):
        split(network, "layer1")
    with pytest.raises(UserError, match="no chain"):
        ordered_parts(nn.Linear(2, 2))


def test_ranges():
    assert evenly_spaced(0.1, 75, 50)[-1] == pytest.approx(75) and len(evenly_spaced(0.045, 1.5, 50)) == 50
    for bad in ((0, 1, 5), (2, 1, 5), (1, 2, 1)):
        with pytest.raises(ValueError, match="no range"):
            evenly_spaced(*bad)


def test_comparison_of_two_trainings(tmp_path):
    def line(step, low, high, smoothness):
        return {"step": step, "loss_band": [low, high], "distance_band": [0, high], "smoothness": smoothness}

    wide, narrow = [line(0, 0, 3, 2), line(5, 0, 1, 2)], [line(0, 1, 2, 1), line(5, 0, 2, 1), line(9, 0, 0, 0)]
    found = compare_landscapes(wide, narrow)
    assert found["probes"] == 2 and found["loss_width_first"] == 2 and found["loss_width_second"] == 1.5
    assert found["loss_width_narrower"] == 0.5 and found["smoothness_lower"] == 1
    with pytest.raises(UserError, match="no common step"):
        compare_landscapes(wide, narrow[2:])
    (tmp_path / "cut.jsonl").write_text('{"step": 0}\n{"step"')
    assert read_lines(tmp_path / "cut.jsonl") == [{"step": 0}] and read_lines(tmp_path / "none.jsonl") == []


def test_a_resumed_training_goes_on_with_its_file(network, tmp_path):
    path, batch = tmp_path / "landscapes.jsonl", {"images": torch.randn(4, 3, 16, 16), "labels": torch.arange(4)}

    def run(first: int, last: int) -> None:
        record = LandscapeRecorder(network, [0.1, 1.0], 2, path)
        for step in range(first, last):
            record(batch, Progressed(step=step, in_epoch=step % 5))

    run(0, 8)
    whole = path.read_text()
    assert [line["step"] for line in read_lines(path)] == [0, 2, 4, 5, 7]
    run(4, 8)  # the checkpoint was older than the last lines
    assert path.read_text() == whole
    run(0, 2)
    assert [line["step"] for line in read_lines(path)] == [0]
    LandscapeRecorder(network, [0.1], 1, None)(batch, Progressed())  # another process records nothing


def test_networks_without_a_map_have_no_landscape(tmp_path):
    with pytest.raises(UserError, match="not of transformers"):
        LandscapeRecorder(nn.Linear(2, 2), [0.1], 1, tmp_path / "x")
