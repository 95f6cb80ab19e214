"""The harness's rules one by one: recipes of inputs and weights, reductions, tolerances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference.compare import compare, compare_literal, tolerance_for
from tests.reference.fill import draw, fill
from tests.reference.inputs import build_input, build_weights
from tests.reference.reduce import reduce_list, reduce_value

EQUAL = {"rtol": 0.0, "atol": 0.0, "relative_to": "max"}


def test_tolerances():
    stored = np.array([1.0, 100.0, np.nan])
    near = stored + np.array([1e-3, 0, 0])
    compare("x", near, stored, {"rtol": 1e-4, "atol": 0.0, "relative_to": "max"})
    with pytest.raises(AssertionError, match="1 of 3"):
        compare("x", near, stored, {"rtol": 1e-4, "atol": 0.0, "relative_to": "elementwise"})
    compare("x", near, stored, {"rtol": 1e-4, "atol": 0.0, "relative_to": "norm"}, unreduced=np.full(4, 10.0))
    with pytest.raises(AssertionError, match="inf"):
        compare("x", np.array([1.0, 100.0, 0.0]), stored, {**EQUAL, "atol": 1.0})
    where = {**EQUAL, "where": {"array": "margin", "above": 0.5}}
    compare("x", np.array([2, 1]), np.array([0, 1]), where, arrays={"margin": np.array([0.1, 0.9])})
    with pytest.raises(AssertionError, match="1 of 2"):
        compare("x", np.array([0, 2]), np.array([0, 1]), where, arrays={"margin": np.array([0.1, 0.9])})
    some = {**EQUAL, "atol": 1.0, "max_differing_fraction": 0.5}
    compare("x", np.array([1, 0]), np.array([0, 0]), some)
    with pytest.raises(AssertionError, match="1.0000 of the values differ"):
        compare("x", np.array([1, 1]), np.array([0, 0]), some)
    with pytest.raises(AssertionError, match="shape"):
        compare("x", np.zeros(3), np.zeros(2), EQUAL)
    compare("x", np.zeros((2, 1)), np.zeros(2), EQUAL)


def test_first_matching_exception_counts():
    tolerance = {"rtol": 1.0, "arrays": {"grad_x": {"rtol": 2.0}, "grad*": {"rtol": 3.0}}}
    assert tolerance_for(tolerance, "grad_x_head", "grad_x")["rtol"] == 2.0
    assert tolerance_for(tolerance, "grad/w", "grad/w")["rtol"] == 3.0
    assert tolerance_for(tolerance, "out", "out")["rtol"] == 1.0


def test_literal_kinds():
    compare_literal("x", torch.tensor([[1, 2]]), [[1, 2]], EQUAL)
    compare_literal("x", (None, "a", True), [None, "a", True], EQUAL)
    compare_literal("x", [[0.5], [1, 2]], [[0.5], [1, 2]], EQUAL)
    for mine, expected in ((1, 2), ("a", "b"), ([1], [1, 2]), (None, 0.5), ([[0.5], [1, 3]], [[0.5], [1, 2]])):
        with pytest.raises((AssertionError, TypeError)):
            compare_literal("x", mine, expected, EQUAL)


def test_input_recipes():
    base = draw(1, (2, 4))
    recipe = {
        "seed": 1,
        "shape": [2, 4],
        "plus": [{"seed": 2, "shape": [2, 1], "weight": 0.5}],
        "matmul": {"seed": 3, "shape": [4, 3], "sqrt_of": 4},
        "transform": "relu",
        "scale": 2.0,
        "zeroed_channels": [1],
        "dtype": "float32",
    }
    expected = np.maximum((base + 0.5 * draw(2, (2, 1))) @ draw(3, (4, 3)) / 2, 0) * 2
    expected[:, 1] = 0
    found = build_input(recipe, {})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    many = build_input(
        {"seed": 1, "shape": [2], "plus": [{"seed": 9, "shape": [2], "weight": 1}], "count": 2, "seed_step": 5}, {}
    )
    np.testing.assert_array_equal(many[1], draw(6, (2,)) + draw(14, (2,)))
    whole = {"generator": "integers", "seed": 5, "low": 30, "high": 76, "shape": [4], "transform": "percent_of_75"}
    np.testing.assert_array_equal(build_input(whole, {}), np.random.default_rng(5).integers(30, 76, 4) / 75 * 100)
    halves = build_input({"seed": 1, "shape": [2, 3, 1], "rearrange": {"support_then_query": 1}}, {})
    episode = draw(1, (2, 3, 1))
    np.testing.assert_array_equal(halves[:, 0], episode[[0, 1, 0, 0, 1, 1], [0, 0, 1, 2, 1, 2], 0])
    np.testing.assert_array_equal(build_input({"generator": "arange", "shape": [2, 2]}, {}), [[0, 1], [2, 3]])
    np.testing.assert_array_equal(build_input({"value": 0.5, "shape": [2]}, {}), [0.5, 0.5])
    assert build_input({"value": [1, 2]}, {}) == [1, 2]
    for broken in ({"transform": "cube"}, {"generator": "halton"}, {"rearrange": {"query_first": 1}}):
        with pytest.raises(ValueError, match="unknown"):
            build_input({"seed": 1, "shape": [2], **broken}, {})


def test_weights_take_overrides_and_factors():
    keys = {"a.weight": [2, 2], "temperature": [1, 1]}
    recipe = {
        "prefix": "teacher.",
        "override": "override/",
        "factors": [{"prefix": "a", "suffix": "weight", "factor": 3}],
    }
    state = build_weights(recipe, keys, {"override/temperature": np.array([[-5.0]])})
    np.testing.assert_array_equal(state["a.weight"], 3 * fill("teacher.a.weight", (2, 2)))
    assert state["temperature"].item() == -5.0
    assert build_weights({"override": None}, keys, {"temperature": np.zeros((1, 1))})["temperature"].item() != 0


def test_reductions():
    value = draw(1, (4, 5, 3))
    fields = ("mean", "l2", "max_abs", "count", "sum", "min", "max", "std")
    shorten = {
        ("head", 7): value.ravel()[:7],
        ("probe", 64): value.ravel()[np.linspace(0, 59, 64).astype(int)],
        ("stats", 8): [
            f(value) for f in (np.mean, np.linalg.norm, lambda v: abs(v).max(), np.size, np.sum, np.min, np.max, np.std)
        ],
        ("shape", 3): [4, 5, 3],
        ("l2", 1): np.linalg.norm(value),
        ("proj", 1): (value * draw(990001, (4, 5, 3))).sum(),
        ("channel_mean_std", 6): [*value.mean((0, 1)), *value.std((0, 1))],
        ("summary", 5): [value.mean(), value.std(), np.linalg.norm(value), *value.ravel()[:2]],
    }
    for (how, size), expected in shorten.items():
        found = reduce_value(value, {"reduce": how}, np.zeros(size), fields)
        np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=how)
    part = reduce_value(value, {"reduce": "slice", "slices": [None, [1, 3], [1, None]]}, np.zeros(0), ())
    np.testing.assert_array_equal(part, value[:, 1:3, 1:])
    taken = reduce_value(value[..., 0], {"reduce": "take", "rows": [0, 2], "columns": [1, 3]}, np.zeros(0), ())
    np.testing.assert_array_equal(taken, value[[0, 2], 1:3, 0])
    pair = [value, 2 * value]
    np.testing.assert_allclose(reduce_list(pair, "l2_list", ()), np.linalg.norm(value) * np.array([1, 2]))
    assert reduce_list(pair, "stats_rows", ("mean", "min")).shape == (2, 2)
    with pytest.raises(ValueError, match="unknown reduction 'median'"):
        reduce_value(value, {"reduce": "median"}, np.zeros(1), ())
