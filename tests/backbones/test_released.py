"""Checkpoints of published image networks: detected, renamed both ways, loaded whole or refused by name."""

from __future__ import annotations

import pytest
import torch

from backbones import UserError, create_backbone
from backbones.classifier import ImageClassifier
from backbones.networks import create_network
from backbones.released import LAYOUTS, detect_layout, from_released, load_released, to_released
from backbones.triangle_hint import diagonal_places, triangle_order_hint
from moments import covariance, isqrt_pool, newton_schulz_root, reorder_triangle, upper_triangle

WIDTHS = (2, 3, 4, 5)


def eca_resnet(**options):
    return ImageClassifier(create_backbone("eca_resnet18", widths=WIDTHS, **options), num_classes=3)


def mobilenet(**options):
    return ImageClassifier(create_backbone("eca_mobilenet_v2", width_mult=0.25, **options), num_classes=3)


def gsop(net=1, attention="fusion_max", **pooling):
    backbone = create_backbone(f"gsop_net{net}_resnet18", widths=WIDTHS, att_dim=4, attention=attention)
    pool = isqrt_pool(5, **{"iterations": 3, "order": "column", "reduction": 4, **pooling}) if net == 2 else None
    return ImageClassifier(backbone, pool, num_classes=3)


def transformer(name="so_vit_7", **options):
    sizes = {"dim": 8, "depth": 1, "heads": 2, "stem_channels": 4, "input_size": 112}
    head = {"dims": (6, 4)} if name.startswith("so_vit") else {"heads": 2, "width": 3, "dropout": 0.0}
    return create_network(name, 3, head={**head, **options}, **sizes)


def study(name, **options):
    if "mobilenet" in name:
        options |= {"width_mult": 0.25, "last_channels": 16}
    elif "shufflenet" in name:
        options |= {"channels": (4, 8, 12, 16, 20), "repeats": (1, 2, 1)}
    else:
        options |= {"channels": (2, 3, 4, 5)}  # timm's name of the widths
    return create_network(name, 3, **({"reduction": 4} if name.startswith("gcp") else {}), **options)


BUILDERS = {
    "gcp_mobilenet_v2": lambda: study("gcp_mobilenet_v2"),
    "gcp_mobilenet_v2_landscape": lambda: study("gcp_mobilenet_v2"),
    "mobilenet_v2": lambda: study("gap_mobilenet_v2"),
    "mobilenet_v2_landscape": lambda: study("gap_mobilenet_v2"),
    "gcp_shufflenet_v2": lambda: study("gcp_shufflenet_v2_x1_0"),
    "shufflenet_v2": lambda: study("gap_shufflenet_v2_x1_0"),
    "mpncov": lambda: study("gcp_resnet18"),
    "gcp_resnet_landscape": lambda: study("gcp_resnet18"),
    "resnet": lambda: study("gap_resnet18"),
    "eca_resnet": eca_resnet,
    "eca_mobilenet_v2": mobilenet,
    "gsop_net1": gsop,
    "gsop_net2": lambda: gsop(2),
    "so_vit": transformer,
    "sot": lambda: transformer("sot_tiny"),
}


def published(model, layout, path, prefix="module."):
    """Write the model as its authors' training script does: wrapped for parallel training, with the run's state."""
    state = {prefix + key: value for key, value in to_released(model.state_dict(), layout).items()}
    torch.save({"epoch": 99, "arch": layout, "state_dict": state, "best_prec1": 0.7, "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize("layout", BUILDERS)
def test_published_files_load_and_give_the_same_logits(layout, tmp_path):
    torch.manual_seed(0)
    source, model, lines = BUILDERS[layout]().eval(), BUILDERS[layout]().eval(), []
    report = load_released(model, published(source, layout, tmp_path / "best.pth.tar"), say=lines.append)
    assert not report.missing and not report.unused and LAYOUTS[layout].title in lines[0]
    x = torch.randn(2, 3, 112, 112)
    torch.testing.assert_close(model(x), source(x), rtol=0, atol=0)


@pytest.mark.parametrize("layout", BUILDERS)
def test_renaming_goes_both_ways(layout):
    state = BUILDERS[layout]().state_dict()
    released = to_released(state, layout)
    assert len(released) == len(state) and not set(released) & set(state)
    found, back = from_released(released)
    assert found == layout and list(back) == list(state)


def test_released_names_of_the_gcp_study():
    names = set(to_released(study("gcp_mobilenet_v2").state_dict(), "gcp_mobilenet_v2_landscape"))
    assert {"conv1.0.weight", "features.0.conv.0.0.weight", "features.17.0.weight", "fc.weight"} <= names
    names = set(to_released(study("gcp_resnet18").state_dict(), "gcp_resnet_landscape"))
    assert {"conv1.weight", "Layer_Reduce.weight", "Layer_Reduce_BN.running_var", "fc.bias"} <= names
    names = set(to_released(study("gcp_shufflenet_v2_x0_5").state_dict(), "gcp_shufflenet_v2"))
    assert {"stage2.0.branch1.0.weight", "conv5.1.bias", "dimension_reduction.1.weight", "fc.bias"} <= names


def test_released_names():
    names = set(to_released(eca_resnet().state_dict(), "eca_resnet"))
    assert {"conv1.weight", "layer1.0.eca.conv.weight", "layer4.0.downsample.0.weight", "fc.weight"} <= names
    names = set(to_released(mobilenet().state_dict(), "eca_mobilenet_v2"))
    assert {"features.1.conv.3.conv.weight", "features.2.conv.4.conv.weight", "classifier.1.bias"} <= names


def test_a_bare_backbone_takes_a_whole_file(tmp_path):
    source = eca_resnet()
    path = published(source, "eca_resnet", tmp_path / "eca.pth")
    network = create_backbone("eca_resnet18", widths=WIDTHS)
    report = load_released(network, path, say=lambda line: None)
    assert report.unused == ["classifier.bias", "classifier.weight"]
    torch.testing.assert_close(network.state_dict(), source.backbone.state_dict())


def test_other_filter_lengths_are_named_with_the_option(tmp_path):
    path, model = published(eca_resnet(k_size=(3, 3, 5, 7)), "eca_resnet", tmp_path / "eca.pth"), eca_resnet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"layer2.0.se.conv.weight.*build it with k_size=\(3, 3, 5, 7\)"):
        load_released(model, path)
    torch.testing.assert_close(model.state_dict(), before)
    load_released(eca_resnet(k_size=(3, 3, 5, 7)), path, say=lambda line: None)


def test_other_lengths_of_mobilenet_are_named_by_stage(tmp_path):
    older = (1, 1, 1, 1, 1, 3, 3)  # a single rule changed in July 2020
    path = published(mobilenet(k_size=older), "eca_mobilenet_v2", tmp_path / "k13.pth")
    with pytest.raises(UserError, match=r"model's \(1, 1, 1, 1, 3, 3, 3\): build it with k_size=\(1, 1, 1, 1, 1, "):
        load_released(mobilenet(), path)


def test_a_plain_resnet_lacks_the_attention_and_says_so(tmp_path):
    state = to_released(eca_resnet().state_dict(), "eca_resnet")
    plain = {key: value for key, value in state.items() if ".eca." not in key}
    torch.save(plain, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match=r"8 keys are missing.*se.conv.weight.*torchvision's ResNet"):
        load_released(eca_resnet(), tmp_path / "resnet.pth")


def test_further_blocks_and_foreign_files_are_refused(tmp_path):
    state = to_released(eca_resnet().state_dict(), "eca_resnet")
    torch.save({**state, "layer4.2.conv1.weight": torch.zeros(1)}, tmp_path / "deep.pth")
    with pytest.raises(UserError, match=r"fits nowhere.*layer4.2.conv1.weight"):
        load_released(eca_resnet(), tmp_path / "deep.pth")
    torch.save({"encoder.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth: these tensors \(encoder.weight\).*ECA-ResNet"):
        load_released(eca_resnet(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="no checkpoint"):
        load_released(eca_resnet(), tmp_path / "absent.pth")


def test_every_layout_is_told_from_the_others():
    for name, build in BUILDERS.items():
        assert detect_layout(to_released(build().state_dict(), name)) == name


def test_released_names_of_gsop_and_so_vit():
    names = set(to_released(gsop(2, "position").state_dict(), "gsop_net2"))
    assert {"layer3.1.row_bn_for_spatial.weight", "layer_reduce.weight", "layer_reduce_bn.bias", "fc.bias"} <= names
    assert not any("row_conv_group." in name or name.startswith("layer4.1.row") for name in names)
    names = set(to_released(transformer().state_dict(), "so_vit"))
    assert {"cls_token", "pos_embed", "visual_tokens.tokens.stage.2.bn3.weight", "norm.bias"} <= names
    assert {"classifier.representation.conv_dr_block.1.0.weight", "classifier.normalization.weight"} <= names
    names = set(to_released(transformer("sot_tiny").state_dict(), "sot"))
    assert {"classifier.representation.wr.weight", "classifier.representation.norm.weight"} <= names


def test_averaged_weights_of_a_transformers_file(tmp_path):
    last, average, model = transformer(), transformer(), transformer()
    states = [to_released(m.state_dict(), "so_vit") for m in (last, average)]
    torch.save({"state_dict": states[0], "state_dict_ema": states[1], "epoch": 3}, tmp_path / "model_best.pth.tar")
    load_released(model, tmp_path / "model_best.pth.tar", averaged=True, say=lambda line: None)
    torch.testing.assert_close(model.state_dict(), average.state_dict())
    load_released(model, tmp_path / "model_best.pth.tar", say=lambda line: None)
    torch.testing.assert_close(model.state_dict(), last.state_dict())


def test_the_other_order_of_triangles_is_refused_or_rearranged(tmp_path):
    torch.manual_seed(0)
    source, model, lines = gsop(2).eval(), gsop(2, order="row").eval(), []
    path = published(source, "gsop_net2", tmp_path / "net2.pth")
    with pytest.raises(UserError, match=r"in column order and the model has row order.*order='column'"):
        load_released(model, path)
    load_released(model, path, order="column", say=lines.append)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(x), source(x))
    assert "rearranged from column to row" in lines[0]
    load_released(gsop(2), path, order="column", say=lines.append)  # the model's own: nothing to do
    assert "rearranged" not in lines[1]
    load_released(model, path, order="row", say=lines.append)  # the caller knows better than the layout
    torch.testing.assert_close(model.classifier.weight, source.classifier.weight)
    with pytest.raises(UserError, match="order 'rows' is unknown"):
        load_released(model, path, order="rows")
    load_released(gsop(2, order="row").backbone, path, say=lines.append)  # no classifier, nothing to compare


def test_three_layers_of_vgg_are_rearranged_too(tmp_path, trained):
    source, model = (ImageClassifier(create_backbone("conv4", width=4), isqrt_pool(4, 3, reduction=16)) for _ in "ab")
    for network in (source, model):
        network.classifier = torch.nn.Sequential(torch.nn.Linear(136, 10), torch.nn.ReLU(), torch.nn.Linear(10, 3))
    source.classifier[0].weight.data.copy_(reorder_triangle(trained, "row", "column"))
    torch.save(source.state_dict(), tmp_path / "vgg.pth")
    with pytest.raises(UserError, match=r"in column order and the model has row order"):
        load_released(model, tmp_path / "vgg.pth")
    load_released(model, tmp_path / "vgg.pth", order="column", say=lambda line: None)
    torch.testing.assert_close(model.classifier[0].weight, trained)


def test_another_number_of_steps_is_refused(tmp_path):
    path = published(gsop(2), "gsop_net2", tmp_path / "net2.pth")
    with pytest.raises(UserError, match=r"3 Newton-Schulz steps and the model takes 5.*iterations=3"):
        load_released(gsop(2, iterations=5), path)
    load_released(gsop(2, iterations=5), path, iterations=5, say=lambda line: None)
    load_released(gsop(2, iterations=5), path, drop=("classifier.",), allow_missing=("classifier.",), say=print)


@pytest.fixture(scope="module")
def trained():
    """Weights of a linear layer trained on roots of covariances, row by row."""
    torch.manual_seed(0)
    labels = torch.arange(400) % 10
    mixing = (0.5 * torch.randn(10, 16, 16) / 4)[labels] + torch.eye(16)
    maps = (mixing @ torch.randn(400, 16, 49)).relu()
    inputs, layer = upper_triangle(newton_schulz_root(covariance(maps), 3)), torch.nn.Linear(136, 10)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(inputs), labels).backward()
        optimizer.step()
    return layer.weight.detach()


def test_trained_weights_show_their_order(trained):
    assert triangle_order_hint(trained) == "row"
    assert triangle_order_hint(reorder_triangle(trained, "row", "column")) == "column"
    assert triangle_order_hint(torch.randn(10, 136)) is None
    assert triangle_order_hint(torch.randn(10, 137)) is None  # no triangle at all


def test_weights_speak_before_the_layout(trained, tmp_path):
    source, model = gsop(2, reduction=16), gsop(2, reduction=16, order="row")
    source.classifier = torch.nn.Linear(136, 10)
    source.classifier.weight.data.copy_(trained)
    path = published(source, "gsop_net2", tmp_path / "net2.pth")
    with pytest.raises(UserError, match=r"triangles in row order and the model has column order"):
        load_released(ImageClassifier(source.backbone, source.pool, 10), path)
    model.classifier = torch.nn.Linear(136, 10)
    load_released(model, path, say=lambda line: None)
    torch.testing.assert_close(model.classifier.weight, source.classifier.weight)


@pytest.mark.parametrize("order", ["row", "column"])
def test_places_of_the_diagonal(order):
    matrix = torch.full((1, 5, 5), -1.0) + torch.diag(torch.arange(5) + 1.0)
    assert upper_triangle(matrix, order)[0, diagonal_places(5, order)].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
