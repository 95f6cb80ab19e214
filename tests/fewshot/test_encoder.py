"""Encoder, pre-training model and episode model: shapes, shared parts, one batch for all images of a step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from backbones import create_backbone
from fewshot.encoder import Encoder, EpisodeModel, PretrainModel, classification_step, episode_step
from fewshot.methods import METHODS, create_encoder, create_head

SMALL = {"width": 6, "pooled_stages": 2, "input_size": 16}


def encoder(method: str = "meta_deepbdc", **options) -> Encoder:
    torch.manual_seed(0)
    return create_encoder(method, "conv4", SMALL, map_size=(4, 4), **options)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("method", "options", "shape"),
    [
        ("protonet", {}, (2, 6)),
        ("meta_deepbdc", {}, (2, 21)),
        ("stl_deepbdc", {"reduce_dim": 4}, (2, 10)),
        ("covnet", {}, (2, 6, 4, 4)),
    ],
)
def test_representations(method, options, shape):
    model = encoder(method, **options)
    assert model(images(2)).shape == shape
    assert model.out_dim == shape[1]
    assert model.eval()(images(1)).shape == (1, *shape[1:])


def test_state_names():
    model = PretrainModel(encoder(), 7)
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "pool", "classifier"}
    model = EpisodeModel(encoder("meta_baseline"), create_head("meta_baseline", 1))
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "head"}


def test_the_classifier_starts_without_bias_and_shares_the_encoder():
    body = encoder()
    model = PretrainModel(body, 7)
    assert (model.classifier.bias == 0).all()
    assert model.backbone is body.backbone
    assert model(images(3)).shape == (3, 7)


@pytest.mark.parametrize("method", ["meta_deepbdc", "covnet"])
def test_logits_are_the_classifier_of_the_features(method):
    model = PretrainModel(encoder(method), 7, dropout=0.5).eval()
    features = model.features(images(3))
    pooled = features if features.dim() == 2 else features.mean((2, 3))
    torch.testing.assert_close(model(images(3)), pooled @ model.classifier.weight.T)


def test_dropout_works_in_training_only_and_not_on_features():
    model = PretrainModel(encoder(), 7, dropout=0.5)
    assert not torch.equal(model(images(3)), model(images(3)))
    model.eval()
    assert torch.equal(model(images(3)), model(images(3)))


def test_a_frozen_backbone_keeps_its_statistics():
    model = PretrainModel(encoder(), 7)
    model.backbone.requires_grad_(False)
    before = copy.deepcopy(model.backbone.state_dict())
    model.train()
    assert model.training
    model(images(4))
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())


def test_support_and_query_pass_the_network_as_one_batch():
    """Batch norm in train mode must see all images of all episodes of a step together."""
    body = encoder("protonet")
    seen = []
    body.backbone.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    model = EpisodeModel(body, create_head("protonet", 1))
    labels = torch.tensor([[0, 1], [0, 1]])
    logits = model(images(2, 5), labels)
    assert seen == [(10, 3, 16, 16)]
    assert logits.shape == (2, 3, 2)


def test_an_episode_is_scored_as_its_head_says():
    body, head = encoder(), create_head("meta_deepbdc", 2)
    model = EpisodeModel(body, head).eval()
    labels = torch.tensor([[0, 0, 1, 1]])
    batch = images(1, 7)
    features = body.eval()(batch[0])
    torch.testing.assert_close(model(batch, labels), head(features[None, :4], labels, features[None, 4:]))


def test_the_steps_give_the_mean_loss_and_accuracy():
    model = PretrainModel(encoder(), 4).eval()
    labels = torch.tensor([0, 1, 2])
    values = classification_step(model, {"images": images(3), "labels": labels})
    logits = model(images(3))
    assert values["loss"].item() == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert values["accuracy"].item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_padding_counts_nowhere_in_an_episode():
    model = EpisodeModel(encoder("protonet"), create_head("protonet", 1)).eval()
    support, query = images(1, 2), images(1, 3)
    whole = {"images": torch.cat([support, query], 1), "support_labels": torch.tensor([[0, 1]])}
    short = episode_step(model, {**whole, "images": whole["images"][:, :4], "query_labels": torch.tensor([[0, 1]])})
    padded = episode_step(model, {**whole, "query_labels": torch.tensor([[0, 1, -1]])})
    assert padded["loss"].item() == pytest.approx(short["loss"].item(), rel=1e-5)
    assert padded["accuracy"].item() == short["accuracy"].item()


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_that_trains_on_episodes_sends_gradients_to_the_backbone(name):
    if not METHODS[name].episodic:
        pytest.skip("frozen by definition")
    body = encoder(name)
    model = EpisodeModel(body, create_head(name, 1, body.out_dim))
    batch = {
        "images": images(1, 4),
        "support_labels": torch.tensor([[0, 1]]),
        "query_labels": torch.tensor([[1, 0]]),
    }
    episode_step(model, batch)["loss"].backward()
    gradient = next(model.backbone.parameters()).grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_any_backbone_goes_with_any_pool():
    backbone = create_backbone("resnet10")
    assert Encoder(backbone, nn.Identity()).out_dim == backbone.out_channels
