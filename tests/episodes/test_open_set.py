"""Known against unknown queries: ranks, areas and curves, against scikit-learn and plain counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from episodes.errors import UserError
from episodes.open_set import OpenSet, known_scores, midranks, placements


@settings(max_examples=100)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 9), st.integers(1, 8), st.integers(0, 2**32))
def test_area_is_that_of_scikit_learn_ties_and_padding_included(episodes, n_query, n_unknown, levels, seed):
    generator = np.random.default_rng(seed)
    known = generator.integers(0, levels, (episodes, n_query)) / 7
    unknown = generator.integers(0, levels, (episodes, n_unknown)) / 7
    real = generator.random(known.shape) < 0.7
    real[:, 0] = True
    areas = placements(np.where(real, known, np.nan), unknown).mean(axis=1)
    for row in range(episodes):
        scores = np.concatenate([known[row][real[row]], unknown[row]])
        truth = np.arange(len(scores)) < real[row].sum()
        assert areas[row] == pytest.approx(roc_auc_score(truth, scores))


def test_curve_counts_known_above_each_unknown():
    known, unknown = np.array([[0.9, 0.5, 0.5, 0.1]]), np.array([[0.2, 0.95, 0.5]])
    np.testing.assert_allclose(placements(known, unknown), [[0.0, (1 + 2 / 2) / 4, 3 / 4]])


def test_midranks():
    values = np.array([[3.0, 1.0, 3.0, np.nan, 2.0], [5.0, 5.0, 5.0, 5.0, 4.0]])
    assert midranks(values).tolist() == [[3.5, 1, 3.5, 5, 2], [3.5, 3.5, 3.5, 3.5, 1]]


def test_probability_orders_as_softmax_does_and_never_saturates():
    logits = torch.randn(2, 50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    scores, probability = known_scores(logits), logits.softmax(-1).amax(-1)
    torch.testing.assert_close(1 / (1 - scores), probability)
    sharp = torch.tensor([[[0.0, -60.0, -61.0], [0.0, -80.0, -81.0]]])
    assert sharp.softmax(-1).amax(-1).tolist() == [[1.0, 1.0]]  # a tie that says nothing
    assert known_scores(sharp)[0, 0] < known_scores(sharp)[0, 1]


def test_absent_classes_take_no_part():
    logits = torch.tensor([[[1.0, 0.0, float("-inf")]]])
    assert known_scores(logits).item() == pytest.approx(-np.exp(-1))
    assert known_scores(logits, "logit").item() == 1.0


def test_largest_logit_is_another_order():
    logits = torch.tensor([[[5.0, 4.9], [1.0, -9.0]]])
    assert known_scores(logits, "logit")[0].tolist() == [5.0, 1.0]
    assert known_scores(logits)[0, 0] < known_scores(logits)[0, 1]


@pytest.mark.parametrize(("logits", "by", "words"), [
    (torch.full((1, 2, 3), torch.nan), "probability", "not a number"),
    (torch.zeros(1, 2, 3), "entropy", "probability or logit, not by entropy"),
])  # fmt: skip
def test_scores_that_cannot_be_given_are_refused(logits, by, words):
    with pytest.raises(UserError, match=words):
        known_scores(logits, by)


def test_parts_merge_to_the_whole():
    generator = np.random.default_rng(0)
    known, unknown = generator.random((10, 6)), generator.random((10, 4))
    known[2, 4:] = np.nan
    curves = placements(known, unknown)
    whole = OpenSet.of(known, unknown, curves, "logit")
    parts = [OpenSet.of(known[rows], unknown[rows], curves[rows], "logit") for rows in (slice(0, 3), slice(3, 10))]
    merged = OpenSet.merge(parts)
    np.testing.assert_allclose(merged.curve, whole.curve)
    assert merged.episodes == 10 and len(merged.known) == 58
    np.testing.assert_array_equal(merged.unknown, whole.unknown)
