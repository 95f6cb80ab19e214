"""Run one vector: call its adapter, differentiate, shorten, compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from tests.reference.case import Case, Result
from tests.reference.compare import compare, compare_literal, tolerance_for
from tests.reference.fill import draw
from tests.reference.load import Vector
from tests.reference.reduce import LISTS, reduce_list, reduce_value

Adapter = Callable[[Case], Result]


def assert_vector(vector: Vector, adapter: Adapter, tolerance: Mapping, dtype: torch.dtype | None = None) -> None:
    """Raise AssertionError unless everything the vector asks for agrees with what is stored.

    tolerance: the item's `tolerance`, or `tolerance_float32` with dtype float32; its applies_to = outputs leaves the
    gradients out.
    """
    item = vector.item
    result = adapter(Case(vector, dtype))
    problems = []
    outputs_only = str(tolerance.get("applies_to", "all")).startswith("output")
    wanted = list(_wanted(vector, item.get("outputs") or {}))
    if not outputs_only:
        gradients = list(_wanted(vector, item.get("gradients") or {}))
        result.values.update(_differentiate(result, gradients, vector))
        wanted += gradients
    for name, spec in wanted:
        _collect(problems, _check_array, vector, result, name, spec, tolerance)
    for quantity, expected in (item.get("expected") or {}).items():
        _collect(problems, _check_literal, result, quantity, expected, tolerance)
    if item.get("keys_value"):
        _collect(problems, _check_literal, result, item["keys_value"], vector.keys, tolerance)
    if item.get("table_value"):
        _collect(problems, _check_literal, result, item["table_value"], vector.table, tolerance)
    if problems:
        raise AssertionError("\n".join(problems))
    if not wanted and not item.get("expected") and not item.get("keys_value") and not item.get("table_value"):
        raise AssertionError(f"{vector.name} asks for nothing, so it checks nothing")


def _collect(problems: list[str], check: Callable, *args) -> None:
    """Run a check and keep its message, so that one report names every array that differs."""
    try:
        check(*args)
    except AssertionError as error:
        problems.append(str(error))


def _wanted(vector: Vector, specs: Mapping[str, Mapping]) -> Iterator[tuple[str, Mapping]]:
    """Yield (npz array, spec), a family `name/*` spelt out into the arrays that the item does not name on its own."""
    for name, spec in specs.items():
        if not name.endswith("/*"):
            yield name, spec
            continue
        prefix = name[:-1]
        members = [array for array in vector.arrays if array.startswith(prefix) and array not in vector.named]
        if not members:
            raise AssertionError(f"{vector.name}: no stored array is called {name}")
        for array in members:
            yield array, {**spec, "value": spec["value"].replace("*", array[len(prefix) :])}


def _quantities(spec: Mapping) -> list[str]:
    return list(spec["order"]) if spec.get("reduce") in LISTS else [spec["value"]]


def _lookup(result: Result, quantity: str):
    if quantity not in result.values:
        raise AssertionError(f"the adapter returns no quantity '{quantity}'; it has {', '.join(sorted(result.values))}")
    return result.values[quantity]


def _array(value) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _check_array(vector: Vector, result: Result, name: str, spec: Mapping, tolerance: Mapping) -> None:
    stored = vector.arrays[name]
    values = [_array(_lookup(result, quantity)) for quantity in _quantities(spec)]
    if spec.get("full_shape") is not None:
        assert list(values[0].shape) == list(spec["full_shape"]), (
            f"{name}: shape {list(values[0].shape)} before shortening, expected {spec['full_shape']}"
        )
    if spec.get("reduce") in LISTS:
        mine = reduce_list(values, spec["reduce"], vector.stats_fields)
    else:
        mine = reduce_value(values[0], spec, stored, vector.stats_fields)
    if spec.get("sort_rows"):
        mine, stored = (x[np.argsort(-x[:, -1], kind="stable")] for x in (mine, stored))
    numbers = tolerance_for(tolerance, name, spec["value"])
    compare(f"{name} ({spec['value']})", mine, stored, numbers, values[0], vector.arrays)


def _check_literal(result: Result, quantity: str, expected, tolerance: Mapping) -> None:
    compare_literal(quantity, _lookup(result, quantity), expected, tolerance_for(tolerance, quantity))


def _differentiate(result: Result, gradients: list[tuple[str, Mapping]], vector: Vector) -> dict[str, Tensor]:
    """Return {gradient quantity: tensor}: one backward pass for every scalar that is differentiated."""
    groups: dict[str, tuple[Mapping, list[str]]] = {}
    for _, spec in gradients:
        missing = [q for q in _quantities(spec) if q not in result.values]  # else the adapter did it itself
        key = json.dumps([spec.get("of"), spec.get("upstream")])
        groups.setdefault(key, (spec, []))[1].extend(missing)
    found = {}
    for spec, quantities in groups.values():
        quantities = list(dict.fromkeys(quantities))
        if not quantities:
            continue
        unknown = [q for q in quantities if q not in result.leaves]
        if unknown:
            raise AssertionError(
                f"{vector.name}: the adapter names no tensor to differentiate for {', '.join(unknown)}; "
                f"it has {', '.join(sorted(result.leaves))}"
            )
        leaves = [result.leaves[q] for q in quantities]
        grads = torch.autograd.grad(_scalar(result, spec), leaves, retain_graph=True, allow_unused=True)
        found.update(
            {q: torch.zeros_like(x) if g is None else g for q, x, g in zip(quantities, leaves, grads, strict=True)}
        )
    return found


def _scalar(result: Result, spec: Mapping) -> Tensor:
    """Return what is differentiated: sum(output * draw) over the `upstream` outputs, or the (summed) output `of`."""
    if spec["of"] != "upstream":
        return _lookup(result, spec["of"]).sum()
    total = 0.0
    for quantity, drawn in spec["upstream"].items():
        value = _lookup(result, quantity)
        if drawn.get("slices"):
            value = value[tuple(slice(None) if s is None else slice(*s) for s in drawn["slices"])]
        weight = draw(drawn["seed"], drawn["shape"])
        if drawn.get("symmetrise"):
            weight = (weight + weight.swapaxes(-1, -2)) / 2
        total = total + (value * torch.from_numpy(weight).to(value).reshape(value.shape)).sum()
    return total
