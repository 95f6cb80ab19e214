"""OTAM against loops over every cell of the table, and what must not change its scores."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.frame_episodes import padded, random_episodes, shuffled
from tests.video.tiny import numbers
from video import otam
from video.otam import OTAM, aligned, otam_distances


def soft_minimum(values: list[float], smoothing: float) -> float:
    least = min(values)
    return least - smoothing * math.log(sum(math.exp((least - value) / smoothing) for value in values))


def plain_alignment(costs: list[list[float]], smoothing: float, hard: bool = False) -> float:
    """The paper's recursion, cell by cell: rows j, columns i with a column of zeros at both ends."""
    rows, columns = len(costs), len(costs[0]) + 2
    table = [[0.0] * columns for _ in range(rows)]
    least = min if hard else lambda ways: soft_minimum(ways, smoothing)
    for j in range(rows):
        for i in range(1, columns):
            cost = costs[j][i - 1] if i < columns - 1 else 0.0
            ways = [table[j][i - 1]]
            if j:
                ways.append(table[j - 1][i - 1])
            if j and i in (1, columns - 1):
                ways.append(table[j - 1][i])
            table[j][i] = cost + least(ways)
    return table[-1][-1]


def plain_cost(query, support, smoothing: float, both: bool) -> float:
    costs = [[1 - float(torch.cosine_similarity(q, s, dim=0)) for s in support] for q in query]
    walked = plain_alignment(costs, smoothing)
    other = plain_alignment([list(column) for column in zip(*costs, strict=True)], smoothing)
    return (walked + other) / 2 if both else walked


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("frames", "smoothing"), [(1, 0.1), (2, 1.0), (5, 0.1), (8, 0.02)])
def test_distances_are_those_of_the_plain_recursion(both, frames, smoothing):
    query, support = numbers(2, 3, frames, 4, seed=1), numbers(2, 2, frames, 4, seed=2)
    found = otam_distances(query, support, smoothing, both)
    for e in range(2):
        for q in range(3):
            for s in range(2):
                wanted = plain_cost(query[e, q], support[e, s], smoothing, both)
                assert found[e, q, s].item() == pytest.approx(wanted, abs=1e-11)


def test_little_smoothing_is_the_minimum():
    costs = torch.rand(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    hard = plain_alignment(costs.T.tolist(), 1.0, hard=True)
    assert aligned(costs, 1e-3).item() == pytest.approx(hard, abs=0.02)
    assert aligned(costs, 1e-3).item() <= hard + 1e-12  # never above it


def test_an_action_between_other_frames_costs_nothing():
    """The relaxed boundary: a walk through the support may begin and end at any frame of the query."""
    frames = torch.eye(8, dtype=torch.float64)
    action, query = frames[:3], frames[[5, 6, 0, 1, 2, 7]]
    backwards = frames[[5, 6, 2, 1, 0, 7]]
    costs = [1 - (q @ action.T).T for q in (query, backwards)]  # (i of the action, j of the query)
    assert aligned(costs[0], 0.01).item() == pytest.approx(0, abs=0.03)
    assert aligned(costs[1], 0.01).item() > 1


@pytest.mark.parametrize("score", otam.CLASS_SCORES)
def test_logits_are_minus_the_classes_costs(score):
    data = random_episodes()
    logits = OTAM(0.2, score, scale=2.0)(*data.parts)
    assert logits.shape == (2, 4, 3)
    for e in range(2):
        for q in range(4):
            for k in range(3):
                rows = data.support[e][data.labels[e] == k]
                rows = rows.mean(0, keepdim=True) if score == "prototype" else rows
                costs = [plain_cost(data.query[e, q], row, 0.2, True) for row in rows]
                assert logits[e, q, k].item() == pytest.approx(-2 * sum(costs) / len(costs), abs=1e-10)


@pytest.mark.parametrize("score", otam.CLASS_SCORES)
def test_padding_changes_nothing(score):
    data, head = random_episodes(), OTAM(class_score=score)
    torch.testing.assert_close(head(*padded(data).parts), head(*data.parts))


@pytest.mark.parametrize("score", otam.CLASS_SCORES)
def test_a_class_without_supports_is_never_chosen(score):
    data, head = random_episodes(), OTAM(class_score=score)
    logits = head(*data.parts, n_way=5)
    assert (logits[..., 3:] == -math.inf).all()
    torch.testing.assert_close(logits[..., :3], head(*data.parts))


@given(seed=st.integers(0, 1000), score=st.sampled_from(otam.CLASS_SCORES))
@settings(max_examples=20, deadline=None)
def test_the_order_of_supports_and_the_names_of_classes_mean_nothing(seed, score):
    data, head = random_episodes(seed=seed), OTAM(class_score=score)
    logits = head(*data.parts)
    torch.testing.assert_close(head(*shuffled(data, seed).parts), logits)
    names = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(head(*data.changed(labels=names[data.labels]).parts)[..., names], logits)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_the_length_of_features_means_nothing_and_their_order_does(seed, scale):
    data = random_episodes(seed=seed)
    logits = OTAM()(*data.parts)
    torch.testing.assert_close(OTAM()(*data.changed(query=data.query * scale).parts), logits)
    assert not torch.allclose(OTAM()(*data.changed(query=data.query.flip(2)).parts), logits, atol=1e-3)


@pytest.mark.parametrize("both", [True, False])
def test_gradients(both):
    query, support = numbers(1, 2, 3, 4).requires_grad_(), numbers(1, 2, 3, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda q, s: otam_distances(q, s, 0.1, both), (query, support))


def test_blocks_of_queries_change_nothing(monkeypatch):
    data = random_episodes(n_query=7)
    whole = OTAM()(*data.parts)
    monkeypatch.setattr(otam, "PAIR_NUMBERS", 2 * 6 * 25 * 2)  # two queries at a time
    torch.testing.assert_close(OTAM()(*data.parts), whole)


def test_float32_stays_near_float64_and_half_precision_is_widened():
    data = random_episodes(frames=16)
    wanted = OTAM(0.05)(*data.parts)
    single = OTAM(0.05)(data.support.float(), data.labels, data.query.float())
    torch.testing.assert_close(single.double(), wanted, atol=2e-5, rtol=2e-5)
    assert OTAM()(data.support.half(), data.labels, data.query.half()).dtype == torch.float32


def test_frames_that_are_zero_have_finite_scores_and_gradients():
    data = random_episodes()
    support = data.support.clone()
    support[:, :, 0] = 0
    support.requires_grad_()
    OTAM()(support, data.labels, data.query).sum().backward()
    assert support.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"smoothing": 0}, "smoothing"),
        ({"scale": -1}, "scale"),
        ({"class_score": "max"}, "mean, prototype"),
        ({"both": "no"}, "both"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        OTAM(**options)


def test_features_without_frames_are_refused():
    with pytest.raises(ValueError, match="FrameMeans"):
        OTAM()(torch.zeros(1, 2, 6), torch.tensor([[0, 1]]), torch.zeros(1, 3, 6))
