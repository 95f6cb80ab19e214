"""The table of methods: every row builds, and wrong names and options are one sentence."""

from __future__ import annotations

import inspect
import math
import re

import pytest
import torch

from backbones import UserError
from fewshot.encoder import EpisodeModel
from fewshot.good_embed import GoodEmbed
from fewshot.methods import METHODS, create_encoder, create_head, find_method
from moments import BDC

SMALL = {"width": 4, "pooled_stages": 2, "input_size": 16}


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("k_shot", [1, 5])
def test_every_method_scores_an_episode_of_its_own_encoder(name, k_shot):
    encoder = create_encoder(name, "conv4", SMALL, map_size=(4, 4)).eval()
    labels = torch.arange(3).repeat_interleave(k_shot)[None]
    images = torch.randn(3 * k_shot + 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    if METHODS[name].adapts:  # by images, and the network changes with them
        model = EpisodeModel(encoder, create_head(name, k_shot, encoder.out_dim)).eval()
        assert torch.isfinite(model(images[None], labels, n_way=3)).all()
        return
    with torch.no_grad():
        features = encoder(images)[None]
        options = {"deepemd": {"tune_passes": 2}, "tim": {"steps": 2}}.get(name, {})  # 100 and 1000 by default
        mine = create_head(name, k_shot, encoder.out_dim, **options)
        for head in (mine, METHODS[name].validation_head(k_shot)):
            logits = head.eval()(features[:, : 3 * k_shot], labels, features[:, 3 * k_shot :], n_way=3)
            assert logits.shape == (1, 2, 3)
            assert torch.isfinite(logits).all()


def test_the_penalty_follows_the_shots_and_yields_to_the_options():
    """0.1 and 2 of the miniImageNet scripts."""
    assert [create_head("stl_deepbdc", k).C for k in (1, 5)] == [0.1, 2.0]
    assert [create_head("good_embed", k).C for k in (1, 5)] == [0.1, 2.0]
    assert create_head("stl_deepbdc", 5, C=30).C == 30


def test_the_rule_of_meta_deepbdc_follows_the_shots():
    assert create_head("meta_deepbdc", 1).similarity == "inner"
    assert create_head("meta_deepbdc", 5).similarity == "squared"


def test_weights_of_the_size_of_a_feature_follow_the_encoder():
    assert create_head("relation_net", 1, 7).in_channels == 7
    assert create_head("relation_net", 1).in_channels == 64
    assert create_head("matching_net", 1, 7, context=True).query_encoder.hidden_size == 7
    assert create_head("relation_net", 1, 7, in_channels=3).in_channels == 3  # an option that is named wins
    create_head("protonet", 1, 7)  # of no use to heads without such weights


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="method 'meta_deepbcd' is unknown; did you mean 'meta_deepbdc'"):
        find_method("meta_deepbcd")
    with pytest.raises(UserError, match="did you mean 'protonet'"):
        create_head("prototnet", 1)
    with pytest.raises(UserError, match="did you mean 'resnet12'"):
        create_encoder("protonet", "resnet_12")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("protonet", {"C": 1.0}, "does not take these options"),
        ("protonet", {"distance": "cosine"}, "unknown distance 'cosine'"),
        ("stl_deepbdc", {"C": -1.0}, "C must be a number above 0"),
        ("meta_deepbdc", {"similarity": "trace"}, "unknown similarity"),
    ],
)
def test_wrong_head_options_are_one_sentence(name, options, message):
    with pytest.raises(UserError, match=message):
        create_head(name, 1, **options)


@pytest.mark.parametrize("options", [{"widht": 3}, {"width": [1, 2]}, {"pooled_stages": 9}])
def test_wrong_backbone_options_are_one_sentence(options):
    with pytest.raises(UserError, match="backbone 'conv4' does not take these options"):
        create_encoder("protonet", "conv4", options)


def test_pools():
    assert isinstance(create_encoder("stl_deepbdc", "conv4", SMALL).pool, BDC)
    assert create_encoder("stl_deepbdc", "conv4", SMALL, reduce_dim=3).pool.out_dim == 6
    assert isinstance(METHODS["good_embed"].head(1), GoodEmbed)


def options_of(name: str) -> list[tuple[str, object]]:
    """Return the numbers and switches that a head is built with: (name, default)."""
    words = {"k_shot", "similarity", "centre"}  # of the test, a word or None, and a list of numbers
    known = inspect.signature(type(create_head(name, 1))).parameters.values()
    return [(p.name, p.default) for p in known if p.name not in words and not isinstance(p.default, str)]


@pytest.mark.parametrize("name", list(METHODS))
def test_every_number_of_a_head_is_checked_before_long_work(name):
    """A word, a negative number and one that is no number are refused at once, with the option's name."""
    for option, default in options_of(name):
        if option == "use_queries":
            continue  # is what makes the method transductive, and refused in any other
        for wrong in ("abc",) if isinstance(default, bool) else ("abc", -3, math.nan, True, [1]):
            with pytest.raises(UserError, match=rf"{option} must be .*, not {re.escape(repr(wrong))}"):
                create_head(name, 1, **{option: wrong})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("frn", {"divisor": 0}), ("deepemd", {"iterations": 0}), ("baseline", {"lr": 0}), ("good_embed", {"C": 0}),
        ("tim", {"steps": 2.5}), ("adm", {"top_k": 0}), ("anil", {"inner_steps": 0}), ("covamnet", {"dropout": 1.5}),
    ],
)  # fmt: skip
def test_numbers_at_which_a_head_means_nothing_are_refused(name, options):
    with pytest.raises(UserError, match=f"the head of '{name}' does not take these options|must be"):
        create_head(name, 1, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("good_embed", {"norm_eps": None}), ("bd_cspn", {"top": None}), ("tim", {"steps": 0}), ("baseline", {"passes": 0}),
     ("deepemd", {"tune_passes": 0}), ("maml", {"test_steps": None})],
)  # fmt: skip
def test_the_ends_of_the_ranges_are_taken(name, options):
    assert isinstance(create_head(name, 1, **options), torch.nn.Module)
