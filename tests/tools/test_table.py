"""The table of results as Markdown, CSV and terminal text."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console

from tools.table import Cell, Table

METHODS = ["ProtoNet", "Meta <DeepBDC>"]


def make_table(**changes) -> Table:
    groups = [("greek", ["1-shot", "5-shot"]), ("digits", ["1-shot"])]
    cells = {
        ("ProtoNet", "greek", "1-shot"): Cell(0.6234, 0.0112, 600, 2.04),
        ("ProtoNet", "greek", "5-shot"): Cell(0.8, 0.009, 600, 3.0),
        ("ProtoNet", "digits", "1-shot"): Cell(0.45, 0.02, 600, 123.4),
        ("Meta <DeepBDC>", "greek", "1-shot"): Cell(0.7151, 0.0108, 600, 4.0),
        ("Meta <DeepBDC>", "greek", "5-shot"): Cell(0.80001, 0.0091, 600, 5.5),
    }
    values = {"title": "Accuracy", "row_names": METHODS, "column_groups": groups, "cells": cells, "notes": {"way": "5"}}
    return Table(**{**values, **changes})


def test_a_cell_without_a_place_is_refused():
    with pytest.raises(ValueError, match="no place in the table"):
        make_table(row_names=["ProtoNet"])


def test_best_goes_by_what_is_printed():
    table = make_table()
    assert [table.is_best(row, "greek", "5-shot") for row in METHODS] == [True, True]
    assert [table.is_best(row, "greek", "1-shot") for row in METHODS] == [False, True]
    assert not any(table.is_best(row, "digits", "1-shot") for row in METHODS)  # alone in its column


def test_markdown_table():
    text = make_table().to_markdown()
    lines = text.splitlines()
    assert lines[2] == "|  | greek 1-shot | greek 5-shot | digits 1-shot |"
    assert lines[4].startswith("| ProtoNet | 62.34 ± 1.12 (600 ep, 2.0 s) | **80.00 ± 0.90** (600 ep, 3.0 s) |")
    assert lines[5].endswith("| – |") and "**71.51 ± 1.08**" in lines[5]
    assert len({line.count("|") for line in lines[2:6]}) == 1
    assert lines[-1] == "- way: 5"


def test_csv_table():
    rows = list(csv.DictReader(io.StringIO(make_table().to_csv())))
    assert len(rows) == 5
    assert rows[0] == {
        "row": "ProtoNet", "group": "greek", "column": "1-shot", "mean_percent": "62.34", "interval_percent": "1.12",
        "episodes": "600", "seconds": "2.04", "best": "0",
    }  # fmt: skip
    assert [row["best"] for row in rows] == ["0", "1", "0", "1", "1"]  # alone in its column is not best


def test_no_time_is_not_told():
    assert [Cell(0.5, 0.1, 60, seconds).cost for seconds in (0.04, 0.1)] == ["60 ep", "60 ep, 0.1 s"]


@pytest.mark.parametrize("groups", [1, 3])
def test_terminal_table_fits_80_places(groups):
    columns = [(f"script {i}", ["1-shot", "5-shot"]) for i in range(groups)]
    cells = {
        (row, group, shot): Cell(0.5 + 0.1 * (row == "STL DeepBDC"), 0.0123, 2000, 12.34)
        for row in ("ProtoNet", "STL DeepBDC")
        for group, shots in columns
        for shot in shots
    }
    table = Table("Accuracy", ["ProtoNet", "STL DeepBDC"], columns, cells, {"way": "5"})
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(table.to_rich())
    text = console.file.getvalue()
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert plain.count("± 1.23") == plain.count("12.3 s") == 4 * groups
    assert plain.count("50.00") == plain.count("60.00") == 2 * groups
    assert "episodes per cell: 2,000" in plain and "way: 5" in plain
    assert re.search(r"\x1b\[1m *60\.00", text) and not re.search(r"\x1b\[1m *50\.00", text)


def test_title_and_notes_are_not_bound_to_the_width_of_the_table():
    title, note = "Meta DeepBDC, 5-way 15-query episodes of greek letters", "a sentence that is longer than the table"
    table = Table(title, ["A"], [("g", ["1"])], {("A", "g", "1"): Cell(0.5, 0.1, 600, 1.0)}, {"head": note})
    console = Console(width=80, file=io.StringIO())
    console.print(table.to_rich())
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert title in lines and f"head: {note}" in lines


def test_terminal_table_shows_differing_numbers_of_episodes():
    cells = {("A", "g", "1"): Cell(0.5, 0.1, 600, 1.0), ("A", "g", "5"): Cell(0.5, 0.1, 200, 1.0)}
    console = Console(width=80, file=io.StringIO())
    console.print(Table("T", ["A"], [("g", ["1", "5"])], cells).to_rich())
    assert "600 ep, 1.0 s" in console.file.getvalue() and "200 ep, 1.0 s" in console.file.getvalue()
