"""Meta-training with unlabelled pictures: what the weights for distractors learn from, and where they go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backbones import UserError
from episodes.extras import Extras
from episodes.loaders import EpisodeImages, Pictures
from episodes.opening import open_dataset
from episodes.sampler import EpisodeSampler
from fewshot.card import load_encoder
from fewshot.encoder import EpisodeModel, episode_step
from fewshot.methods import create_encoder, create_head
from tests.tools import tiny
from tools.evaluate import evaluate
from tools.groups import Episodes, Kind
from tools.meta_train import meta_train

SIZES = {"n_way": 3, "n_query": 3, "episodes": 6, "unlabelled": 3, "distractor_ways": 2, "distractors": 2}


def test_a_step_holds_the_unlabelled_pictures_last(packs):
    data = open_dataset(packs["train"])
    pictures = Pictures(data, 16, (0.5,) * 3, (0.3,) * 3, augment="light")
    plain, extended = (
        EpisodeImages(pictures, EpisodeSampler(data.labels, 3, 1, 2, 4, extras=extras), 2)[0]
        for extras in (None, Extras(0, 0, 3, 1, 2))
    )
    assert "unlabelled_mask" not in plain and extended["unlabelled_mask"].shape == (2, 11)
    assert extended["images"].shape[1] == 9 + 11
    torch.testing.assert_close(extended["images"][:, :9], plain["images"])  # augmented alike


def test_only_semi_supervised_heads_see_them(packs):
    data = open_dataset(packs["train"])
    pictures = Pictures(data, 16, (0.5,) * 3, (0.3,) * 3)
    plain, extended = (
        EpisodeImages(pictures, EpisodeSampler(data.labels, 3, 1, 2, 2, extras=extras), 2)[0]
        for extras in (None, Extras(0, 0, 3, 1, 2))
    )
    for method, alike in (("protonet", True), ("semi_soft_kmeans", False)):
        torch.manual_seed(0)
        model = EpisodeModel(create_encoder(method, "conv4", tiny.NETWORK), create_head(method, 1)).eval()
        losses = [episode_step(model, batch)["loss"] for batch in (plain, extended)]
        assert torch.allclose(*losses) == alike


@pytest.mark.parametrize(("distractors", "weight"), [("mask", "mask.network.2.bias"), ("cluster", "log_radius")])
def test_training_moves_the_weights_for_distractors(tmp_path, packs, pretrained, distractors, weight):
    model = tiny.model("semi_soft_kmeans", head={"distractors": distractors})
    config = tiny.meta_options(
        tmp_path / "m", str(pretrained["protonet"]), packs["train"], packs["val"], model=model,
        episodes=Episodes(**SIZES), method="semi_soft_kmeans", optim={"lr": 0.05},
    )  # fmt: skip
    weights = meta_train(config)["weights"]
    loaded = load_encoder(weights, say=lambda text: None)
    head = loaded.load_head(create_head("semi_soft_kmeans", 1, **loaded.card["head"]))
    before = create_head("semi_soft_kmeans", 1, distractors=distractors).state_dict()[weight]
    assert not np.allclose(head.state_dict()[weight], before)
    test = tiny.evaluate_options(tmp_path / "e", weights, packs["test"], k_shot=[1], n_way=3, episodes=10)
    test.kind = Kind(unlabelled=3)
    assert 0.2 < evaluate(test)["scores"][0]["accuracy"] <= 1


def test_methods_that_do_not_learn_from_them_refuse_them(tmp_path, packs, pretrained):
    config = tiny.meta_options(
        tmp_path / "m", str(pretrained["protonet"]), packs["train"], episodes=Episodes(**SIZES), method="protonet"
    )
    with pytest.raises(UserError, match="ProtoNet does not learn from unlabelled pictures"):
        meta_train(config)
    assert not (tmp_path / "m").exists()


def test_too_small_a_data_set_is_told_before_work(tmp_path, packs, pretrained):
    config = tiny.meta_options(
        tmp_path / "m", str(pretrained["protonet"]), packs["train"], method="semi_soft_kmeans",
        episodes=Episodes(**{**SIZES, "unlabelled": 30}),
    )  # fmt: skip
    with pytest.raises(UserError, match="need 34 items in every class, but 'class00' has 12"):
        meta_train(config)
