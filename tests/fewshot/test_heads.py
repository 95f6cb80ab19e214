"""What holds for every head: labels decide, order does not, episodes do not see each other."""

from __future__ import annotations

import pytest
import torch

from backbones import UserError
from fewshot.adm import ADM, gaussian_kl
from fewshot.covamnet import CovaMNet
from fewshot.deepemd import DeepEMD
from fewshot.losses import cross_entropy
from fewshot.meta_deepbdc import MetaDeepBDC
from fewshot.protonet import ProtoNet
from tests.fewshot.episodes import (
    CONSTANT_SUPPORT,
    HEADS,
    MAP,
    NAMES_MATTER,
    NO_GRADIENT,
    ORDER_MATTERS,
    PADDING_MATTERS,
    VECTOR,
    build,
    random_episodes,
)

TIGHT = {"rtol": 1e-7, "atol": 1e-7}  # the logistic heads stop at a gradient of 1e-8


@pytest.fixture(params=list(HEADS))
def name(request) -> str:
    return request.param


def test_shape_and_dtype(name):
    head, shape = build(name)
    data = random_episodes(shape)
    logits = head(data.support, data.labels, data.query)
    assert logits.shape == (2, 4, 3)
    assert logits.dtype == torch.float64
    assert torch.isfinite(logits).all()


def test_support_order_does_not_matter(name):
    if name in ORDER_MATTERS:
        pytest.skip("tuned by SGD over the rows in a fixed order of their places, or a sequence by definition")
    head, shape = build(name)
    data = random_episodes(shape)
    order = torch.tensor([5, 0, 3, 2, 4, 1])
    shuffled = head(data.support[:, order], data.labels[:, order], data.query)
    torch.testing.assert_close(shuffled, head(data.support, data.labels, data.query), **TIGHT)


def test_renaming_classes_permutes_columns(name):
    if name in NAMES_MATTER:
        pytest.skip("starts from random weights for each class")
    head, shape = build(name)
    data = random_episodes(shape)
    new_name = torch.tensor([2, 0, 1])
    renamed = head(data.support, new_name[data.labels], data.query)
    expected = head(data.support, data.labels, data.query)
    torch.testing.assert_close(renamed[..., new_name], expected, **TIGHT)


def test_query_order_permutes_rows(name):
    head, shape = build(name)
    data = random_episodes(shape)
    order = torch.tensor([2, 3, 0, 1])
    moved = head(data.support, data.labels, data.query[:, order])
    torch.testing.assert_close(moved, head(data.support, data.labels, data.query)[:, order], **TIGHT)


def test_batch_equals_one_at_a_time(name):
    head, shape = build(name)
    data = random_episodes(shape, n_episodes=3)
    together = head(data.support, data.labels, data.query)
    alone = [head(data.support[i : i + 1], data.labels[i : i + 1], data.query[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), **TIGHT)


def test_episodes_of_different_shots_share_a_batch(name):
    """Padding is invisible, whatever it holds, and each episode follows the rule of its own shots."""
    if name in PADDING_MATTERS:
        pytest.skip("the batches of SGD depend on the number of rows, padding included")
    head, shape = build(name)
    one, many = random_episodes(shape, (1, 1, 1), n_episodes=1), random_episodes(shape, (3, 1, 2), n_episodes=1, seed=1)
    rubbish = torch.full((1, 3, *shape), float("nan"), dtype=torch.float64)
    support = torch.cat([torch.cat([rubbish, one.support], 1), many.support])
    labels = torch.cat([torch.cat([torch.full((1, 3), -1), one.labels], 1), many.labels])
    together = head(support, labels, torch.cat([one.query, many.query]))
    torch.testing.assert_close(together[:1], head(one.support, one.labels, one.query), **TIGHT)
    torch.testing.assert_close(together[1:], head(many.support, many.labels, many.query), **TIGHT)


def test_class_without_support_is_never_chosen(name):
    head, shape = build(name)
    data = random_episodes(shape)
    data.labels[0] = data.labels[0].clamp(max=1)  # class 2 is absent from the first episode only
    logits = head(data.support, data.labels, data.query)
    assert (logits[0, :, 2] == float("-inf")).all()
    assert torch.isfinite(logits[1]).all()
    assert torch.isfinite(logits[0, :, :2]).all()
    more = head(data.support, data.labels, data.query, n_way=4)
    assert (more[..., 3] == float("-inf")).all()
    torch.testing.assert_close(more[..., :3], logits, **TIGHT)


def test_one_query_one_class_one_shot(name):
    head, shape = build(name)
    data = random_episodes(shape, (1,), n_query=1, n_episodes=1)
    assert head(data.support, data.labels, data.query).shape == (1, 1, 1)


def test_half_precision_is_widened(name):
    head, shape = build(name)
    data = random_episodes(shape)
    half = (data.support.bfloat16(), data.labels, data.query.bfloat16())
    wide = head.float()(half[0].float(), half[1], half[2].float())
    torch.testing.assert_close(head(*half).float(), wide, rtol=1e-2, atol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(half[0].float(), half[1], half[2].float()), wide, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in HEADS if n not in NO_GRADIENT + CONSTANT_SUPPORT])
def test_gradients_are_exact(name):
    head, shape = build(name)
    data = random_episodes(shape, (2, 1), n_query=2, n_episodes=2)
    target = torch.tensor([[0, 1], [1, 0]])
    names = [key for key, _ in head.named_parameters()]

    def loss(support, query, *parameters):
        inputs = (support, data.labels, query)
        return cross_entropy(
            torch.func.functional_call(head, dict(zip(names, parameters, strict=True)), inputs), target
        )

    leaves = [x.detach().requires_grad_() for x in (data.support, data.query, *head.parameters())]
    assert torch.autograd.gradcheck(loss, leaves)


def test_gradients_survive_an_absent_class_and_padding(name):
    if name in NO_GRADIENT:
        pytest.skip("for frozen features")
    head, shape = build(name)
    data = random_episodes(shape)
    data.labels[0, 0] = -1
    support, query = data.support.requires_grad_(), data.query.requires_grad_()
    logits = head(support, data.labels, query, n_way=5)
    cross_entropy(logits, torch.tensor([[0, 1, 0, -1], [0, 1, -1, 0]])).backward()
    assert torch.isfinite(query.grad).all()
    if support.grad is not None:  # a tuned class map is a constant
        assert torch.isfinite(support.grad).all()
        assert (support.grad[0, 0] == 0).all()


def test_wrong_inputs_are_named(name):
    head, shape = build(name)
    data = random_episodes(shape)
    with pytest.raises(ValueError, match="support label 2 is outside 0..1"):
        head(data.support, data.labels, data.query, n_way=2)
    with pytest.raises(ValueError, match="must name every row"):
        head(data.support, data.labels[:, 1:], data.query)
    with pytest.raises(ValueError, match="add the episode axis"):
        head(data.support, data.labels, data.query[0])
    with pytest.raises(ValueError, match="same encoder"):
        head(data.support, data.labels, data.query[:1])
    with pytest.raises(ValueError, match="must be integers"):
        head(data.support, data.labels.double(), data.query)
    with pytest.raises(ValueError, match="pass n_way"):
        head(data.support, torch.full_like(data.labels, -1), data.query)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProtoNet("cosine"), "unknown distance 'cosine'"),
        (lambda: MetaDeepBDC(similarity="dot"), "unknown similarity 'dot'"),
        (lambda: MetaDeepBDC(k_shot=0), "at least 1"),
        (lambda: DeepEMD(solver="opencv"), "unknown solver 'opencv'"),
        (lambda: DeepEMD(norm="l2"), "unknown norm 'l2'"),
    ],
)
def test_unknown_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_meta_deepbdc_rule_follows_the_head_not_the_data():
    data = random_episodes(VECTOR, (3, 3))
    inner = MetaDeepBDC(k_shot=1)(data.support, data.labels, data.query)
    squared = MetaDeepBDC(k_shot=3)(data.support, data.labels, data.query)
    assert not torch.allclose(inner, squared)
    torch.testing.assert_close(MetaDeepBDC()(data.support, data.labels, data.query), squared)
    torch.testing.assert_close(MetaDeepBDC(similarity="inner", k_shot=3)(data.support, data.labels, data.query), inner)
    one = random_episodes(VECTOR, (1, 1))
    torch.testing.assert_close(
        MetaDeepBDC()(one.support, one.labels, one.query),
        MetaDeepBDC(k_shot=1)(one.support, one.labels, one.query),
    )


def test_exact_trace_refuses_lengths_that_are_no_triangle():
    data = random_episodes((16,))
    with pytest.raises(ValueError, match="length 16 are not the upper triangle"):
        MetaDeepBDC(exact_trace=True)(data.support, data.labels, data.query)


def test_adm_with_columns_of_its_own_is_for_one_number_of_ways():
    head = ADM(n_way=5).double()
    data = random_episodes(MAP)
    with pytest.raises(ValueError, match="built for 5-way"):
        head(data.support, data.labels, data.query)


def test_adm_refuses_a_single_position():
    data = random_episodes((4, 1, 1))
    with pytest.raises(ValueError, match="at least two positions"):
        ADM().double()(data.support, data.labels, data.query)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_adm_takes_features_that_vary_by_far_more_than_its_ridge(scale):
    """Their covariance is not positive definite in float32, and its rounding decides between classes before that."""
    draw = torch.Generator().manual_seed(0)
    common = torch.randn(96, 1, generator=draw) @ torch.randn(1, 30, generator=draw)
    maps = scale * (torch.randn(1, 8, 96, 30, generator=draw) + 10 * common)
    labels = torch.arange(5)[None]
    kl, _ = gaussian_kl(maps[:, :5], labels, maps[:, 5:], 5)
    expected, _ = gaussian_kl(maps[:, :5].double(), labels, maps[:, 5:].double(), 5)
    assert kl.dtype == torch.float32
    torch.testing.assert_close(kl.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("head", [ADM, CovaMNet])
def test_padding_that_is_not_a_number_does_not_reach_a_gradient(head):
    data = random_episodes(MAP, (2, 1))
    labels = data.labels.clone()
    labels[:, -1] = -1
    support = data.support.masked_fill((labels < 0)[..., None, None, None], float("nan")).requires_grad_()
    head().double().eval()(support, labels, data.query, n_way=3)[..., : int(labels.max()) + 1].sum().backward()
    assert torch.isfinite(support.grad).all()


def test_covamnet_refuses_a_single_position():
    data = random_episodes((4, 1, 1))
    with pytest.raises(UserError, match="maps of one position"):
        CovaMNet().double()(data.support, data.labels, data.query)


def test_adm_norm_learns_statistics_in_train_mode():
    head = ADM().double().train()
    data = random_episodes(MAP)
    head(data.support, data.labels, data.query)
    assert int(head.norm.num_batches_tracked) == 1
