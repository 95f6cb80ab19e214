"""Weights files know what they are of; without a card the architecture must be named."""

from __future__ import annotations

import math

import pytest
import torch

from backbones import UserError
from backbones.checkpoint import save_weights, to_official
from fewshot.card import Architecture, design, load_encoder, measure_map
from fewshot.classifier import classifier_of
from fewshot.encoder import EpisodeModel, PretrainModel
from fewshot.methods import create_head

SMALL = {"width": 6, "pooled_stages": 2, "input_size": 16}


def quiet(text: str) -> None:
    pass


def small(method: str = "meta_deepbdc", reduce_dim: int | None = 4):
    torch.manual_seed(0)
    return design(method, "conv4", SMALL, reduce_dim)


def test_the_declared_map_is_the_real_one():
    plan, encoder = small()
    assert (plan.size, plan.map_size) == (16, (4, 4))
    assert encoder.pool.temperature.item() == pytest.approx(math.log(1 / (2 * 4 * 4)))
    plan, encoder = design("meta_deepbdc", "conv4", SMALL, size=24)
    assert (plan.size, plan.map_size) == (24, (6, 6))
    assert encoder.pool.temperature.item() == pytest.approx(math.log(1 / (2 * 6 * 6)))


def test_measuring_leaves_the_network_as_it_was():
    encoder = small()[1]
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert measure_map(encoder.backbone, 20) == (5, 5)
    assert encoder.backbone.training
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())


def test_pictures_that_vanish_in_the_network_are_refused():
    with pytest.raises(UserError, match="pictures of 3 pixels are too small for the backbone"):
        design("protonet", "conv4", SMALL, size=3)


@pytest.mark.parametrize("method", ["protonet", "meta_deepbdc", "covnet"])
def test_a_file_with_a_card_rebuilds_its_encoder(tmp_path, method):
    plan, encoder = small(method)
    model = PretrainModel(encoder, 5)
    save_weights(model, tmp_path / "w.safetensors", plan.card("pretrain", num_classes=5, epoch=3))
    said = []
    loaded = load_encoder(tmp_path / "w.safetensors", say=said.append)
    assert loaded.architecture == plan
    assert (loaded.card["stage"], loaded.card["num_classes"]) == ("pretrain", 5)
    assert "pretrain, epoch 3" in said[0]
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded.encoder.eval()(images), encoder.eval()(images))


def test_a_file_without_a_card_needs_the_architecture(tmp_path):
    plan, encoder = small()
    torch.save({"epoch": 3, "state": to_official(PretrainModel(encoder, 5).state_dict())}, tmp_path / "best_model.tar")
    with pytest.raises(UserError, match="does not say what network it is of"):
        load_encoder(tmp_path / "best_model.tar", say=quiet)
    loaded = load_encoder(tmp_path / "best_model.tar", lambda: plan, quiet)
    assert torch.equal(loaded.encoder.pool.temperature, encoder.pool.temperature)
    with pytest.raises(UserError, match="checkpoint of another architecture"):
        load_encoder(
            tmp_path / "best_model.tar", lambda: design("meta_deepbdc", "conv4", {**SMALL, "width": 7})[0], quiet
        )


def test_another_method_takes_the_same_backbone(tmp_path):
    plan, encoder = small("protonet", None)
    save_weights(PretrainModel(encoder, 5), tmp_path / "w.safetensors", plan.card("pretrain"))
    loaded = load_encoder(tmp_path / "w.safetensors", say=quiet, method="covnet")
    assert loaded.encoder(torch.randn(2, 3, 16, 16)).shape == (2, 6, 4, 4)
    with pytest.raises(UserError, match="has no BDC pooling, which meta_deepbdc needs trained"):
        load_encoder(tmp_path / "w.safetensors", say=quiet, method="meta_deepbdc")


def test_heads_get_their_weights_back(tmp_path):
    plan, encoder = small("meta_baseline", None)
    head = create_head("meta_baseline", 1)
    torch.nn.init.constant_(head.temperature, 3.5)
    save_weights(EpisodeModel(encoder, head), tmp_path / "w.safetensors", plan.card("meta"))
    loaded = load_encoder(tmp_path / "w.safetensors", say=quiet)
    assert loaded.load_head(create_head("meta_baseline", 5)).temperature.item() == 3.5
    loaded.load_head(create_head("protonet", 5))  # has nothing to load
    with pytest.raises(UserError, match="head of the checkpoint"):
        loaded.load_head(create_head("frn", 1))


def test_a_pre_trained_file_leaves_heads_as_they_start(tmp_path):
    plan, encoder = small("meta_baseline", None)
    save_weights(PretrainModel(encoder, 5), tmp_path / "w.safetensors", plan.card("pretrain"))
    loaded = load_encoder(tmp_path / "w.safetensors", say=quiet)
    assert loaded.load_head(create_head("meta_baseline", 1)).temperature.item() == 10.0


@pytest.mark.parametrize(
    ("method", "options"),
    [("relation_net", {}), ("matching_net", {"context": True}), ("anil", {"start": "learned", "n_way": 5})],
)
def test_a_head_that_would_score_by_random_weights_is_refused(tmp_path, method, options):
    plan, encoder = small(method, None)
    save_weights(PretrainModel(encoder, 5), tmp_path / "pre.safetensors", plan.card("pretrain"))
    loaded = load_encoder(tmp_path / "pre.safetensors", say=quiet)
    match = r"no trained weights of the head \w+, and random ones tell nothing: train it with tools.meta_train first"
    with pytest.raises(UserError, match=match):
        loaded.load_head(create_head(method, 1, encoder.out_dim, **options))
    with pytest.raises(UserError, match=match):
        classifier_of(loaded, options)  # before any picture is seen
    trained = loaded.load_head(create_head(method, 1, encoder.out_dim, **options), training=True)
    save_weights(EpisodeModel(encoder, trained), tmp_path / "meta.safetensors", plan.card("meta"))
    loaded = load_encoder(tmp_path / "meta.safetensors", say=quiet)
    head = loaded.load_head(create_head(method, 1, encoder.out_dim, **options))
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in head.state_dict().items())


@pytest.mark.parametrize("method", ["frn", "adm", "covamnet", "matching_net", "anil", "meta_baseline"])
def test_heads_that_start_at_values_that_mean_something_are_taken(tmp_path, method):
    plan, encoder = small(method, None)
    save_weights(PretrainModel(encoder, 5), tmp_path / "w.safetensors", plan.card("pretrain"))
    loaded = load_encoder(tmp_path / "w.safetensors", say=quiet)
    head = create_head(method, 1, encoder.out_dim)
    assert loaded.load_head(head) is head


def test_damaged_and_missing_files(tmp_path):
    plan, encoder = small()
    with pytest.raises(UserError, match="no checkpoint at"):
        load_encoder(tmp_path / "none.safetensors", say=quiet)
    file = tmp_path / "w.safetensors"
    save_weights(PretrainModel(encoder, 5), file, plan.card("pretrain"))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"w\.safetensors"):
        load_encoder(file, say=quiet)


def test_cards_are_plain():
    card = Architecture("protonet", "conv4").card("pretrain", num_classes=3)
    assert card["map_size"] == [10, 10]
    assert card["stage"] == "pretrain"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_reduction_of_an_official_file_is_read_off_the_file(tmp_path, prefix):
    """The default of --model.reduce_dim must not score a reduced network as an unreduced one."""
    plan, encoder = small("stl_deepbdc", 4)
    state = {prefix + key: value for key, value in to_official(PretrainModel(encoder, 5).state_dict()).items()}
    torch.save({"epoch": 1, "state": state}, tmp_path / "w.tar")
    unreduced = Architecture("stl_deepbdc", "conv4", SMALL, None, size=16, map_size=(4, 4))
    loaded = load_encoder(tmp_path / "w.tar", lambda: unreduced, quiet)
    assert loaded.architecture.reduce_dim == 4
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded.encoder.eval()(images), encoder.eval()(images))


def test_a_stranger_s_metadata_is_no_card(tmp_path):
    torch.save({"backbone": "resnet", "state_dict": {"a": torch.zeros(1)}}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="does not say what network it is of"):
        load_encoder(tmp_path / "w.pt", say=quiet)
