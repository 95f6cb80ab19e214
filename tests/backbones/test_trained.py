"""Backbones of checkpoints, whatever they were trained for."""

from __future__ import annotations

import pytest
import torch

from backbones import UserError, create_backbone, load_backbone, save_weights
from classify.networks import Design, make_card
from fewshot.card import design

SMALL = {"widths": [8, 8, 8, 8]}


@pytest.mark.parametrize(
    "plan",
    [
        Design("eca_resnet18", "isqrt", SMALL, last_stride=1, reduction=4, size=64),
        Design("gsop_net2_resnet18", None, {**SMALL, "att_dim": 4}, size=64),
        Design("conv4", "bdc", {"width": 8, "input_size": 32}, reduction=4, size=32),
        Design("timm:vit_tiny_patch16_224", "so_vit", {"img_size": 32, "embed_dim": 12, "depth": 1}, size=32),
    ],
    ids=lambda plan: plan.name,
)
def test_of_a_classification_network(tmp_path, plan):
    torch.manual_seed(0)
    network = plan.build(3).eval()
    for module in network.modules():  # running statistics that are not those of the start
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    save_weights(network, tmp_path / "a.safetensors", make_card(plan, network, ["a", "b", "c"]))
    backbone, card = load_backbone(tmp_path / "a.safetensors")
    images = torch.randn(2, 3, plan.size, plan.size)
    assert not backbone.training and card["class_names"] == ["a", "b", "c"]
    torch.testing.assert_close(backbone(images), network.backbone(images), rtol=0, atol=0)


def test_of_a_few_shot_encoder_and_of_a_bare_network(tmp_path):
    plan, encoder = design("meta_deepbdc", "conv4", {"width": 8, "input_size": 32}, 4)
    save_weights(encoder, tmp_path / "a.safetensors", plan.card("pretrain"))
    images = torch.randn(2, 3, 32, 32)
    expected = encoder.eval().backbone(images)
    torch.testing.assert_close(load_backbone(tmp_path / "a.safetensors")[0](images), expected, rtol=0, atol=0)
    save_weights(encoder.backbone, tmp_path / "b.safetensors")
    bare, card = load_backbone(tmp_path / "b.safetensors", "conv4", width=8)
    assert "backbone" not in card and torch.equal(bare(images), expected)


def test_what_is_refused(tmp_path):
    backbone = create_backbone("conv4", width=8)
    save_weights(backbone, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="does not say what network"):
        load_backbone(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="16"):
        load_backbone(tmp_path / "a.safetensors", "conv4", width=16)
    save_weights(backbone, tmp_path / "b.safetensors", {"domain": "video", "backbone": "conv4"})
    with pytest.raises(UserError, match="of videos"):
        load_backbone(tmp_path / "b.safetensors")
