"""Weights on disk: layouts, reports, refusals, and no code from strangers."""

from __future__ import annotations

import pickle

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones import (
    UserError,
    create_backbone,
    from_official,
    load_weights,
    read_checkpoint,
    save_weights,
    to_official,
)
from backbones.checkpoint import write_atomically


def network(seed: int = 0, name: str = "resnet12", widths=(4, 5, 6, 7)):
    torch.manual_seed(seed)
    return create_backbone(name, widths=widths)


def same(a, b) -> bool:
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize("name", ["resnet12", "resnet10", "resnet18", "resnet50"])
def test_official_names_round_trip(name):
    state = network(name=name, widths=(8, 12, 16, 20)).state_dict()
    whole = {f"backbone.{key}": value for key, value in state.items()}
    whole |= {"pool.temperature": torch.zeros(1, 1), "pool.reduce.0.weight": torch.zeros(2, 20, 1, 1)}
    official = to_official(whole)
    assert from_official(official).keys() == whole.keys()
    assert "dcov.conv_dr_block.0.weight" in official and "feature." in next(iter(official))
    if name != "resnet12":
        assert "feature.trunk.0.weight" in official and "feature.trunk.4.C1.weight" in official
        assert any(key.startswith("feature.trunk.5.BNshortcut.") for key in official) == (name == "resnet10")


def test_official_shortcut_names_of_resnet18():
    keys = to_official(network(name="resnet18", widths=(64, 128, 256, 512)).state_dict())
    shortcuts = sorted(key for key in keys if ".shortcut.weight" in key)
    assert shortcuts == ["trunk.10.shortcut.weight", "trunk.6.shortcut.weight", "trunk.8.shortcut.weight"]


@pytest.mark.parametrize("layout", ["ours", "safetensors", "official", "wrapped", "data-parallel"])
def test_every_layout_loads_and_reports(tmp_path, layout, capsys):
    source, target = network(1), network(2)
    state = source.state_dict()
    path = tmp_path / "weights.pt"
    if layout == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_weights(source, path, {"stage": "pretrain"})
        assert read_checkpoint(path)[1]["stage"] == "pretrain"
    else:
        if layout in ("official", "data-parallel"):
            state = {f"feature.{key}": value for key, value in state.items()} | {"classifier.weight": torch.zeros(3, 7)}
        if layout == "data-parallel":
            state = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 3, "state": state} if layout in ("official", "wrapped", "data-parallel") else state, path)
    report = load_weights(target, path, drop=("classifier.",))
    assert same(source, target)
    assert len(report.matched) == len(source.state_dict())
    assert f"{len(report.matched)} tensors matched" in capsys.readouterr().out
    assert report.dropped == (["classifier.weight"] if layout in ("official", "data-parallel") else [])


def test_another_architecture_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(network(1, widths=(4, 5, 6, 8)), path)
    target, before = network(2), network(2)
    with pytest.raises(UserError, match=r"another architecture.*layer4.0.conv1.weight \(8, 6, 3, 3\) instead of"):
        load_weights(target, path)
    save_weights(network(1, name="resnet18"), path)
    with pytest.raises(UserError, match="missing.*layer1.0.conv1.weight"):
        load_weights(target, path)
    assert same(target, before)


def test_a_missing_key_is_named_unless_allowed(tmp_path):
    state = network(1).state_dict()
    del state["layer3.0.bn2.weight"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"layer3.0.bn2.weight"):
        load_weights(network(), tmp_path / "w.pt")
    load_weights(network(), tmp_path / "w.pt", allow_missing=("layer3.",))


def test_old_files_without_batch_counters_load(tmp_path):
    state = {k: v for k, v in network(1).state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pt")
    assert len(load_weights(network(), tmp_path / "w.pt").missing) == 0


def test_rows_of_an_official_cub_classifier(tmp_path):
    model = torch.nn.ModuleDict({"classifier": torch.nn.Linear(3, 2)})
    state = {"classifier.weight": torch.arange(12.0).view(4, 3), "classifier.bias": torch.arange(4.0)}
    torch.save({"state": state}, tmp_path / "w.tar")
    load_weights(model, tmp_path / "w.tar", keep_classes=range(0, 4, 2))
    assert model.classifier.bias.tolist() == [0, 2] and model.classifier.weight[1].tolist() == [6, 7, 8]


class Evil:
    def __reduce__(self):
        return (print, ("a stranger's code ran",))


def test_code_in_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"state": Evil()}, protocol=2))
    torch.save({"state": Evil()}, tmp_path / "w2.pt")
    for name in ("w.pt", "w2.pt"):
        with pytest.raises(UserError, match=r"refused|readable") as error:
            read_checkpoint(tmp_path / name)
        assert "values (print), and running code" in str(error.value)  # named, without torch's advice to allow it
        assert "weights_only" not in str(error.value)
    assert "stranger" not in capsys.readouterr().out


def test_a_file_that_holds_no_weights_is_told_without_advice_to_run_it(tmp_path):
    (tmp_path / "metrics.json").write_text('{"accuracy": 0.5}')
    with pytest.raises(UserError, match=r"metrics.json is no readable checkpoint: give the path of a") as error:
        read_checkpoint(tmp_path / "metrics.json")
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_empty_or_missing_file(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    with pytest.raises(UserError, match="no checkpoint at"):
        read_checkpoint(path)
    if suffix == ".pt":
        torch.save(network().state_dict(), path)
    else:
        safetensors.torch.save_file(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="half written"):
        read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="half written"):
        read_checkpoint(path)


def test_a_file_to_resume_from_is_no_weights_file(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"format": 1, "model": {"a": torch.zeros(2)}, "optimizer": {}, "progress": "{}"}, path)
    with pytest.raises(UserError, match=r"last.ckpt is for going on with its training .*: give best.safetensors"):
        read_checkpoint(path)


def test_a_file_without_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="no state dict"):
        read_checkpoint(tmp_path / "w.pt")


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(name):
        with open(name, "w") as file:
            file.write("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_weights_of_a_layer_that_the_model_lacks_are_refused(tmp_path):
    """A deeper network, or one with a reduction, holds all wanted keys and is another network all the same."""
    torch.manual_seed(0)
    deep = create_backbone("resnet12", widths=(4, 5, 6, 7), depths=(2, 1, 1, 1))
    torch.save({"state": {f"feature.{key}": value for key, value in deep.state_dict().items()}}, tmp_path / "w.tar")
    with pytest.raises(UserError, match=r"fit nowhere \(layer1.1"):
        load_weights(network(), tmp_path / "w.tar")


def test_weights_beside_the_model_are_named_and_left(tmp_path, capsys):
    state = {f"feature.{key}": value for key, value in network(1).state_dict().items()} | {"fc.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pt")
    assert load_weights(network(), tmp_path / "w.pt").unused == ["fc.weight"]
    assert "1 not wanted by the model (fc.weight)" in capsys.readouterr().out


@given(st.binary(max_size=120))
def test_garbage_is_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "garbage.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is no readable checkpoint|holds no state dict|running code from a file"):
        read_checkpoint(path)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = create_backbone("conv4", width=4)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = model.blocks[0][0].weight.detach().clone()
    state["blocks.0.0.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(UserError, match=r"weights that are no numbers \(blocks.0.0.weight\)"):
        load_weights(model, tmp_path / "nan.pth")
    assert torch.equal(model.blocks[0][0].weight, before)
