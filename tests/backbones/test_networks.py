"""Whole published networks by name: every one takes images to logits (what they cost: test_published_counts.py)."""

from __future__ import annotations

import pytest
import torch

from backbones import UserError
from backbones.networks import NETWORKS, create_network
from tests.backbones.test_backbones import SMALL


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
    with pytest.raises(UserError, match="'gap_resnet18' has average pooling and no reduction: take gcp_resnet18"):
        create_network("gap_resnet18", reduction=128)
    with pytest.raises(UserError, match="head of 'so_vit_7'.*dimensions"):
        create_network("so_vit_7", head={"dimensions": 3})
