"""What a checkpoint of videos holds: every layout, what does not fit, adapters without their network, other files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from backbones.checkpoint import save_tensors, save_weights
from backbones.video_layouts import foreign_key
from backbones.video_zoo import create_video_backbone
from tests.backbones.test_video_layouts import FOREIGN, foreign, tiny
from tools.video.models import VideoArchitecture, source_key
from tools.videos import main
from video.classifier import VideoClassifier
from video.tamt import create_tamt, trainable_state
from video.tamt_layout import to_reference

OPTIONS = {"dim": 24, "depth": 2, "heads": 3, "patch_size": 4, "input_size": 8}


def zeros(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors of a network that was built without memory, all zero."""
    return {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in model.state_dict().items()}


def small() -> torch.nn.Module:
    with torch.device("meta"):
        return create_video_backbone("video_vit_small")


def inspect(capsys, *arguments) -> tuple[int, dict]:
    """Run the command; returns its exit code and what it found."""
    code = main(["inspect", *map(str, arguments), "--json"])
    out = capsys.readouterr()
    return code, json.loads(out.out) if code < 2 else {"error": out.err}


@pytest.mark.parametrize("layout", FOREIGN[:-1])
def test_sizes_and_parts_of_foreign_files(tmp_path, layout, capsys):
    torch.save({"module": foreign(tiny(), layout), "epoch": 3}, tmp_path / "source.pt")
    code, found = inspect(capsys, tmp_path / "source.pt")
    assert (code, found["layout"], found["problems"]) == (0, layout, [])
    sizes = {"dim": 24, "depth": 2, "tubelet_size": 2, "patch_size": 4, "mlp_ratio": 4.0}
    assert found["network"] == {**sizes, "qkv_bias": True, "layer_scale": False}
    assert found["stage"] == ("video_ssl" if layout == "videomae_pretrained" else "video_supervised")
    assert found["backbone"] is None and len(found["fit"]["matched"]) == len(tiny().state_dict())
    assert ("a classifier of 5 classes" in found["parts"]) == (layout != "videomae_pretrained")
    main(["inspect", str(tmp_path / "source.pt")])
    text = capsys.readouterr().out
    assert "heads leave no trace" in text and "dim: 24, tubelet_size: 2" in text and "heads: ?" in text


def test_a_network_that_is_named(tmp_path, capsys):
    state = zeros(small())
    torch.save(state, tmp_path / "small.pt")
    code, found = inspect(capsys, tmp_path / "small.pt")
    assert (code, found["backbone"]) == (0, "video_vit_small")
    assert main(["inspect", str(tmp_path / "small.pt")]) == 0
    text = capsys.readouterr().out
    assert "video_vit_small has 6" in text
    assert f"use       python -m tools.video_tune --checkpoint {tmp_path}/small.pt --model.backbone video_vit" in text
    code, found = inspect(capsys, tmp_path / "small.pt", "--backbone", "video_vit_giant")  # takes no memory
    assert code == 1 and not found["fit"]["matched"]
    assert "have another shape than in video_vit_giant" in found["problems"][1]
    del state["blocks.3.attn.v_bias"]
    state["blocks.5.mlp.fc1.bias"][7] = float("nan")
    torch.save(state, tmp_path / "small.pt")
    code, found = inspect(capsys, tmp_path / "small.pt")
    assert code == 1 and found["fit"]["missing"] == ["blocks.3.attn.v_bias"]
    assert "1 tensor holds numbers that are not finite (blocks.5.mlp.fc1.bias)" in found["problems"]


def test_config_beside_a_file_of_transformers(tmp_path, capsys):
    state = {}
    for key, value in zeros(small()).items():
        place = foreign_key(key, "transformers")
        parts = zip(place, value.chunk(3), strict=True) if isinstance(place, list) else [(place, value)]
        state |= {name: part.clone() for name, part in parts}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 16, "layer_norm_eps": 1e-6}')
    code, found = inspect(capsys, tmp_path)
    assert (code, len(found["notes"])) == (0, 1)
    assert "says num_attention_heads = 16, the network has 6" in found["notes"][0]


def test_tuned_files_of_the_released_code(tmp_path, capsys):
    with torch.device("meta"):
        state = to_reference(create_tamt(small()))
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in state.items()}
    torch.save({"epoch": 5, "state": state}, tmp_path / "tuned.tar")
    code, found = inspect(capsys, tmp_path / "tuned.tar")
    assert (code, found["stage"], found["layout"], found["card"]) == (0, "video_tune", "tamt", {"epoch": 5})
    assert "TAMT's adapters of blocks 10, 11" in found["parts"] and "made for 8 steps in time" in found["parts"]
    assert "62 tensors that nothing uses" in found["notes"][0]


def test_files_of_ours(tmp_path, capsys):
    """Source weights, and an adapter file with, without and with the wrong network."""
    torch.manual_seed(0)
    plan = VideoArchitecture("tamt", "video_vit_small", OPTIONS, {"head": {"groups": 2}}, 8, 8)
    card = plan.card("video_supervised", class_names=["run", "jump"], epoch=4)
    classifier = VideoClassifier(create_video_backbone(plan.backbone, **OPTIONS, frames=8), 2)
    save_weights(classifier, tmp_path / "source.safetensors", card)
    code, found = inspect(capsys, tmp_path / "source.safetensors")
    assert (code, found["stage"], found["backbone"]) == (0, "video_supervised", "video_vit_small")
    assert "a classifier of 2 classes" in found["parts"] and found["problems"] == []
    assert main(["inspect", str(tmp_path / "source.safetensors")]) == 0
    text = capsys.readouterr().out
    assert "covey; supervised source training" in text and "classes: 2 (run, jump)" in text

    encoder = plan.build()
    encoder.backbone.vit.load_state_dict(classifier.backbone.state_dict())
    facts = {"tune": "adapters", "source": "source.safetensors", "source_key": source_key(encoder), "epoch": 2}
    save_tensors(trainable_state(encoder), tmp_path / "tuned.safetensors", plan.card("video_tune", **facts))
    code, found = inspect(capsys, tmp_path / "tuned.safetensors")
    assert (code, found["problems"], found["network"]) == (0, [], {})
    assert "TAMT's adapters of blocks 0, 1" in found["parts"]
    save_weights(VideoClassifier(plan.network(), 2), tmp_path / "other.safetensors", card)
    code, found = inspect(capsys, tmp_path / "tuned.safetensors", "--source", tmp_path / "other.safetensors")
    assert code == 1 and "was tuned around another network" in found["problems"][0]
    (tmp_path / "source.safetensors").unlink()
    code, found = inspect(capsys, tmp_path / "tuned.safetensors")
    assert code == 1 and "source.safetensors is not there" in found["problems"][0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"patch_embed.proj.weight": torch.zeros(4, 3, 2, 2), "blocks.0.attn.qkv.weight": torch.ones(1)},
            "of pictures",
        ),
        ({"layer1.0.conv1.weight": torch.zeros(4, 3, 2, 2)}, "holds a network of pictures"),
        ({"a.b": torch.zeros(2)}, "no weights of a video transformer"),
        ({"blocks.0.attn.qkv.weight": torch.zeros(3, 1)}, "without its patch embedding"),
        (b"hello" * 100, "is no readable checkpoint"),
        (b"", "is no readable checkpoint"),
        (None, "no checkpoint at"),
    ],
)
def test_what_is_no_checkpoint_of_videos(tmp_path, content, message, capsys):
    path = tmp_path / "odd.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    code, found = inspect(capsys, path)
    assert code == 2 and message in found["error"] and found["error"].count("\n") == 1


def test_checkpoints_of_pictures_and_of_code(tmp_path, capsys):
    card = {"method": "protonet", "backbone": "resnet12"}
    save_tensors({"backbone.stem.0.weight": torch.zeros(1)}, tmp_path / "image.safetensors", card)
    code, found = inspect(capsys, tmp_path / "image.safetensors")
    assert code == 2 and "of pictures (protonet on resnet12), not of videos: frames:resnet12" in found["error"]
    torch.save({"model": np.random.RandomState}, tmp_path / "code.pt")
    code, found = inspect(capsys, tmp_path / "code.pt")
    assert code == 2 and "running code from a file is refused" in found["error"]
