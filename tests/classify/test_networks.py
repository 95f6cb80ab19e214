"""Designs of networks: every pooling layer and head, rebuilt from their cards; sizes that they cannot take."""

from __future__ import annotations

import json

import pytest
import torch

from backbones import UserError, create_backbone
from backbones.pooled import POOLS
from classify.groups import freeze_start, make_groups
from classify.networks import HEADS, Design, costs, count_outputs, make_card, measure

TINY = {"width": 8, "pooled_stages": 2, "input_size": 16}
VIT = {"input_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}


def tiny_design(pool: str) -> Design:
    if pool in HEADS:
        options = {"so_vit": {"dims": (8, 6)}, "sot": {"heads": 2, "width": 4}, "class_token": {}}[pool]
        return Design("timm:vit_tiny_patch16_224", pool, VIT, options)
    reduction = 4 if pool not in ("compact_bilinear",) else None
    options = {"compact_bilinear": {"out_dim": 32}}.get(pool, {})
    return Design("conv4", pool, TINY, options, reduction=reduction)


@pytest.mark.parametrize("pool", [*POOLS, *HEADS])
def test_every_network_is_rebuilt_from_its_card(pool):
    design = tiny_design(pool)
    torch.manual_seed(0)
    network = design.build(5)
    card = json.loads(json.dumps(make_card(design, network, list("abcde"))))
    again = Design.of_card(card).build(5)
    again.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, card["size"], card["size"])
    assert torch.equal(network.eval()(images), again.eval()(images)) and count_outputs(again) == 5
    backbone = create_backbone(card["backbone"], **card["backbone_options"])
    backbone.load_state_dict(network.backbone.state_dict())
    assert torch.equal(backbone.eval()(images), network.backbone(images))
    own, plain = costs(network, design.size)
    assert own.parameters == sum(p.numel() for p in network.parameters())
    assert (own.parameters > plain.parameters) == (pool not in ("gap", "class_token")) or pool == "gap"


def test_a_published_network_is_a_backbone_too():
    design = Design("gcp_resnet18", options={"reduction": 16}, size=64)
    network = design.build(3)
    card = make_card(design, network, list("abc"))
    assert card["backbone"] == "network:gcp_resnet18" and card["iterations"] == 5 and card["order"] == "row"
    backbone = create_backbone(card["backbone"], **card["backbone_options"])
    backbone.load_state_dict(network.backbone.state_dict())
    images = torch.randn(1, 3, 64, 64)
    maps = backbone.eval()(images)
    assert maps.shape[2:] == (4, 4)  # the last stage keeps its size
    assert torch.equal(maps, network.eval().backbone(images))


def test_a_last_stride_of_one_is_an_option_of_every_backbone():
    design = Design("timm:resnet18", "gap", last_stride=1, size=64)
    network = design.build(3)
    card = make_card(design, network, list("abc"))
    assert card["map_size"] == [4, 4] and card["backbone_options"] == {"last_stride": 1}
    assert create_backbone("timm:resnet18", last_stride=1)(torch.zeros(1, 3, 64, 64)).shape[2:] == (4, 4)


@pytest.mark.parametrize(
    ("design", "words"),
    [
        (Design("gcp_resnet81"), "did you mean 'gcp_resnet18'.*or name what pools"),
        (Design("gcp_resnet18", last_stride=1), "network.last_stride is of a backbone with network.pool"),
        (Design("gcp_resnet18", pool_options={"iterations": 3}), "network.pool_options is of a backbone"),
        (Design("conv4", "isqr", TINY), "did you mean 'isqrt'"),
        (Design("conv4", "isqrt", TINY, {"steps": 3}), "does not take these options: it has no option 'steps'"),
        (Design("conv4", "isqrt", TINY, {"iteration": 3}), "did you mean 'iterations'"),
        (Design("conv4", "isqrt", TINY, {"ordr": "row"}), "did you mean 'order'"),
        (Design("conv4", "so_vit", TINY), "class_token=False"),
        (Design("timm:vit_tiny_patch16_224", "sot", VIT, {"colour": 3}), "head 'sot' does not take"),
    ],
)
def test_designs_that_cannot_be_built(design, words):
    with pytest.raises(UserError, match=words):
        design.build(4)


def test_pictures_too_small_for_the_stride():
    network = Design("conv4", "isqrt", {"width": 8}, reduction=4).build(3)
    with pytest.raises(UserError, match="pictures of 8 pixels are too small for the network.*raise data.size"):
        measure(network, 8)
    with pytest.raises(UserError, match="map of one position, of which there is no covariance"):
        measure(network, 16)
    assert measure(network.train(), 32) == (2, 2) and network.training
    assert measure(Design("conv4", "gap", {"width": 8}).build(3), 16) == (1, 1)


def test_a_transformer_takes_its_own_size():
    with pytest.raises(UserError, match="takes no pictures of 40 pixels.*input_size: 40"):
        measure(tiny_design("class_token").build(3), 40)


def test_groups_rates_and_decays():
    network = tiny_design("isqrt").build(5)
    groups = make_groups(network, 0.1, 1e-3, 5.0, 0.0, decay_vectors=False)
    found = {(round(group["lr"], 6), group["weight_decay"]): group["params"] for group in groups}
    assert set(found) == {(0.1, 1e-3), (0.1, 0.0), (0.5, 0.0)}
    assert {id(p) for p in found[0.5, 0.0]} == {id(p) for p in network.classifier.parameters()}
    assert all(p.dim() > 1 for p in found[0.1, 1e-3]) and all(p.dim() <= 1 for p in found[0.1, 0.0])
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_frozen_layers():
    network = tiny_design("isqrt").build(5)
    freeze_start(network, "2")
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert len(frozen) in (3, 4) and all(name.startswith("backbone.blocks.0.") for name in frozen)
    freeze_start(network, "backbone")
    assert {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad} == {"pool", "classifier"}
    assert any(name.startswith("backbone.") for name in trained)
    with pytest.raises(UserError, match="the backbone has 8 layers"):
        freeze_start(network, 99)
    with pytest.raises(UserError, match="nothing to train"):
        make_groups(network.requires_grad_(False), 0.1, 0.0)
