"""GSoP-Net1 and -Net2: where the attention stands, sizes, and timm's way to put it in every block."""

from __future__ import annotations

import pytest
import torch

from backbones import UserError, create_backbone
from backbones.classifier import ImageClassifier
from backbones.gsop import GSoPResNet
from moments.gsop import GSoP

SIZES = {
    "channel": 28_285_224,
    "position": 26_182_952,
    "fusion_avg": 28_911_144,
    "fusion_max": 28_911_144,
    "fusion_concat": 32_105_000,
    "none": 25_557_032,
}


@pytest.mark.parametrize("attention", SIZES)
def test_parameter_counts_of_the_specification(attention):
    with torch.device("meta"):
        model = ImageClassifier(create_backbone("gsop_net1_resnet50", attention=attention))
    assert sum(p.numel() for p in model.parameters()) == SIZES[attention]


@pytest.mark.parametrize(
    ("net", "places"),
    [(1, ["layer1.2", "layer2.3", "layer3.5", "layer4.2"]), (2, ["layer1.2", "layer2.3", "layer3.5"])],
)
def test_attention_stands_in_the_last_block_of_a_stage(net, places):
    with torch.device("meta"):
        network = create_backbone(f"gsop_net{net}_resnet50").network
    found = [name.removesuffix(".se") for name, part in network.named_modules() if isinstance(part, GSoP)]
    strides = [network.get_submodule(name).se.channel.reduce.stride[0] for name in found]
    assert found == places and strides == [2, 1, 1, 1][: len(places)]


def test_stage_four_keeps_its_map():
    network = create_backbone("gsop_net1_resnet50", widths=(4, 4, 4, 4), att_dim=4).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 16, 14, 14)


def test_any_attention_trains_inside_a_network():
    for attention in ("position", "fusion_max"):
        network = create_backbone("gsop_net1_resnet18", widths=(4, 4, 4, 4), att_dim=4, attention=attention).train()
        network(torch.randn(2, 3, 32, 32)).sum().backward()
        assert all(p.grad is not None for p in network.parameters())


def test_the_module_is_an_attention_layer_of_timm():
    from timm.models.resnet import Bottleneck, ResNet

    network = ResNet(Bottleneck, (1, 2, 1, 1), channels=(4, 4, 4, 4), block_args={"attn_layer": GSoP}, num_classes=3)
    assert sum(isinstance(part, GSoP) for part in network.modules()) == 5
    network(torch.randn(2, 3, 64, 64)).sum().backward()


def test_wrong_options():
    with pytest.raises(ValueError, match="GSoP-Net3"):
        GSoPResNet(18, net=3)
    with pytest.raises(UserError, match="attention 'chanel'"):
        create_backbone("gsop_net1_resnet18", attention="chanel")
    with pytest.raises(UserError, match="'att_dims'"):
        create_backbone("gsop_net1_resnet18", att_dims=3)
