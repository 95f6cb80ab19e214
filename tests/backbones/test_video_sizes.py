"""The sizes that tensors tell, and the sentence for a network of others."""

from __future__ import annotations

import pytest
import torch

from backbones.video_sizes import guess, options_of, other_sizes, sizes
from backbones.video_vit import VideoViT
from backbones.video_zoo import VIDEO_VITS, create_video_backbone


def empty(**options) -> VideoViT:
    with torch.device("meta"):
        return VideoViT(**options)


@pytest.mark.parametrize("name", VIDEO_VITS)
def test_every_backbone_is_known_by_its_tensors(name):
    with torch.device("meta"):
        network = create_video_backbone(name)
    assert guess(sizes(network.state_dict())) == name
    assert other_sizes(network.state_dict(), network) == ""


def test_a_network_of_no_name_is_told_by_its_options():
    told = sizes(
        empty(dim=48, depth=4, heads=3, patch_size=8, mlp_ratio=2.0, layer_scale=0.1, qkv_bias=False).state_dict()
    )
    assert told == {"depth": 4, "dim": 48, "tubelet_size": 2, "patch_size": 8, "mlp_ratio": 2.0,
                    "qkv_bias": False, "layer_scale": True}  # fmt: skip
    assert guess(told) is None
    assert options_of(told) == "{dim: 48, depth: 4, patch_size: 8, mlp_ratio: 2.0}"
    assert sizes({}) == {"depth": 0, "qkv_bias": False, "layer_scale": False}


def test_other_sizes_are_one_short_sentence_that_says_what_to_give():
    small = empty()
    state = empty(dim=48, depth=1, heads=3, patch_size=8).state_dict()
    assert other_sizes(state, small) == (
        "holds a transformer of width 48, 1 block, patches of 8 x 8 pixels, and the network has width 384, 12 blocks, "
        "patches of 16 x 16 pixels: give --model.backbone_options '{dim: 48, depth: 1, patch_size: 8}' and its heads, "
        "which tensors don't tell"
    )
    state = empty(**VIDEO_VITS["video_vit_base"]).state_dict()
    assert other_sizes(state, small, "--backbone") == (
        "holds a transformer of width 768, 12 blocks, patches of 16 x 16 pixels, and the network has width 384: give "
        "--backbone video_vit_base"
    )
    wide = empty(mlp_ratio=3.0, tubelet_size=4).state_dict()
    assert "tubelets of 4 frames, an MLP 3 times as wide, and the network has tubelets of 2" in other_sizes(wide, small)
