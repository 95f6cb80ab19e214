"""Every backbone of the table and of both libraries: shapes, sizes, gradients, batch of one."""

from __future__ import annotations

import pytest
import torch

from backbones import BACKBONES, UserError, create_backbone, freeze, list_backbones
from backbones.errors import nearest

SMALL = {"resnet12": {"widths": (4, 6, 8, 10)}, "resnet34s": {"widths": (4, 6, 8, 10)}, "conv4": {"width": 8}}
SMALL |= {"eca_mobilenet_v2": {"width_mult": 0.25, "last_channels": 32}}
SMALL |= {"mobilenet_v2": {"width_mult": 0.25, "last_channels": 32}}
SHUFFLENETS = [f"shufflenet_v2_{width}" for width in ("x0_5", "x1_0", "x1_5", "x2_0")]
SMALL |= {name: {"channels": (4, 8, 12, 16, 20), "repeats": (1, 2, 1)} for name in SHUFFLENETS}
GSOP = [f"gsop_net{net}_resnet{depth}" for net in (1, 2) for depth in (18, 50, 101)]
SMALL |= {name: {"widths": (4, 6, 8, 10), "att_dim": 8} for name in GSOP}
SO_VITS = [f"so_vit_{depth}" for depth in (7, 10, 14, 19)] + ["sot_tiny", "sot_small", "sot_base"]
SMALL |= {name: {"dim": 8, "depth": 2, "heads": 2, "stem_channels": 4, "input_size": 112} for name in SO_VITS}
SMALL |= {f"eca_resnet{depth}": {"widths": (4, 6, 8, 10)} for depth in (18, 34, 50, 101, 152)}
BOTTLENECK = ("resnet50", "resnet101")


def small(name: str, **options):
    default = {"widths": (8, 12, 16, 20)} if name not in BOTTLENECK else {"widths": (8, 16, 24, 32)}
    return create_backbone(name, **{**SMALL.get(name, default), **options})


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(33, 47), (84, 84)])
def test_every_backbone_takes_any_size_and_a_batch_of_one(name, size):
    network = small(name).train()
    out = network(torch.randn(2, 3, *size))
    assert out.shape[:2] == (2, network.out_channels) and out.dim() == 4
    out.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert network.eval()(torch.randn(1, 3, *size)).shape == (1, *out.shape[1:])
    assert len(network.mean) == len(network.std) == 3


@pytest.mark.parametrize(
    ("name", "options", "size", "shape"),
    [
        ("resnet12", {}, 84, (640, 10, 10)),
        ("resnet12", {"strides": (2, 2, 2, 2)}, 84, (640, 5, 5)),
        ("resnet12", {"widths": (16, 32, 64, 128), "se": True}, 84, (128, 10, 10)),
        ("resnet18", {}, 84, (512, 6, 6)),
        ("resnet18", {"stage4_stride": 2}, 224, (512, 7, 7)),
        ("conv4", {}, 84, (64, 5, 5)),
        ("conv4", {"pooled_stages": 3}, 32, (64, 4, 4)),
    ],
)
def test_map_sizes_of_the_specification(name, options, size, shape):
    with torch.no_grad():
        assert create_backbone(name, **options).eval()(torch.zeros(1, 3, size, size)).shape == (1, *shape)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [("resnet12", {}, 12_424_320), ("resnet12", {"se": True}, 12_696_648), ("resnet18", {}, 11_176_512)],
)
def test_parameter_counts_of_the_specification(name, options, count):
    assert sum(p.numel() for p in create_backbone(name, **options).parameters()) == count


def test_flatten_gives_four_values_a_channel():
    assert small("resnet10", flatten=True).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 80)


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("timm:resnet18", 7),
        ("timm:vit_tiny_patch16_224", 14),
        ("timm:swin_tiny_patch4_window7_224", 7),
        ("torchvision:mobilenet_v3_small", 7),
        ("torchvision:vit_b_16", 14),
        ("torchvision:densenet121", 7),
        ("torchvision:swin_t", 7),
    ],
)
def test_library_networks_become_feature_maps(name, grid):
    network = freeze(create_backbone(name))
    assert network.input_size == 224 and not any(p.requires_grad for p in network.parameters())
    with torch.no_grad():
        out = network(torch.randn(1, 3, 224, 224))
    assert out.shape == (1, network.out_channels, grid, grid)


def test_library_vit_keeps_the_token_grid_in_place():
    network = create_backbone("timm:vit_tiny_patch16_224", input_size=32).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        tokens = network.network.forward_features(image)
        grid = network(image)
    assert network.input_size == 32 and grid.shape == (1, 192, 2, 2)
    torch.testing.assert_close(grid[0, :, 0, 1], tokens[0, 2])  # token 0 is the class token


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet-12", "resnet12"), ("timm:resnet5000", "timm has no model"), ("torchvision:resnet19", "resnet18")],
)
def test_unknown_names_show_the_nearest(name, hint):
    with pytest.raises(UserError, match=hint):
        create_backbone(name)


def test_unknown_option_is_refused():
    with pytest.raises(UserError, match="depth"):
        create_backbone("conv4", depth=3)
    with pytest.raises(ValueError, match="four stages"):
        create_backbone("resnet12", widths=(1, 2, 3))


def test_list_backbones():
    assert list_backbones("resnet1*") == ["resnet12", "resnet10", "resnet18", "resnet101"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("deepbdc", "; did you mean 'stl_deepbdc' or 'meta_deepbdc'?"),
        ("meta_deepbcd", "; did you mean 'meta_deepbdc'?"),
        ("ProtoNet", "; did you mean 'protonet'?"),
        ("zzz", "; known: frn, meta_deepbdc, protonet, stl_deepbdc"),
    ],
)
def test_every_close_name_is_shown(name, hint):
    assert nearest(name, ["protonet", "meta_deepbdc", "stl_deepbdc", "frn"]) == hint
