"""ECA networks: sizes of the specification, filter lengths, where the modules stand."""

from __future__ import annotations

import pytest
import torch

from backbones import UserError, create_backbone
from backbones.classifier import ImageClassifier
from backbones.eca import KERNELS, stage_kernels

PARAMETERS = {
    "eca_resnet18": 11_689_556,
    "eca_resnet34": 21_797_744,
    "eca_resnet50": 25_557_112,
    "eca_resnet101": 44_549_317,
    "eca_resnet152": 60_193_042,
    "eca_mobilenet_v2": 3_504_903,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_of_the_specification(name):
    with torch.device("meta"):
        model = ImageClassifier(create_backbone(name))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def filters(network):
    return {key: value.shape[-1] for key, value in network.state_dict().items() if key.endswith("se.conv.weight")}


def test_released_lengths_are_not_the_formula():
    with torch.device("meta"):
        released, formula = create_backbone("eca_resnet50"), create_backbone("eca_resnet50", k_size="formula")
        one = create_backbone("eca_resnet50", k_size=9)
    assert released.k_size == KERNELS[50] == (3, 5, 5, 7) and formula.k_size == (5, 5, 5, 7)
    assert set(filters(one).values()) == {9} and len(filters(one)) == 16  # one in every block
    assert [filters(released)[f"network.layer{n}.0.se.conv.weight"] for n in (1, 2, 3, 4)] == [3, 5, 5, 7]


def test_mobilenet_has_one_tap_below_96_channels():
    with torch.device("meta"):
        state = create_backbone("eca_mobilenet_v2").state_dict()
    lengths = [value.shape[-1] for value in state.values() if value.dim() == 3]
    assert lengths == [1] * 10 + [3] * 7 and sum(lengths) == 31


def test_mobilenet_scales_after_the_shortcut_is_left_out():
    block = create_backbone("eca_mobilenet_v2", width_mult=0.25).features[3].eval()  # the second of its stage
    x = torch.randn(1, 6, 5, 5)
    branch = block.conv[:-1](x)
    weight = block.conv[-1].conv.weight
    assert block.use_res_connect and weight.shape == (1, 1, 1)
    scale = torch.sigmoid(weight.squeeze() * branch.mean((2, 3), keepdim=True))
    torch.testing.assert_close(block(x), x + branch * scale)


def test_last_stage_keeps_the_map_on_request():
    network = create_backbone("eca_resnet50", widths=(2, 2, 2, 2), stage4_stride=1).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 8, 4, 4)
    assert network.network.layer4[0].conv2.dilation == (1, 1)


@pytest.mark.parametrize(("k_size", "hint"), [((3, 5), "2 filter lengths"), (4, "odd"), ("auto", "unknown")])
def test_wrong_lengths(k_size, hint):
    with pytest.raises(ValueError, match=hint):
        stage_kernels(k_size, (64, 128, 256, 512))
    with pytest.raises(UserError, match=hint):
        create_backbone("eca_resnet18", k_size=k_size)


def test_wrong_options():
    with pytest.raises(UserError, match="'k_size'"):
        create_backbone("eca_resnet18", ksize=3)
    with pytest.raises(UserError, match="leaves no channels"):
        create_backbone("eca_mobilenet_v2", width_mult=0)


def test_small_pictures_and_other_depths():
    small = create_backbone("eca_resnet18", depth=[1, 1, 1, 1], widths=[4, 8, 8, 16], stem_stride=2, stage4_stride=1)
    assert small(torch.zeros(1, 3, 48, 48)).shape == (1, 16, 6, 6) and small.k_size == (1, 3, 3, 3)
    assert create_backbone("eca_resnet18", widths=[4, 8, 8, 16])(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 2, 2)
    with pytest.raises(UserError, match="stem_stride = 1"):
        create_backbone("gsop_net1_resnet18", stem_stride=1)
