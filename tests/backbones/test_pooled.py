"""Networks with pooling layers: every pool on every kind of map, last strides, costs, released layouts, orders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones import UserError, create_backbone
from backbones.classifier import ImageClassifier
from backbones.networks import create_network
from backbones.pooled import POOLS, cost, create_pool, with_pooling
from backbones.released import from_released, load_released, to_released
from backbones.strides import set_last_stride
from moments import isqrt_pool


def tiny(**options) -> nn.Module:
    return create_backbone("resnet12", widths=(3, 4, 5, 8), **options)


@pytest.mark.parametrize("pool", POOLS)
def test_every_pool_trains_on_a_network(pool):
    torch.manual_seed(0)
    network = with_pooling(tiny(), pool, 3, reduction=6)
    images = torch.rand(2, 3, 50, 40)
    network(images).logsumexp(1).sum().backward()
    assert network(images[:1]).shape == (1, 3)
    assert network.features(images).shape == (2, network.pool.out_dim)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet12", "timm:resnet18", "timm:efficientnet_b0", "torchvision:densenet121"])
def test_last_stride(name):
    network = create_backbone(name).eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.rand(1, 3, 64, 96)
    before = network(images).shape[2:]
    network.train()
    set_last_stride(network, 1)
    assert network.training and all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    after = network.eval()(images).shape[2:]
    assert all(abs(a - 2 * b) < 2 for a, b in zip(after, before, strict=True))


def test_last_stride_is_plain_and_not_dilated():
    """The published change, written by hand: stride 1 in the first block of layer4 and in its shortcut."""
    ours = set_last_stride(create_backbone("torchvision:resnet18"), 1).eval()
    from torchvision.models import resnet18

    theirs = resnet18().eval()
    theirs.load_state_dict({k.removeprefix("network."): v for k, v in ours.state_dict().items()}, strict=False)
    theirs.layer4[0].conv1.stride = theirs.layer4[0].downsample[0].stride = (1, 1)
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(ours(images).flatten(1), theirs(images))


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:convnext_atto"])
def test_networks_without_such_a_stride_are_refused(name):
    network = create_backbone(name)
    with pytest.raises(UserError, match="leave last_stride out"):
        set_last_stride(network, 1)
    assert set_last_stride(network, 2) is network
    with pytest.raises(UserError, match="can be 1 or 2"):
        set_last_stride(network, 4)


def test_costs_are_told_beside_average_pooling():
    lines = []
    network = with_pooling(tiny(), "isqrt", 3, reduction=4, last_stride=1, say=lines.append)
    assert [line.split(":")[0] for line in lines] == ["isqrt", "average pooling, last stride 1", "average pooling"]
    plain = cost(ImageClassifier(tiny(), None, 3))
    assert lines[2].endswith(str(plain)) and plain.parameters < cost(network).parameters
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    assert (cost(linear, 2).parameters, cost(linear, 2).multiply_adds) == (65, 60)


def test_published_networks_have_the_published_size():
    for name, parameters in (("mpncov_resnet50", 56_929_832), ("mpncov_resnet101", 75_921_960)):
        network = create_network(name)
        assert sum(p.numel() for p in network.parameters()) == parameters
        assert network.pool.power.iterations == 5 and network.pool.order == "row"


def small_network(order: str = "row") -> ImageClassifier:
    backbone = create_backbone("torchvision:resnet18")
    return with_pooling(backbone, "isqrt", 3, reduction=16, order=order)


@pytest.mark.parametrize(
    ("layout", "some"),
    [
        ("mpncov", {"layer_reduce.weight", "layer_reduce_bn.running_var", "fc.bias", "layer4.0.downsample.0.weight"}),
        ("mpncov_parts", {"features.0.weight", "features.7.1.bn2.bias", "representation.conv_dr_block.0.weight"}),
        ("mpncov_parts_pretrained", {"features.1.running_mean", "features.8.weight", "features.9.bias"}),
    ],
)
def test_released_layouts(layout, some, tmp_path):
    source, target = small_network(), small_network()
    released = to_released(source.state_dict(), layout)
    assert some <= set(released)
    # as the training script writes them: only the features in parallel, beside epoch and optimiser
    parallel = {key.replace("features.", "features.module.", 1): value for key, value in released.items()}
    assert from_released(parallel)[0] == layout
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 3, "arch": "x", "state_dict": parallel, "best_prec1": 1.0}, path)
    said = []
    load_released(target, path, say=said.append)
    assert "MPN-COV" in said[0]
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key


def trained_weight(order: str) -> torch.Tensor:
    """Weights of a linear layer after a few steps on roots of random covariances."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(40, 16, 1, generator=generator) + 0.2
    maps = torch.randn(40, 16, 60, generator=generator) * scales
    features, labels = isqrt_pool(16, 5, order=order)(maps), torch.arange(40) % 4
    layer = nn.Linear(features.shape[1], 4)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(features), labels).backward()
        optimizer.step()
    return layer.weight.detach()


@pytest.mark.parametrize("order", ["row", "column"])
def test_trained_weights_tell_their_order(order, tmp_path):
    """A file of the other order is refused, converted on request, and then computes the same."""
    other = {"row": "column", "column": "row"}[order]
    network, turned = (
        with_pooling(create_backbone("torchvision:resnet18"), "isqrt", 4, reduction=16, order=o) for o in (order, other)
    )
    network.classifier.weight.data.copy_(trained_weight(order))
    path = tmp_path / "released.pth"
    torch.save(to_released(network.state_dict(), "mpncov"), path)
    with pytest.raises(UserError, match=f"in {order} order.*order='{order}' to rearrange"):
        load_released(turned, path)
    load_released(turned, path, order=order, say=lambda line: None)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(turned.eval()(images), network.eval()(images))
    load_released(network, path, say=lambda line: None)  # its own order passes


def test_another_number_of_steps_is_refused(tmp_path):
    path = tmp_path / "released.pth"
    torch.save(to_released(small_network().state_dict(), "mpncov"), path)
    network = with_pooling(create_backbone("torchvision:resnet18"), "isqrt", 3, reduction=16, iterations=3)
    with pytest.raises(UserError, match="trained with 5 Newton-Schulz steps and the model takes 3"):
        load_released(network, path)


@pytest.mark.parametrize(("pool", "words"), [("covariance", "none at all"), ("mpn", "the root by EigenPower")])
def test_a_file_of_roots_is_not_one_of_other_matrices(pool, words, tmp_path):
    path = tmp_path / "released.pth"
    torch.save(to_released(small_network().state_dict(), "mpncov"), path)
    network = with_pooling(create_backbone("torchvision:resnet18"), pool, 3, reduction=16, order="row")
    with pytest.raises(UserError, match=f"trained with 5 Newton-Schulz steps and the model takes {words}"):
        load_released(network, path)
    load_released(network, path, drop=("classifier.",), allow_missing=("classifier.",), say=lambda line: None)


def test_an_order_that_does_not_show_is_said(tmp_path):
    path, lines = tmp_path / "released.pth", []
    torch.save(to_released(small_network().state_dict(), "mpncov"), path)  # fresh weights
    load_released(small_network("column"), path, say=lines.append)
    assert "does not show in its weights: taken for column, the model's (else say order=)" in lines[0]
    load_released(small_network("row"), path, order="row", say=lines.append)
    assert "does not show" not in lines[1]


def test_files_of_compiled_networks(tmp_path):
    path, source, target = tmp_path / "compiled.pth", small_network(), small_network()
    torch.save({f"module._orig_mod.{k}": v for k, v in to_released(source.state_dict(), "mpncov").items()}, path)
    load_released(target, path, say=lambda line: None)
    assert torch.equal(target.classifier.weight, source.classifier.weight)


def test_bad_arguments():
    for call, message in (
        (lambda: create_pool("isqr", 4), "did you mean 'isqrt'"),
        (lambda: create_pool("gap", 4, iterations=3), "does not take these options"),
        (lambda: create_pool("isqrt", 4, order="diagonal"), "order 'diagonal'"),
        (lambda: with_pooling("resnet13"), "backbone 'resnet13' is unknown"),
    ):
        with pytest.raises(UserError, match=message):
            call()


class Own(nn.Module):
    """Someone's network: a map, and nothing else that covey's backbones have."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_a_network_of_ones_own():
    own = Own().train()
    network = with_pooling(own, "isqrt", 3, reduction=4, last_stride=1, size=32)
    assert own.training and network.backbone(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 16, 16)
    assert network.input_size == 32 and len(network.mean) == 3
    network(torch.rand(2, 3, 32, 40)).sum().backward()
    with pytest.raises(UserError, match="Own is none of covey's backbones: give the size"):
        with_pooling(Own())
    with pytest.raises(UserError, match=r"Sequential returns shape \(1, 3072\) and no map"):
        with_pooling(nn.Sequential(nn.Flatten()), size=32)


def test_a_network_that_counts_on_its_strides_is_refused_and_left_alone():
    network = create_backbone("timm:efficientformer_l1")
    strides = {n: m.stride for n, m in network.named_modules() if hasattr(m, "stride")}
    with pytest.raises(UserError, match=r"does not take stride 1 in its last stage \(.+\): leave last_stride out"):
        set_last_stride(network, 1)
    assert strides == {n: m.stride for n, m in network.named_modules() if hasattr(m, "stride")}


def test_dilated_layers_have_a_stride_too():
    network = create_backbone("timm:skresnet18").eval()
    assert set_last_stride(network, 1)(torch.zeros(1, 3, 64, 64)).shape[2:] == (4, 4)


def test_several_maps_are_no_map():
    with pytest.raises(UserError, match="CrossVit returns a list of 2 and no single map"):
        create_backbone("timm:crossvit_9_240")(torch.zeros(1, 3, 240, 240))
