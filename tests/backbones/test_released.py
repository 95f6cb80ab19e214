"""Checkpoints of published image networks: detected, renamed both ways, loaded whole or refused by name."""

from __future__ import annotations

import pytest
import torch

from backbones import UserError, create_backbone
from backbones.classifier import ImageClassifier
from backbones.released import LAYOUTS, detect_layout, from_released, load_released, to_released

WIDTHS = (2, 3, 4, 5)


def eca_resnet(**options):
    return ImageClassifier(create_backbone("eca_resnet18", widths=WIDTHS, **options), num_classes=3)


def mobilenet(**options):
    return ImageClassifier(create_backbone("eca_mobilenet_v2", width_mult=0.25, **options), num_classes=3)


BUILDERS = {"eca_resnet": eca_resnet, "eca_mobilenet_v2": mobilenet}


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
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x), source(x), rtol=0, atol=0)


@pytest.mark.parametrize("layout", BUILDERS)
def test_renaming_goes_both_ways(layout):
    state = BUILDERS[layout]().state_dict()
    released = to_released(state, layout)
    assert len(released) == len(state) and not set(released) & set(state)
    found, back = from_released(released)
    assert found == layout and list(back) == list(state)


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
    with pytest.raises(
        UserError, match=r"model's \(1, 1, 1, 1, 3, 3, 3\): build it with k_size=\(1, 1, 1, 1, 1, "
    ):
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
    with pytest.raises(UserError, match=r"fit nowhere.*layer4.2.conv1.weight"):
        load_released(eca_resnet(), tmp_path / "deep.pth")
    torch.save({"encoder.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth: these tensors \(encoder.weight\).*ECA-ResNet"):
        load_released(eca_resnet(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="no checkpoint"):
        load_released(eca_resnet(), tmp_path / "absent.pth")


def test_every_layout_is_told_from_the_others():
    for name, build in BUILDERS.items():
        assert detect_layout(to_released(build().state_dict(), name)) == name
