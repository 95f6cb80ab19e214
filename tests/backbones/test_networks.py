"""Whole published networks by name: what they cost, and that every one takes images to logits."""

from __future__ import annotations

import pytest
import torch

from backbones import UserError
from backbones.networks import NETWORKS, create_network
from tests.backbones.test_backbones import SMALL

# Trainable parameters of the specifications.
PARAMETERS = {
    "eca_mobilenet_v2": 3_504_903,
    "gsop_net1_resnet50": 28_285_224,
    "gsop_net2_resnet50": 58_278_568,
    "mpncov_resnet50": 56_929_832,
    "gap_resnet18": 11_689_512,
    "gap_mobilenet_v2": 3_504_872,
    "gap_shufflenet_v2_x1_0": 2_278_604,
    "gcp_resnet18": 44_205_096,
    "gcp_resnet50": 56_929_832,
    "gcp_mobilenet_v2": 35_449_064,
    "gcp_shufflenet_v2_x1_0": 34_413_260,
    "so_vit_7": 5_529_232,
    "so_vit_10": 7_108_240,
    "so_vit_14": 24_643_056,
    "so_vit_19": 43_799_440,
    "sot_tiny": 7_983_550,
    "sot_small": 27_010_856,
    "sot_base": 76_774_966,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_of_the_specifications(name):
    with torch.device("meta"):
        network = create_network(name)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(set(NETWORKS) & set(SMALL)))
def test_every_network_gives_logits(name):
    network = create_network(name, num_classes=7, **SMALL[name]).train()
    logits = network(torch.randn(2, 3, 64, 64))
    logits.square().sum().backward()
    assert logits.shape == (2, 7) and network.input_size in (112, 224) and len(network.mean) == len(network.std) == 3
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.requires_grad)


def test_unknown_names_and_options():
    with pytest.raises(UserError, match="did you mean 'so_vit_7'"):
        create_network("so_vit_8")
    with pytest.raises(UserError, match="'attention'"):
        create_network("gsop_net1_resnet18", atention="channel")
    with pytest.raises(UserError, match="head of 'so_vit_7'.*dimensions"):
        create_network("so_vit_7", head={"dimensions": 3})
