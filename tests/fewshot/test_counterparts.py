"""Counterpart heads against their definitions, spelt out with loops in float64 for unequal shots."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fewshot.baseline import Baseline
from fewshot.baseline_pp import BaselinePP
from fewshot.covamnet import CovaMNet
from fewshot.finetuning import Recipe, batches, start_weights
from fewshot.matching_net import MatchingNet
from fewshot.relation_net import RelationNet
from fewshot.simpleshot import SimpleShot
from tests.fewshot.episodes import MAP, VECTOR, Episodes, build, random_episodes
from tests.fewshot.test_oracles import check, descriptors

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def by_queries(data: Episodes, score) -> torch.Tensor:
    """Return (E, Q, K) of score(support, labels, one query)."""
    episodes = zip(data.support, data.labels, data.query, strict=True)
    return torch.stack([torch.stack([score(s, y, u) for u in queries]) for s, y, queries in episodes])


def matching_by_definition(support, labels, u):
    keys = [s / s.norm() for s in support]
    powers = torch.stack([torch.exp(u @ key) for key in keys])
    shares = [sum(p for p, y in zip(powers, labels, strict=True) if y == k) / powers.sum() for k in range(3)]
    return torch.stack([torch.log(share + 1e-6) for share in shares])


def test_matching_net():
    data = random_episodes(VECTOR)
    expected = by_queries(data, matching_by_definition)
    torch.testing.assert_close(MatchingNet()(data.support, data.labels, data.query), expected, **TIGHT)


@pytest.mark.parametrize("steps", [None, 2])
def test_matching_net_with_context(steps):
    """Both LSTMs cell by cell."""
    torch.manual_seed(0)
    head = MatchingNet(context=True, in_channels=15, steps=steps).double()
    forth, back = (nn.LSTMCell(15, 15).double() for _ in range(2))
    for cell, ending in ((forth, "l0"), (back, "l0_reverse")):
        for name, value in cell.named_parameters():
            value.data.copy_(getattr(head.support_encoder, f"{name}_{ending.partition('_')[0]}" + ending[2:]))

    def sequence(cell, rows):
        state, states = None, []
        for row in rows:
            state = cell(row[None], state)
            states.append(state[0][0])
        return states

    def score(support, labels, u):
        rows = list(support)
        first, last = sequence(forth, rows), sequence(back, rows[::-1])[::-1]
        keys = torch.stack([row + a + b for row, a, b in zip(rows, first, last, strict=True)])
        hidden, cell = u, torch.zeros_like(u)
        for _ in range(len(rows) if steps is None else steps):
            read = (keys @ hidden).softmax(0) @ keys
            state, cell = head.query_encoder(torch.cat([u, read])[None], (hidden[None], cell[None]))
            hidden, cell = state[0] + u, cell[0]
        return matching_by_definition(keys, labels, hidden)

    data = random_episodes(VECTOR)
    with torch.no_grad():
        expected = by_queries(data, score)
        torch.testing.assert_close(head(data.support, data.labels, data.query), expected, **TIGHT)


def test_matching_net_context_is_for_one_length():
    data = random_episodes(VECTOR)
    with pytest.raises(ValueError, match="features of length 64 and got 15"):
        MatchingNet(context=True).double()(data.support, data.labels, data.query)


@pytest.mark.parametrize("class_map", ["mean", "sum"])
def test_relation_net(class_map):
    torch.manual_seed(0)
    head = RelationNet(in_channels=4, hidden=3, units=5, class_map=class_map).double().eval()
    for name, buffer in head.named_buffers():
        if "running" in name:
            buffer.add_(torch.rand_like(buffer))

    def score(rows, u):
        pair = torch.cat([getattr(rows, class_map)(0), u])[None]
        return head.relate(head.compare(pair))[0, 0]

    with torch.no_grad():
        check(head, random_episodes(MAP), score)


def test_relation_net_sees_all_pairs_at_once_in_train_mode():
    head, _ = build("relation_net")
    head.train()
    data = random_episodes(MAP)
    logits = head(data.support, data.labels, data.query)
    pairs = [
        torch.cat([s[y == k].mean(0), u])
        for s, y, queries in zip(data.support, data.labels, data.query, strict=True)
        for u in queries
        for k in range(3)
    ]
    expected = head.relate(head.compare(torch.stack(pairs))).view(2, 4, 3)
    torch.testing.assert_close(logits, expected, **TIGHT)


def test_relation_net_takes_blocks_of_episodes_without_a_difference(monkeypatch):
    head, _ = build("relation_net")
    data = random_episodes(MAP, n_episodes=5)
    whole = head(data.support, data.labels, data.query)
    monkeypatch.setattr("fewshot.relation_net.PAIR_NUMBERS", 500)  # two episodes
    torch.testing.assert_close(head(data.support, data.labels, data.query), whole, **TIGHT)


@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 7, 5)])
def test_relation_net_takes_maps_of_any_size(shape):
    head, _ = build("relation_net")
    data = random_episodes(shape)
    assert torch.isfinite(head(data.support, data.labels, data.query)).all()


def test_relation_net_is_for_one_number_of_channels():
    data = random_episodes(MAP)
    with pytest.raises(ValueError, match="maps of 64 channels and got"):
        RelationNet().double()(data.support, data.labels, data.query)
    vectors = random_episodes(VECTOR)
    with pytest.raises(ValueError, match="maps of 15 channels and got"):
        RelationNet(in_channels=15).double()(vectors.support, vectors.labels, vectors.query)


@pytest.mark.parametrize("n_positions", [None, 6])
def test_covamnet(n_positions):
    head = CovaMNet(n_positions).double().eval()
    with torch.no_grad():
        head.taps.copy_(torch.linspace(0.5, 1.5, len(head.taps)))

    def score(rows, u):
        pool = descriptors(rows)
        centred = pool - pool.mean(0)
        covariance = centred.T @ centred / (len(pool) - 1)
        q = descriptors(u)
        q = q - q.mean(0)
        places = torch.stack([x @ covariance @ x for x in q])
        places = torch.where(places > 0, places, 0.2 * places)
        return (head.taps @ places if n_positions else head.taps[0] * places.mean()).detach()

    check(head, random_episodes(MAP), score)


def test_covamnet_dropout_and_positions():
    data = random_episodes(MAP)
    torch.manual_seed(0)
    head = CovaMNet().double()
    assert not torch.equal(*(head(data.support, data.labels, data.query) for _ in range(2)))
    with pytest.raises(ValueError, match="each of 25 positions and the maps have 6"):
        CovaMNet(n_positions=25).double()(data.support, data.labels, data.query)


def simpleshot_by_definition(variant, centre):
    def change(x):
        x = x - centre if variant == "CL2N" else x
        return x if variant == "UN" else x / x.norm()

    return lambda rows, u: -((change(u) - torch.stack([change(r) for r in rows]).mean(0)) ** 2).sum()


@pytest.mark.parametrize("variant", ["UN", "L2N", "CL2N"])
def test_simpleshot(variant):
    centre = torch.linspace(-1, 1, 15, dtype=torch.float64) if variant == "CL2N" else None
    check(SimpleShot(variant, centre), random_episodes(VECTOR), simpleshot_by_definition(variant, centre))


def test_simpleshot_without_base_features_centres_on_the_support():
    data = random_episodes(VECTOR, n_episodes=1)
    means = [data.support[0][data.labels[0] == k].mean(0) for k in range(3)]
    check(SimpleShot("CL2N"), data, simpleshot_by_definition("CL2N", sum(means) / 3))


def test_simpleshot_forgets_a_shift_of_all_features_when_centred():
    data = random_episodes(VECTOR)
    head = SimpleShot("CL2N")
    moved = head(data.support + 3, data.labels, data.query + 3)
    torch.testing.assert_close(moved, head(data.support, data.labels, data.query), **TIGHT)


def test_simpleshot_options():
    with pytest.raises(ValueError, match="unknown variant 'L2'"):
        SimpleShot("L2")
    with pytest.raises(ValueError, match="CL2N alone"):
        SimpleShot("L2N", torch.zeros(15))
    data = random_episodes(VECTOR)
    with pytest.raises(ValueError, match="differ"):
        SimpleShot("CL2N", torch.zeros(3))(data.support, data.labels, data.query)


class CosineLayer(nn.Module):
    """A weight-normalised layer on normalised rows, times 2."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer = weight_norm(layer)

    def forward(self, x):
        return 2 * self.layer(x / (x.norm(dim=1, keepdim=True) + 1e-5))


def trained(support, labels, query, recipe: Recipe, cosine: bool):
    """Chen et al.'s loop on one episode with torch's own layer, loss and optimiser."""
    n_way = int(labels.max()) + 1
    weights, bias = start_weights(recipe, n_way, support.shape[1], support)
    layer = nn.Linear(support.shape[1], n_way, bias=not cosine).double()
    layer.weight.data.copy_(weights)
    if cosine:
        model = CosineLayer(layer)
    else:
        layer.bias.data.copy_(bias)
        model = layer
    optimiser = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=0.9, dampening=0.9, weight_decay=recipe.weight_decay
    )
    keys = recipe.generators()[1].random((len(labels), recipe.passes))
    for number in range(recipe.passes):
        order = np.argsort(keys[:, number])
        for start in range(0, len(order), recipe.batch_size):
            rows = torch.from_numpy(order[start : start + recipe.batch_size])
            optimiser.zero_grad()
            F.cross_entropy(model(support[rows]), labels[rows]).backward()
            optimiser.step()
    return model(query).detach()


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("shots", [(1, 1, 1), (3, 1, 2)])
def test_baselines_are_the_iterates_of_sgd(cosine, shots):
    """A large rate and decay, so that every term of the optimiser counts."""
    data = random_episodes(VECTOR, shots)
    options = {"passes": 10, "lr": 0.3, "weight_decay": 0.1, "seed": 3}
    head = BaselinePP(**options) if cosine else Baseline(**options)
    expected = [
        trained(s, y, u, head.recipe, cosine) for s, y, u in zip(data.support, data.labels, data.query, strict=True)
    ]
    torch.testing.assert_close(head(data.support, data.labels, data.query), torch.stack(expected), **TIGHT)


def test_baselines_with_the_published_recipe():
    recipe = Baseline().recipe
    assert recipe == BaselinePP().recipe == Recipe(100, 4, 0.01, 0.9, 0.9, 0.001, 0)
    data = random_episodes(VECTOR, n_episodes=1)
    for head, cosine in ((Baseline(), False), (BaselinePP(), True)):
        expected = trained(data.support[0], data.labels[0], data.query[0], recipe, cosine)
        torch.testing.assert_close(head(data.support, data.labels, data.query)[0], expected, **TIGHT)


@pytest.mark.parametrize("make", [Baseline, BaselinePP])
def test_baselines_depend_on_the_seed_alone(make):
    data = random_episodes(VECTOR)
    inputs = (data.support, data.labels, data.query)
    torch.manual_seed(1)
    first = make(passes=3)(*inputs)
    torch.manual_seed(2)
    assert torch.equal(make(passes=3)(*inputs), first)
    assert not torch.allclose(make(passes=3, seed=1)(*inputs), first)


@pytest.mark.parametrize("make", [Baseline, BaselinePP])
def test_baselines_fit_the_support_and_take_no_gradient(make):
    data = random_episodes(VECTOR)
    logits = make(passes=50, lr=1.0)(data.support, data.labels, data.support.requires_grad_())
    assert torch.equal(logits.argmax(-1), data.labels)
    assert not logits.requires_grad


def test_batches_visit_every_real_row_once_a_pass():
    labels = torch.tensor([[-1, 0, 1, 1, -1, 0], [0, 0, 1, 1, 2, 2]])
    recipe = Recipe(passes=2)
    steps = list(batches(labels, recipe))
    assert len(steps) == 4
    for number in (0, 2):
        rows, weight = (torch.cat(x, 1) for x in zip(*steps[number : number + 2], strict=True))
        assert sorted(rows[0][weight[0] > 0].tolist()) == [1, 2, 3, 5]
        assert sorted(rows[1][weight[1] > 0].tolist()) == [0, 1, 2, 3, 4, 5]
        assert steps[number][1].tolist() == [[0.25] * 4] * 2
        assert steps[number + 1][1].tolist() == [[0, 0], [0.5, 0.5]]
    assert not torch.equal(steps[0][0], steps[2][0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Baseline(start="ones"), "unknown start 'ones'"),
        (lambda: BaselinePP(start="zeros"), "unknown start 'zeros'"),
        (lambda: Baseline(batch_size=0), "batch_size must be .* at least 1 .or null., not 0"),
        (lambda: BaselinePP(passes=-1), "passes must be .* at least 0, not -1"),
        (lambda: RelationNet(class_map="max"), "unknown class_map 'max'"),
    ],
)
def test_unknown_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
