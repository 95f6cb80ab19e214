"""The harness itself: same numbers as the folder's own rule, and every way to disagree is noticed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.reference.case import Case, Result
from tests.reference.check import assert_vector
from tests.reference.conftest import adapters_of, claimed_systems, golden_folder
from tests.reference.fill import draw, fill
from tests.reference.inputs import build_input
from tests.reference.load import find_systems, read_vectors

EQUAL = {"rtol": 0.0, "atol": 0.0, "relative_to": "max"}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def golden(request) -> Path:
    folder = golden_folder(request.config)
    if folder is None:
        pytest.skip("no reference vectors here")
    return folder


def test_fill_and_draw_are_those_of_the_folder(golden):
    if not (golden / "fill.py").is_file():
        pytest.skip(f"no fill.py in {golden}")
    spec = importlib.util.spec_from_file_location("golden_fill", golden / "fill.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    shapes = {
        "a.conv.weight": (3, 2, 3, 3),
        "a.bn.weight": (4,),
        "a.bn.bias": (4,),
        "a.running_mean": (4,),
        "a.running_var": (4,),
        "a.num_batches_tracked": (),
        "temperature": (1, 1),
        "scale": (),
        "weight": (),
    }
    for key, shape in shapes.items():
        np.testing.assert_array_equal(fill(key, shape), theirs.fill(key, shape), err_msg=key)
    np.testing.assert_array_equal(draw(5, (2, 3)), theirs.draw(5, (2, 3)))


def test_every_item_of_every_system_can_be_read(golden):
    """Also of the systems not claimed yet: their recipes, reductions and tolerances are understood."""
    vectors = [v for index in find_systems(golden).values() for v in read_vectors(index)]
    assert vectors
    assert len({(v.system, v.name) for v in vectors}) == len(vectors)
    for vector in vectors:
        for name, recipe in (vector.item.get("inputs") or {}).items():
            small = "shape" not in recipe or np.prod(recipe["shape"]) < 1e6
            assert not small or build_input(recipe, vector.arrays) is not None, name


def write_system(folder: Path, name: str, items: list[dict], **arrays) -> Path:
    (folder / name).mkdir(parents=True)
    np.savez(folder / name / "stored.npz", **arrays)
    index = folder / name / f"{name}.json"
    stats = {"stats_fields": ["mean", "max"]}
    index.write_text(json.dumps({"system": name, "conventions": stats, "kinds": {}, "vectors": items}))
    return index


def square_item(**changes) -> dict:
    return {
        "name": "square",
        "kind": "square",
        "args": {},
        "inputs": {"x": {"seed": 3, "shape": [2, 3]}},
        "npz": "stored.npz",
        "outputs": {"out": {"value": "out"}},
        "gradients": {
            "grad_x": {
                "value": "grad_x",
                "of": "upstream",
                "wrt": "x",
                "upstream": {"out": {"seed": 4, "shape": [2, 3]}},
            }
        },
        "tolerance": {"rtol": 1e-12, "atol": 0.0, "relative_to": "max"},
        **changes,
    }


def square(case: Case) -> Result:
    x = case.inputs["x"].requires_grad_()
    return Result({"out": case.args.get("factor", 1) * x**2}, {"grad_x": x})


@pytest.fixture
def stored() -> dict[str, np.ndarray]:
    x = draw(3, (2, 3))
    return {"out": x**2, "grad_x": 2 * x * draw(4, (2, 3)), "double/out": 2 * x**2, "fam/out": x**2}


def run(index: Path) -> None:
    for vector in read_vectors(index):
        assert_vector(vector, square, vector.item["tolerance"])


def test_right_values_pass_and_wrong_ones_do_not(tmp_path, stored):
    run(write_system(tmp_path / "right", "toy", [square_item()], **stored))
    for name in ("out", "grad_x"):
        wrong = {**stored, name: stored[name] + np.eye(2, 3) * 1e-9}
        with pytest.raises(AssertionError, match=f"{name} .* 2 of 6 values differ"):
            run(write_system(tmp_path / name, "toy", [square_item()], **wrong))


def test_cases_merge_over_the_item(tmp_path, stored):
    cases = [
        {},
        {"case": "double", "args": {"factor": 2}, "outputs": {"double/out": {"value": "out"}}, "gradients": {}},
    ]
    item = square_item(cases=cases, gradients={}, outputs={})
    cases[0]["outputs"] = {"out": {"value": "out"}}
    index = write_system(tmp_path, "toy", [item], **stored)
    assert [v.name for v in read_vectors(index)] == ["square/0", "square/double"]
    run(index)


def test_families_cover_what_is_not_named(tmp_path, stored):
    item = square_item(outputs={"fam/*": {"value": "*"}}, gradients={})
    run(write_system(tmp_path / "right", "toy", [item], **stored))
    with pytest.raises(AssertionError, match="fam/out"):
        run(write_system(tmp_path / "wrong", "toy", [item], **{**stored, "fam/out": np.zeros((2, 3))}))
    with pytest.raises(AssertionError, match="no stored array is called other"):
        run(write_system(tmp_path / "none", "toy", [square_item(outputs={"other/*": {"value": "*"}})], **stored))


def test_an_item_that_asks_for_nothing_or_too_much_fails(tmp_path, stored):
    with pytest.raises(AssertionError, match="checks nothing"):
        run(write_system(tmp_path / "a", "toy", [square_item(outputs={}, gradients={})], **stored))
    with pytest.raises(AssertionError, match="no quantity 'cube'"):
        run(write_system(tmp_path / "b", "toy", [square_item(outputs={"out": {"value": "cube"}})], **stored))
    unknown = {"grad_y": {"value": "grad_y", "of": "out", "wrt": "y"}}
    with pytest.raises(AssertionError, match="no tensor to differentiate for grad_y"):
        run(write_system(tmp_path / "c", "toy", [square_item(gradients=unknown)], **stored))


def test_literals_keys_and_tables(tmp_path, stored):
    (tmp_path / "toy").mkdir()
    (tmp_path / "keys.json").write_text(json.dumps({"a": [2, 3]}))
    item = square_item(
        outputs={}, gradients={}, expected={"n": 3, "rate": [0.1, 0.2]}, keys="../keys.json", keys_value="layout"
    )
    index = write_system(tmp_path / "x", "toy", [item], **stored)
    (tmp_path / "x" / "keys.json").write_text(json.dumps({"a": [2, 3]}))
    vector = read_vectors(index)[0]
    good = {"n": 3, "rate": np.array([0.1, 0.2 + 1e-15]), "layout": {"a": [2, 3]}}
    assert_vector(vector, lambda case: Result(good), vector.item["tolerance"])
    for change in ({"n": 4}, {"rate": [0.1, 0.3]}, {"layout": {"a": [3, 2]}}, {"layout": {}}):
        with pytest.raises(AssertionError):
            assert_vector(vector, lambda case, c=change: Result({**good, **c}), vector.item["tolerance"])


def test_float32_run_casts_everything(tmp_path, stored):
    vector = read_vectors(write_system(tmp_path, "toy", [square_item()], **stored))[0]
    seen = []

    def adapter(case: Case) -> Result:
        seen.append(case.inputs["x"].dtype)
        return square(case)

    outputs_only = {"rtol": 1e-6, "atol": 0.0, "relative_to": "max", "applies_to": "outputs"}
    assert_vector(vector, adapter, outputs_only, torch.float32)
    assert seen == [torch.float32]
    with pytest.raises(AssertionError):
        assert_vector(vector, adapter, vector.item["tolerance"], torch.float32)


def test_command_line(tmp_path):
    """An unknown kind of a claimed system fails, an unclaimed system is skipped, and another folder can be named."""
    z = {"seed": 1, "shape": [3, 3, 4]}
    known = {
        "name": "known",
        "kind": "head_score",
        "args": {"method": "protonet", "n_way": 3, "n_shot": 1, "n_query": 2, "dim": 4},
        "inputs": {"z": z},
        "npz": None,
        "expected": {"labels": [0, 0, 1, 1, 2, 2]},
        "tolerance": EQUAL,
    }
    write_system(tmp_path, "deepbdc", [known, {**known, "name": "strange", "kind": "telepathy"}])
    write_system(tmp_path, "unclaimed", [known])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/reference/test_reference.py",
        "-q",
        "-rfs",
        "--golden",
        str(tmp_path),
    ]
    done = subprocess.run([*command, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True, check=False)
    absent = len(claimed_systems()) - 1  # a claimed system without vectors in the folder is skipped by name
    assert f"1 failed, 1 passed, {1 + absent} skipped" in done.stdout
    assert "unknown kind 'telepathy'" in done.stdout
    assert "1 vectors of 'unclaimed'" in done.stdout


@pytest.mark.parametrize("system", claimed_systems())
def test_every_kind_of_a_claimed_system_has_an_adapter(golden, system):
    index = find_systems(golden).get(system)
    if index is None:
        pytest.skip(f"no {system} vectors in this folder")
    assert set(json.loads(index.read_text())["kinds"]) <= set(adapters_of(system).KINDS)
