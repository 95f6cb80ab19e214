"""Every method of the table: episodes of every shape, features of every backbone, odd features."""

from __future__ import annotations

import warnings

import pytest
import torch

from backbones import create_backbone
from fewshot.losses import cross_entropy
from fewshot.methods import METHODS, create_encoder, create_head

NAMES = [name for name in METHODS if not METHODS[name].adapts]  # those that adapt the network take images
QUICK = {"deepemd": {"tune_passes": 3}, "tim": {"steps": 3}}  # 100 and 1000 by default
UNTRAINED = ("relation_net", "covamnet")  # say little before they are trained
# (shots of the classes, queries, episodes): uneven; one shot; many ways; two ways; one query
SHAPES = {
    "uneven": ((4, 1, 2), 5, 3),
    "one_shot": ((1,) * 5, 4, 2),
    "two_ways": ((3, 1), 3, 2),
    "twenty_ways": ((1,) * 19 + (2,), 2, 1),
    "one_query": ((2, 2, 2), 1, 1),
}
# backbone -> its options and the side of the pictures
BACKBONES = {
    "conv4": ({"width": 6, "pooled_stages": 2, "input_size": 20}, 20),
    "resnet12": ({"widths": [4, 6, 8, 10]}, 32),
    "timm:test_vit": ({"input_size": 32}, 32),
    "torchvision:squeezenet1_0": ({}, 48),
}


def shape_of(name: str, channels: int = 6) -> tuple[int, ...]:
    return {"map": (channels, 3, 3), "bdc": (channels * (channels + 1) // 2,), "gap": (channels,)}[METHODS[name].pool]


def head_of(name: str, k_shot: int = 1, channels: int = 6) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_head(name, k_shot, shape_of(name, channels)[0], **QUICK.get(name, {})).eval()


def mask_of(name: str, query: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"query_mask": torch.ones(query.shape[:2], dtype=torch.bool)} if METHODS[name].transductive else {}


def episodes(shape, shots, n_query, n_episodes, dtype=torch.float32):
    """Rectified features in the order of their classes, a class apart from the others."""
    generator = torch.Generator().manual_seed(len(shots))
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots)).expand(n_episodes, -1)
    centres = 3 * torch.randn(n_episodes, len(shots), *shape, generator=generator)
    rows = torch.arange(n_episodes)[:, None]
    truth = torch.arange(n_query).remainder(len(shots)).expand(n_episodes, -1)

    def draw(which: torch.Tensor) -> torch.Tensor:
        return (0.3 * torch.randn(*which.shape, *shape, generator=generator) + centres[rows, which]).relu().to(dtype)

    return draw(labels), labels, draw(truth), truth


@pytest.mark.parametrize("form", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_episodes_of_every_shape(name, form):
    """Finite logits, no way lost, and what padding is laid around the support changes no prediction."""
    shots, n_query, n_episodes = SHAPES[form]
    support, labels, query, truth = episodes(shape_of(name), shots, n_query, n_episodes)
    head = head_of(name, max(shots))
    logits = head(support, labels, query, n_way=len(shots), **mask_of(name, query))
    assert logits.shape == (n_episodes, n_query, len(shots))
    assert torch.isfinite(logits).all()
    padding = torch.full((n_episodes, 2, *support.shape[2:]), float("nan"))
    padded = torch.cat([support, padding], 1), torch.cat([labels, torch.full((n_episodes, 2), -1)], 1)
    again = head(*padded, query, n_way=len(shots), **mask_of(name, query))
    if name != "deepemd" or max(shots) == 1:  # the batches of its tuning depend on the number of rows
        assert torch.equal(again.argmax(-1), logits.argmax(-1))
    assert torch.isfinite(again).all()
    if n_query >= len(shots) - 1 and name not in UNTRAINED:
        assert (logits.argmax(-1) == truth).float().mean() > 1 / len(shots)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_features(name):
    """A float16 store or an autocast encoder: the answers are those of the same numbers in float32."""
    support, labels, query, _ = episodes(shape_of(name), (2, 1, 3), 6, 2, torch.float16)
    head = head_of(name, 3)
    half = head(support, labels, query, n_way=3, **mask_of(name, query))
    wide = head(support.float(), labels, query.float(), n_way=3, **mask_of(name, query))
    assert torch.isfinite(half).all()
    torch.testing.assert_close(half.float(), wide, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", NAMES)
def test_every_backbone(name, backbone):
    options, size = BACKBONES[backbone]
    torch.manual_seed(0)
    encoder = create_encoder(name, backbone, options, 5 if METHODS[name].pool == "bdc" else None, (2, 2)).eval()
    images = torch.randn(3 * 2 + 3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = encoder(images)[None]
        head = create_head(name, 2, encoder.out_dim, **QUICK.get(name, {})).eval()
        labels = torch.arange(3).repeat_interleave(2)[None]
        query = features[:, 6:]
        logits = head(features[:, :6], labels, query, n_way=3, **mask_of(name, query))
    assert logits.shape == (1, 3, 3) and torch.isfinite(logits).all()


def odd_features(kind: str, shape: tuple[int, ...]):
    """Three classes of two supports and three queries, with nothing (or little) to tell them apart by."""
    support, labels, query, _ = episodes(shape, (2, 2, 2), 3, 2)
    if kind == "zero":
        support, query = torch.zeros_like(support), torch.zeros_like(query)
    elif kind == "constant":
        support, query = torch.full_like(support, 0.3), torch.full_like(query, 0.3)
    elif kind == "zero_support":
        support = torch.zeros_like(support)
    elif kind == "zero_query":
        query = torch.zeros_like(query)
    elif kind == "same_support":  # the very same picture in every class
        support = support[:, :1].expand_as(support).clone()
    elif kind == "twice":  # every support twice, and the queries are supports
        support = support[:, ::2].repeat_interleave(2, 1)
        query = support[:, ::2].clone()
    elif kind == "dead_cells":  # a cell of a rectified map (or a feature) that is zero in all channels
        support[..., 0], query[..., 0] = 0, 0
    elif kind == "huge":
        support, query = 1e4 * support, 1e4 * query
    elif kind == "tiny":
        support, query = 1e-6 * support, 1e-6 * query
    return support, labels, query


ODD = ("zero", "constant", "zero_support", "zero_query", "same_support", "twice", "dead_cells", "huge", "tiny")
TIED = ("zero", "constant", "same_support")


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", NAMES)
def test_odd_features_give_numbers_and_finite_gradients(name, kind):
    head = head_of(name, 2)
    support, labels, query = odd_features(kind, shape_of(name))
    support.requires_grad_(), query.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits = head(support, labels, query, n_way=3, **mask_of(name, query))
        assert torch.isfinite(logits).all()
        if logits.requires_grad:
            cross_entropy(logits, torch.tensor([[0, 1, 2]] * 2)).backward()
            for leaf in (support, query, *head.parameters()):
                assert leaf.grad is None or torch.isfinite(leaf.grad).all()
                if (
                    kind not in ("tiny", "huge") and not name.startswith("anil") and leaf.grad is not None
                ):  # no 1 / epsilon where something is 0
                    assert leaf.grad.abs().max() < 1e6
    if kind == "twice" and name not in UNTRAINED:
        assert (logits.argmax(-1) == torch.arange(3)).all()


NEVER_TIED = ("baseline", "baseline_pp", "deepemd", "bd_cspn", "tim", "anil", "anil_bdc")


@pytest.mark.parametrize("kind", TIED)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in NEVER_TIED])
def test_what_cannot_be_told_apart_is_tied(name, kind):
    """No class may win by rounding or by its number.

    Baselines start at random weights, DeepEMD meets the rows one after the other, and the queries of BD-CSPN and TIM
    choose a class all the same. The inner steps of ANIL make rounding grow where features are long.
    """
    support, labels, query = odd_features(kind, shape_of(name))
    logits = head_of(name, 2)(support, labels, query, n_way=3, **mask_of(name, query))
    spread = (logits.amax(-1) - logits.amin(-1)) / (1 + logits.abs().amax(-1))
    assert spread.max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_single_class_takes_all(name):
    support, labels, query, _ = episodes(shape_of(name), (3,), 2, 2)
    logits = head_of(name, 3)(support, labels, query, n_way=1, **mask_of(name, query))
    assert logits.shape == (2, 2, 1) and torch.isfinite(logits).all()


LINEAR = [name for name in NAMES if hasattr(head_of(name), "linear")]


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("common", [0.0, 50.0])
def test_linear_scores_order_the_classes_as_the_logits_do(name, common):
    """Beside a large common part too, where |u|^2 would drown the differences; absent classes come last."""
    for k_shot in (1, 5):
        support, labels, query, _ = episodes(shape_of(name), (2, 1, 3, 1), 8, 3)
        support, query = support + common, query + common
        head = head_of(name, k_shot)
        logits = head(support.double(), labels, query.double(), n_way=5)
        weight, bias = head.linear(support, labels, 5)
        scores = query @ weight.transpose(1, 2) + bias.unsqueeze(1)
        assert (scores[..., 4] == float("-inf")).all()
        gaps = logits[..., :4].sort(-1).values.diff(dim=-1) / logits[..., :4].abs().amax(-1, keepdim=True)
        clear = gaps.amin(-1) > 1e-6  # no near tie
        assert clear.float().mean() > 0.8
        assert torch.equal(scores.argsort(-1)[clear], logits.argsort(-1)[clear])


def test_some_heads_have_linear_scores():
    assert set(LINEAR) == {"protonet", "meta_deepbdc", "meta_baseline"}


def test_the_backbones_differ_in_width():
    widths = {create_backbone(name, **options).out_channels for name, (options, _) in BACKBONES.items()}
    assert len(widths) == len(BACKBONES)
