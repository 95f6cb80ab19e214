"""MAML and ANIL: equal to learn2learn to rounding, exact meta-gradients through second-order pooling, free n_way."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import UserError
from fewshot.anil import ANIL
from fewshot.batch_statistics import BatchStatistics
from fewshot.encoder import Encoder, EpisodeModel, episode_step
from fewshot.maml import MAML, AdaptingHead, with_encoder
from fewshot.methods import METHODS, create_encoder, create_head
from moments import BDC, covariance, newton_schulz_root, upper_triangle

SMALL = {"width": 4, "pooled_stages": 2, "input_size": 8}
LABELS = torch.tensor([[0, 1, 2, 0, 1, -1, -1], [2, 2, 1, 0, 0, 1, 0]])  # uneven shots, in no order, with padding
REAL = torch.tensor([[True] * 5, [True, True, True, False, False]])
STARTS = {"zeros": {}, "learned": {"n_way": 4}}


@pytest.fixture(scope="module")
def learn2learn():
    return pytest.importorskip("learn2learn")


def normal(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_(grad)


def build_encoder(method: str = "maml", training: bool = True) -> Encoder:
    torch.manual_seed(0)
    return create_encoder(method, "conv4", SMALL, reduce_dim=3, map_size=(2, 2)).double().train(training)


def twins(kind: type, training: bool = True, **options) -> list[nn.Module]:
    """The same head, by torch and by learn2learn."""
    heads = [
        kind(2, 3, 0.5, library=library, **options).double().train(training) for library in ("torch", "learn2learn")
    ]
    heads[1].load_state_dict(heads[0].state_dict())
    return heads


def assert_same(results: list[tuple[Tensor, ...]]) -> None:
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("first_order", [False, True])
def test_anil_is_learn2learns(learn2learn, start, first_order):
    support, query = normal(2, 7, 6, grad=True), normal(2, 5, 6, seed=1, grad=True)
    results = []
    for head in twins(ANIL, start=start, first_order=first_order, in_channels=6, **STARTS[start]):
        logits = head(support, LABELS, query, n_way=3)
        wanted = [query, *head.parameters(), *([] if first_order else [support])]
        results.append((logits, *torch.autograd.grad(logits.sin().sum(), wanted)))
    assert_same(results)
    if first_order and start == "zeros":  # the support then has no way to the meta-gradient
        assert torch.autograd.grad(head(support, LABELS, query).sum(), support, allow_unused=True)[0] is None


@pytest.mark.parametrize("bn", ["support", "running", "transductive"])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("method", ["maml", "maml_bdc"])
def test_maml_is_learn2learns(learn2learn, method, first_order, start, bn):
    encoder, results = build_encoder(method), []
    support, query = normal(2, 7, 3, 8, 8), normal(2, 5, 3, 8, 8, seed=1)
    options = {"start": start, "bn": bn, "first_order": first_order, "in_channels": encoder.out_dim, **STARTS[start]}
    for head in twins(MAML, **options):
        logits = head(encoder, support, LABELS, query, n_way=3, query_mask=REAL)
        wanted = [*encoder.parameters(), *head.parameters()]
        results.append((logits, *torch.autograd.grad(logits.sin().sum(), wanted)))
    assert_same(results)
    assert (logits[~REAL] == 0).all()


@pytest.mark.parametrize("library", ["torch", "learn2learn"])
def test_a_test_adapts_a_frozen_network_and_leaves_it_as_it_was(learn2learn, library):
    encoder = build_encoder(training=False)
    support, query = normal(2, 7, 3, 8, 8), normal(2, 5, 3, 8, 8, seed=1)
    head = MAML(3, 3, 0.5, library=library).double()
    trained = head.eval()(encoder, support, LABELS, query)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.requires_grad_(False)
    with torch.no_grad():
        tested = head(encoder, support, LABELS, query)
    torch.testing.assert_close(tested, trained.detach())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


class Smooth(nn.Module):
    """A network without kinks, so that finite differences are those of the derivative; `pool` makes its features."""

    def __init__(self, pool: nn.Module, out_dim: int) -> None:
        super().__init__()
        self.layer, self.pool, self.out_dim = nn.Conv2d(3, 4, 3), pool, out_dim

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.layer(images).tanh())


class Root(nn.Module):
    """Covariance and its square root by Newton and Schulz (iSQRT-COV)."""

    def forward(self, maps: Tensor) -> Tensor:
        return upper_triangle(newton_schulz_root(covariance(maps), 3))


def smooth_encoder(pool: str) -> Smooth:
    torch.manual_seed(0)
    return Smooth(BDC(4, map_size=(4, 4)) if pool == "bdc" else Root(), 10).double()


def meta_loss(head: nn.Module, encoder: nn.Module) -> Tensor:
    support, query, labels = normal(1, 4, 3, 6, 6), normal(1, 3, 3, 6, 6, seed=1), torch.tensor([[0, 1, 0, 1]])
    if isinstance(head, ANIL):
        support, query = (encoder(x[0])[None] for x in (support, query))
        logits = head(support, labels, query)
    else:
        logits = head(encoder, support, labels, query)
    return F.cross_entropy(logits[0], torch.tensor([1, 0, 1]))


@pytest.mark.parametrize("kind", [MAML, ANIL])
@pytest.mark.parametrize("pool", ["bdc", "root"])
@pytest.mark.parametrize("start", ["prototypes", "learned"])
def test_the_second_order_meta_gradient_is_that_of_the_whole_objective(kind, pool, start):
    """Through BDC and the square root of the covariance, by central differences along a random direction."""
    encoder = smooth_encoder(pool)
    options = {"start": start, "in_channels": 10, "n_way": 2 if start == "learned" else None}
    heads = {order: kind(3, 3, 1.0, first_order=order, **options).double() for order in (False, True)}
    heads[True].load_state_dict(heads[False].state_dict())
    weights = [*encoder.parameters(), *heads[False].parameters()]
    direction = [normal(*weight.shape, seed=number) for number, weight in enumerate(weights)]

    def slope(order: bool) -> float:
        own = [*encoder.parameters(), *heads[order].parameters()]
        slopes = torch.autograd.grad(meta_loss(heads[order], encoder), own)
        return sum(float((s * d).sum()) for s, d in zip(slopes, direction, strict=True))

    def moved(step: float) -> float:
        with torch.no_grad():
            for weight, d in zip(weights, direction, strict=True):
                weight.add_(d, alpha=step)
            value = float(meta_loss(heads[False], encoder))
            for weight, d in zip(weights, direction, strict=True):
                weight.add_(d, alpha=-step)
        return value

    measured = (moved(1e-5) - moved(-1e-5)) / 2e-5
    assert slope(False) == pytest.approx(measured, rel=1e-6)
    assert slope(True) != pytest.approx(measured, rel=1e-3)  # the first order is another number, so the test can tell


@pytest.mark.parametrize("library", ["torch", "learn2learn"])
def test_learn2learns_meta_gradient_through_bdc_is_right_as_well(learn2learn, library):
    encoder = smooth_encoder("bdc")
    head = MAML(2, 2, 1.0, start="learned", n_way=2, in_channels=10, library=library).double()
    loss = meta_loss(head, encoder)
    (slope,) = torch.autograd.grad(loss, encoder.pool.temperature)
    with torch.no_grad():
        values = []
        for step in (1e-5, -1e-5):
            encoder.pool.temperature += step
            values.append(float(meta_loss(head, encoder)))
            encoder.pool.temperature -= step
    assert slope.item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", ["maml", "maml_bdc", "maml_transductive", "anil", "anil_bdc"])
@pytest.mark.parametrize("start", ["zeros", "prototypes"])
def test_any_n_way_in_any_order_with_any_padding(name, start):
    encoder = build_encoder(name, training=False)
    head = with_encoder(create_head(name, 1, encoder.out_dim, start=start, inner_lr=0.5).double().eval(), encoder)
    support, query = normal(1, 6, 3, 8, 8), normal(1, 4, 3, 8, 8, seed=1)
    if not METHODS[name].adapts:
        support, query = (encoder(x[0])[None] for x in (support, query))
    labels = torch.tensor([[0, 1, 2, 3, 0, 2]])
    with torch.no_grad():
        logits = head(support, labels, query)
        order = torch.tensor([2, 0, 3, 1])
        torch.testing.assert_close(head(support, order[labels], query)[..., order], logits)
        padded = torch.cat([support, 1e3 * support[:, :2]], 1), F.pad(labels, (0, 2), value=-1)
        more = head(*padded, query, n_way=6)  # as in a batch with an episode of six classes
        torch.testing.assert_close(more[..., :4], logits)
        assert (more[..., 4:] == -torch.inf).all()
        alone = head(support[:, :1], labels[:, :1], query)  # a single class
        assert alone.shape == (1, 4, 1)
        assert alone.isfinite().all()


@pytest.mark.parametrize("name", ["anil", "maml"])
def test_equal_rows_are_zeros(name):
    """A start whose rows are all the same predicts what zeros predict: softmax does not see it."""
    encoder = build_encoder(name, training=False)
    support, query, labels = normal(1, 4, 3, 8, 8), normal(1, 4, 3, 8, 8, seed=1), torch.tensor([[0, 1, 2, 0]])
    heads = [
        create_head(name, 1, encoder.out_dim, inner_lr=0.5, test_steps=None, **options).double()
        for options in ({}, {"start": "learned", "n_way": 3})
    ]
    with torch.no_grad():
        heads[1].weight.copy_(heads[1].weight[:1].clone().expand(3, -1))
        heads[1].bias.fill_(0.3)
    if name == "anil":
        support, query = (encoder(x[0])[None] for x in (support, query))
    zeros, equal = (with_encoder(head, encoder)(support, labels, query).softmax(-1) for head in heads)
    torch.testing.assert_close(zeros, equal)


def test_the_prototype_start_without_steps_is_the_prototype_classifier():
    support, query = normal(2, 7, 6), normal(2, 5, 6, seed=1)
    head, proto = ANIL(1, 0, start="prototypes").eval(), create_head("protonet", 1)
    mine, other = (x(support, LABELS, query).log_softmax(-1) for x in (head, proto))
    torch.testing.assert_close(mine, other)


def test_queries_help_each_other_in_transductive_batch_norm_alone():
    encoder = build_encoder(training=False)
    support, query, labels = normal(1, 4, 3, 8, 8), normal(1, 4, 3, 8, 8, seed=1), torch.tensor([[0, 1, 0, 1]])
    for bn in ("support", "running", "transductive"):
        head = AdaptingHead(encoder, MAML(2, 2, 0.5, bn=bn).double())
        assert head.transductive == (bn == "transductive")
        with torch.no_grad():
            together, alone = head(support, labels, query), head(support, labels, query[:, :1])
        assert torch.allclose(together[:, :1], alone) == (bn != "transductive")


def test_batch_statistics_of_the_support_are_those_of_a_plain_batch_norm():
    """On a layer of torch and on one of timm, which norms and activates at once."""
    for layer in (nn.BatchNorm2d(3), timm.layers.BatchNormAct2d(3)):
        layer = layer.double().train()
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
            layer.bias.copy_(torch.tensor([0.1, 0.0, -0.2]))
        x = 3 + 2 * normal(6, 3, 5, 5)
        start = [layer.running_mean.clone(), layer.running_var.clone()]
        with BatchStatistics("support", 4):
            mine = layer(x)
        assert torch.equal(layer.running_mean, start[0])
        with BatchStatistics("support", 4, update=True):
            layer(x)
        seen = [layer.running_mean.clone(), layer.running_var.clone()]
        layer.running_mean.copy_(start[0])
        layer.running_var.copy_(start[1])
        torch.testing.assert_close(mine[:4], layer(x[:4]))  # which moves the running statistics as well
        torch.testing.assert_close(seen, [layer.running_mean, layer.running_var])
        # the rest by the same statistics, written out
        mean, var = x[:4].mean((0, 2, 3)), x[:4].var((0, 2, 3), correction=0)
        rest = F.batch_norm(x[4:], mean, var, layer.weight, layer.bias, False, 0.0, layer.eps)
        torch.testing.assert_close(mine[4:], rest.relu() if isinstance(layer, timm.layers.BatchNormAct2d) else rest)


@pytest.mark.parametrize("backbone", ["resnet12", "timm:resnet18", "timm:vit_tiny_patch16_224"])
def test_any_backbone_adapts(backbone):
    options = (
        {"widths": [4, 4, 4, 4]}
        if backbone == "resnet12"
        else {"img_size": 32}
        if "vit" in backbone
        else {"layers": [1, 1, 1, 1]}
    )
    encoder = create_encoder("maml", backbone, options)
    model = EpisodeModel(encoder, create_head("maml", 1, encoder.out_dim, inner_steps=1, inner_lr=0.1))
    torch.manual_seed(0)
    batch = {"images": torch.randn(1, 4, 3, 32, 32), "support_labels": torch.tensor([[0, 1]])}
    episode_step(model, {**batch, "query_labels": torch.tensor([[1, 0]])})["loss"].backward()
    slopes = [parameter.grad for parameter in model.backbone.parameters() if parameter.grad is not None]
    assert all(slope.isfinite().all() for slope in slopes)
    assert sum(slope.abs().sum() for slope in slopes) > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("maml", {"inner_steps": 0}, "inner_steps must be a whole number of at least 1"),
        ("anil", {"inner_lr": float("nan")}, "inner_lr must be a number above 0, not nan"),
        ("anil", {"start": "random"}, "unknown start 'random'.*zeros, prototypes, learned"),
        ("maml", {"library": "higher"}, "unknown library 'higher'"),
        ("maml", {"start": "learned"}, "a learned start needs n_way"),
        ("maml", {"n_way": 5}, "the other starts know no n_way"),
        ("maml", {"bn": "batch"}, "unknown bn 'batch'.*support, running, transductive"),
        ("maml", {"bn": "transductive"}, "name the method maml_transductive"),
        ("maml_transductive", {"bn": "support"}, "does not take these options"),
        ("anil", {"start": "prototypes", "library": "learn2learn"}, "needs library='torch'"),
    ],
)
def test_wrong_options_are_one_sentence(name, options, message):
    with pytest.raises(UserError, match=message):
        create_head(name, 1, 8, **options)


def test_a_learned_start_serves_as_many_classes_or_fewer():
    head = create_head("anil", 1, 6, start="learned", n_way=3)
    assert head(normal(1, 2, 6), torch.tensor([[0, 1]]), normal(1, 4, 6)).shape == (1, 4, 2)
    with pytest.raises(UserError, match="has 3 classes, an episode has 4: lower n_way"):
        head(normal(1, 4, 6), torch.tensor([[0, 1, 2, 3]]), normal(1, 4, 6))


def test_a_wrong_mask_is_refused():
    with pytest.raises(ValueError, match="query_mask must be boolean and name every query"):
        MAML()(build_encoder(), normal(1, 2, 3, 8, 8), torch.tensor([[0, 1]]), normal(1, 4, 3, 8, 8), None, REAL)
