"""Heat maps: class activation maps for average pooling, the right place for second-order heads and tokens."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from backbones import ImageClassifier
from backbones.triangle_hint import diagonal_places
from classify.heat import heat_maps
from classify.networks import Design
from tests.classify.test_networks import TINY, VIT, tiny_design


def test_with_average_pooling_it_is_the_class_activation_map():
    torch.manual_seed(0)
    plain = ImageClassifier(tiny_design("gap").build(5).backbone, None, 5).eval()
    images, classes = torch.randn(3, 3, 16, 16), torch.tensor([1, 4, 0])
    logits, heat = heat_maps(plain, images, classes)
    features = plain.backbone(images)
    expected = torch.einsum("bc,bchw->bhw", plain.classifier.weight[classes], features).relu()
    expected = F.interpolate(expected[:, None], (16, 16), mode="bilinear")[:, 0]
    expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-30)
    assert torch.allclose(heat, expected, atol=1e-5)
    assert torch.allclose(logits, plain(images), atol=1e-5)


@pytest.mark.parametrize("pool", ["isqrt", "mpn", "gaussian", "bdc", "bilinear", "compact_bilinear", "so_vit", "sot"])
def test_every_head_has_maps_from_zero_to_one(pool):
    torch.manual_seed(1)
    design = tiny_design(pool)
    network = design.build(5).eval()
    images = torch.randn(2, 3, design.size, design.size)
    logits, heat = heat_maps(network, images)
    assert logits.shape == (2, 5) and heat.shape == (2, design.size, design.size)
    assert heat.min() >= 0 and heat.max() <= 1 and torch.isfinite(heat).all()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_covariance_head_finds_the_part_that_differs():
    """A picture flat but for one square, and variances that speak for a class: they come from there."""
    torch.manual_seed(2)
    network = tiny_design("covariance").build(5).eval()
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.weight[:, diagonal_places(4, "row")] = 1.0
    images = torch.zeros(1, 3, 96, 96)
    images[:, :, 16:48, 16:48] = torch.randn(3, 32, 32) * 4
    heat = heat_maps(network, images, torch.tensor([0]))[1][0]
    assert heat[16:48, 16:48].mean() > 3 * heat[60:84, 60:84].mean()  # away from the border, whose padding differs too


def test_two_answers_and_no_class_token():
    design = Design("conv4", "sot", TINY, {"heads": 2, "width": 4})
    assert heat_maps(design.build(3).eval(), torch.randn(2, 3, 16, 16))[1].shape == (2, 16, 16)
    design = Design("timm:vit_tiny_patch16_224", "sot", VIT, {"heads": 2, "width": 4, "fusion": "sum_loss"})
    network, images = design.build(3).eval(), torch.randn(2, 3, 32, 32)
    assert torch.allclose(heat_maps(network, images)[0], sum(network(images)), atol=1e-5)
