"""Checkpoints of video transformers: every layout in, loud refusals, and nothing dropped in silence."""

from __future__ import annotations

import argparse
import json

import pytest
import safetensors.torch
import torch
from torch import nn

from backbones import UserError, save_weights
from backbones.video_layouts import foreign_key, load_source, read_source, vit_keys
from backbones.video_mae import MaskedAutoencoder
from backbones.video_vit import VideoViT


class Classifier(nn.Module):
    """What holds a transformer, a norm and a classifier."""

    def __init__(self, backbone: nn.Module, classes: int = 5):
        super().__init__()
        self.backbone, self.fc_norm, self.head = backbone, nn.LayerNorm(24), nn.Linear(24, classes)


def tiny(seed: int = 0, **options) -> VideoViT:
    torch.manual_seed(seed)
    vit = VideoViT(**{"dim": 24, "depth": 2, "heads": 3, "patch_size": 4, "input_size": 8, "frames": 4, **options})
    for parameter in vit.parameters():
        nn.init.normal_(parameter)
    return vit


def foreign(vit: VideoViT, layout: str) -> dict[str, torch.Tensor]:
    """Write a network's tensors in a foreign layout, with what such files hold beside them."""
    state = {}
    for key, value in vit.state_dict().items():
        place = foreign_key(key, layout)
        parts = zip(place, value.chunk(3), strict=True) if isinstance(place, list) else [(place, value)]
        state |= {name: part.clone() for name, part in parts}
    match layout:
        case "videomae_pretrained":
            state |= {"encoder.norm.weight": torch.ones(24), "encoder.norm.bias": torch.zeros(24)}
            state |= {"mask_token": torch.zeros(1, 1, 8), "decoder.blocks.0.attn.proj.weight": torch.zeros(8, 8)}
        case "videomae_finetuned":
            state |= {"head.weight": torch.full((5, 24), 2.0), "head.bias": torch.zeros(5)}
        case "transformers" | "transformers_v5":
            state |= {"classifier.weight": torch.full((5, 24), 2.0), "classifier.bias": torch.zeros(5)}
    if layout != "videomae_pretrained":
        state |= {"fc_norm.weight": torch.full((24,), 3.0), "fc_norm.bias": torch.zeros(24)}
    if layout == "tamt":
        state |= {f"feature.{key}": state.pop(key) for key in ("fc_norm.weight", "fc_norm.bias")}
        state |= {"feature.blocks.0.norm3.weight": torch.ones(24), "head2.bias": torch.zeros(24)}
    return state


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


FOREIGN = ("videomae_finetuned", "videomae_pretrained", "transformers", "transformers_v5", "tamt")


@pytest.mark.parametrize("layout", FOREIGN)
@pytest.mark.parametrize("wrapper", [None, "module", "model", "state"])
def test_every_layout_and_wrapper(tmp_path, layout, wrapper):
    source, target, said = tiny(1), tiny(2), []
    state = foreign(source, layout)
    content = {wrapper: state, "epoch": 3, "args": argparse.Namespace(lr=0.1)} if wrapper else state
    torch.save(content, tmp_path / "source.pt")
    report = load_source(target, tmp_path / "source.pt", say=said.append)
    assert same(source, target)
    assert len(report.matched) == len(source.state_dict()) and not report.missing
    assert f"{len(report.matched)} tensors matched" in said[0] and "layout:" in said[0]
    unwanted = {"videomae_pretrained": "mask_token", "tamt": "head2.bias"}.get(layout, "classifier.weight")
    assert unwanted in report.unused
    assert ("fc_norm.weight" in report.unused) == (layout != "videomae_pretrained")  # a bare network has no such norm


@pytest.mark.parametrize("layout", ["videomae_finetuned", "transformers"])
def test_norm_and_classifier_are_taken_where_there_is_room(tmp_path, layout):
    torch.save(foreign(tiny(1), layout), tmp_path / "source.pt")
    model = Classifier(tiny(2))
    report = load_source(model, tmp_path / "source.pt", say=lambda line: None)
    assert same(tiny(1), model.backbone) and (model.fc_norm.weight == 3).all() and not (model.head.weight == 2).any()
    assert report.missing == ["head.bias", "head.weight"]
    report = load_source(model, tmp_path / "source.pt", classifier=True, say=lambda line: None)
    assert (model.head.weight == 2).all() and not report.missing
    with pytest.raises(UserError, match=r"head.weight \(5, 24\) instead of \(7, 24\)"):
        load_source(Classifier(tiny(2), classes=7), tmp_path / "source.pt", classifier=True)


def test_own_files_and_data_parallel_names(tmp_path):
    model, target = Classifier(tiny(1)), tiny(2)
    save_weights(model, tmp_path / "own.safetensors")
    load_source(target, tmp_path / "own.safetensors", say=lambda line: None)
    assert same(model.backbone, target)
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, tmp_path / "parallel.pt")
    load_source(target := tiny(3), tmp_path / "parallel.pt", say=lambda line: None)
    assert same(model.backbone, target)


def test_the_encoder_of_masked_pretraining(tmp_path):
    torch.manual_seed(1)
    model = MaskedAutoencoder(tiny(1, final_norm=True), 8, 1, 2)
    torch.save({"model": model.state_dict()}, tmp_path / "ssl.pth")
    again = MaskedAutoencoder(tiny(2, final_norm=True), 8, 1, 2)
    load_source(again, tmp_path / "ssl.pth", say=lambda line: None)
    assert same(model.encoder, again.encoder)  # its norm included
    plain = tiny(3)
    report = load_source(plain, tmp_path / "ssl.pth", say=lambda line: None)
    assert torch.equal(plain.blocks[1].mlp.fc2.weight, model.encoder.blocks[1].mlp.fc2.weight)
    assert "mask_token" in report.unused


def test_a_folder_of_transformers(tmp_path):
    state = {key.removeprefix("videomae."): value for key, value in foreign(tiny(1), "transformers").items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 16, "layer_norm_eps": 1e-12}))
    target, said = tiny(2), []
    load_source(target, tmp_path, say=said.append)
    assert same(tiny(1), target)
    assert any("num_attention_heads = 16, the network has 3" in line for line in said)
    assert any("layer_norm_eps = 1e-12" in line for line in said)


def assert_refused(tmp_path, state, message, target=None):
    target = target or tiny(2)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=message):
        load_source(target, tmp_path / "bad.pt", say=lambda line: None)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize("layout", FOREIGN)
def test_what_does_not_fit_is_refused_by_name(tmp_path, layout):
    state = foreign(tiny(1), layout)
    key = foreign_key("blocks.1.mlp.fc1.bias", layout)
    without = {k: v for k, v in state.items() if k != key}
    assert_refused(tmp_path, without, r"1 key is missing \(blocks.1.mlp.fc1.bias\)")
    assert_refused(tmp_path, {**state, key: torch.zeros(95)}, r"blocks.1.mlp.fc1.bias \(95,\) instead of \(96,\)")
    blocks = r"width 24, 2 blocks, patches of 4 x 4 pixels, and the network has {}: give --model.backbone_options "
    blocks += r"'{{dim: 24, depth: 2, patch_size: 4}}' and its heads"
    assert_refused(tmp_path, state, blocks.format("1 block"), target=tiny(2, depth=1))
    assert_refused(tmp_path, state, blocks.format("3 blocks"), target=tiny(2, depth=3))
    strange = {**state, key.replace("bias", "relative_bias"): torch.zeros(3)}
    assert_refused(tmp_path, strange, "no place for .*relative_bias")


def test_biases_that_were_lost_and_biases_that_should_not_be(tmp_path):
    state = foreign(tiny(1), "transformers_v5")
    lost = {key: value for key, value in state.items() if ".attention.attention." not in key or "bias" not in key}
    assert_refused(tmp_path, lost, "q_bias")
    name = "videomae.encoder.layer.0.attention.attention.key.bias"
    assert_refused(tmp_path, {**state, name: torch.ones(24)}, "key.bias is not zero")
    torch.save({**state, name: torch.zeros(24)}, tmp_path / "zero.pt")
    target = tiny(2)
    load_source(target, tmp_path / "zero.pt", say=lambda line: None)
    assert same(tiny(1), target)


def test_layer_scale(tmp_path):
    source = tiny(1, layer_scale=0.1)
    torch.save(source.state_dict(), tmp_path / "scaled.pt")
    target = tiny(2, layer_scale=0.1)
    load_source(target, tmp_path / "scaled.pt", say=lambda line: None)
    assert same(source, target)
    assert_refused(tmp_path, source.state_dict(), r"fit nowhere \(blocks.0.gamma_1")


def test_no_video_transformer_at_all(tmp_path):
    assert_refused(
        tmp_path, {"layer1.0.conv1.weight": torch.zeros(2)}, "no weights of a video transformer .*layer1.0.conv1"
    )
    torch.save(foreign(tiny(1), "tamt"), tmp_path / "good.pt")
    with pytest.raises(UserError, match="the model has no video transformer"):
        load_source(nn.Linear(2, 2), tmp_path / "good.pt")
    with pytest.raises(UserError, match="no checkpoint at"):
        read_source(tmp_path / "absent.pt")


def test_key_names():
    assert set(vit_keys(2)) == set(tiny().state_dict())
    assert set(vit_keys(1, qkv_bias=False)) == set(tiny(depth=1, qkv_bias=False).state_dict())
    with pytest.raises(ValueError, match="layout 'caffe' is unknown"):
        foreign_key("blocks.0.norm1.weight", "caffe")
