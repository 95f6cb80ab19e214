"""Ranks, Friedman's test and Nemenyi's distance against published numbers; tables and LaTeX of a grid."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tools.config import Benchmark
from tools.grid.cells import Result
from tools.grid.latex import escape, to_latex
from tools.grid.pictures import plot_differences, plot_heatmap, plot_ranks
from tools.grid.plan import Cell, plan_jobs
from tools.grid.report import Journal, narrow, weight
from tools.grid.results import Found, make_tables, to_csv
from tools.grid.statistics import cliques, critical_difference, differences, rank, rank_rows


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_values_are_those_of_the_paper(methods, q):
    """Table 5 (a) of Demsar, JMLR 2006."""
    assert critical_difference(methods, 14) == pytest.approx(q * np.sqrt(methods * (methods + 1) / (6 * 14)), abs=2e-3)


def test_the_papers_example():
    """Table 2 of Demsar 2006, average ranks of four variants of C4.5 on 14 sets; its statistic 9.28, CD 1.25.

    In the last row but one the printed accuracies tie and the printed ranks do not: a digit more tells them apart.
    """
    table = np.array([
        [.763, .768, .771, .798], [.599, .591, .590, .569], [.954, .971, .968, .967], [.628, .661, .654, .657],
        [.882, .888, .886, .898], [.936, .931, .916, .931], [.661, .668, .609, .685], [.583, .583, .563, .625],
        [.775, .838, .866, .875], [1.0, 1.0, 1.0, 1.0], [.940, .962, .965, .962], [.619, .666, .614, .669],
        [.972, .981, .9751, .975], [.957, .978, .946, .970],
    ])  # fmt: skip
    found = rank_rows(list("abcd"), table)
    assert found.average == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=1e-3)
    assert found.critical == pytest.approx(1.25, abs=5e-3)
    assert found.p_value < 0.0258  # of 9.28; SciPy's is smaller, since it corrects for ties


def test_ties_everywhere_are_no_difference():
    assert rank_rows(list("abc"), np.ones((6, 3))).p_value == 1.0


@given(st.lists(st.floats(1, 8), min_size=2, max_size=8), st.floats(0.1, 3))
@settings(max_examples=80, deadline=None)
def test_bars_join_what_is_not_told_apart(ranks, critical):
    ordered = np.sort(ranks)
    runs = cliques(np.array(ranks), critical)
    for first in range(len(ordered)):
        for second in range(first + 1, len(ordered)):
            joined = any(a <= first and second <= b for a, b in runs)
            assert joined == (ordered[second] <= ordered[first] + critical)
    assert not any(a <= c and d <= b for a, b in runs for c, d in runs if (a, b) != (c, d))


METHODS = ["protonet", "simpleshot", "meta_deepbdc", "tim"]


def grid(**changes) -> Found:
    """Two sources, three targets, two shots, two seeds; the places of methods differ by their number."""
    config = Benchmark(methods=METHODS, seeds=[1, 2], **changes)
    found, generator = Found(config, {}, {}), np.random.default_rng(0)
    for job in plan_jobs(config):
        for entry in job.cells:
            cell = Cell(**entry["cell"])
            base = np.random.default_rng([ord(cell.target[0]), cell.k_shot, cell.seed]).uniform(0.3, 0.6, 50)
            values = base + 0.1 * METHODS.index(cell.method) + generator.normal(0, 0.01, 50)
            record = {"seconds": 1.0, "feature_seconds": 0.5}
            found.results[cell] = Result(record, np.arange(50), values.clip(0, 1), None)
    return found


def test_differences_are_paired_over_episodes_and_seeds():
    rows = differences(grid())
    assert len(rows) == 2 * 3 * 2 * 3
    for row in rows:
        assert row.mean == pytest.approx(0.1 * METHODS.index(row.method), abs=0.01)
        assert row.interval < 0.005  # unpaired it would be ten times as wide


def test_transductive_methods_are_neither_best_nor_ranked():
    found = grid()
    ranks = rank(found)
    assert ranks.methods == METHODS[:3] and list(ranks.average) == [3, 2, 1]
    assert ranks.blocks == 2 * 3 * 2  # seeds are pooled
    table = make_tables(found)[0]
    assert all(table.is_best("Meta DeepBDC", *column) for column in table.columns)
    assert "TIM (transductive)" in table.to_markdown() and "transductive:" in table.to_markdown()
    cell = table.cells["ProtoNet", "Greek", "1-shot"]
    assert cell.episodes == 100 and cell.seconds == 3.0


def test_a_cell_without_one_of_its_seeds_has_failed():
    found = grid()
    lost = next(cell for cell in found.results if cell.method == "simpleshot" and cell.seed == 2)
    del found.results[lost]
    found.reasons[lost] = "a broken picture"
    table = make_tables(found)[list(map(str, found.config.sources)).index(lost.source)]
    assert list(table.failed) == [("SimpleShot", lost.target, f"{lost.k_shot}-shot")]
    assert table.notes["[1]"] == "a broken picture"
    lines = list(csv.DictReader(io.StringIO(to_csv({"accuracy": [table]}))))
    assert len(lines) == 4 * 3 * 2
    (line,) = [line for line in lines if line["failed"]]
    assert (line["source"], line["row"], line["failed"]) == (lost.source, "SimpleShot", "a broken picture")
    assert not line["mean_percent"] and float(lines[0]["mean_percent"]) == pytest.approx(lines_mean(table), abs=1e-4)
    assert rank(found).blocks == 2 * 3 * 2 - 1


def lines_mean(table) -> float:
    return 100 * table.cells["ProtoNet", "Greek", "1-shot"].mean


def test_a_kind_with_the_same_answers_is_no_further_block():
    found = grid(kinds={"standard": {}, "open": {"unknown_ways": 2}})
    assert rank(found).blocks == 2 * 2 * 3 * 2
    standard = [cell for cell in found.results if cell.kind == "standard"]
    for cell in standard:
        found.results[replace(cell, kind="open")] = found.results[cell]
    assert rank(found).blocks == 2 * 3 * 2


def test_too_little_to_rank_is_said():
    found = grid()
    found.config.methods = METHODS[:2]
    assert rank(found) == "ranks need 3 methods that are not transductive, here are 2"
    found = grid(targets={"Greek": "glyphs:greek"}, k_shot=[1])
    assert "ranks need 5 blocks" in rank(found)


@pytest.mark.parametrize("kinds", [{"standard": {}}, {"standard": {}, "open": {"unknown_ways": 2}, "many": {}}])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_wide_tables_are_split_for_the_terminal(kinds, width):
    table = make_tables(grid(kinds=kinds))[0]
    parts = narrow(table, width)
    assert [place for part in parts for place in part.columns] == table.columns
    assert {key: cell for part in parts for key, cell in part.cells.items()} == table.cells
    assert parts[-1].notes == table.notes and not any(part.notes for part in parts[:-1])
    for part in parts:
        console = Console(width=width, file=io.StringIO())
        console.print(part.to_rich(width))
        text = console.file.getvalue()
        assert text.count(" ± ") + text.count("± ") >= len(part.cells) and "…" not in text
        for cell in part.cells.values():
            assert cell.percent in text


def test_groups_stay_whole_where_they_fit():
    table = make_tables(grid())[0]
    assert [part.column_groups for part in narrow(table, 62)] == [table.column_groups[:2], table.column_groups[2:]]
    assert narrow(table, 200)[0].column_groups == table.column_groups
    assert len(narrow(table, 30)) == len(table.columns)


def test_notes_of_heads_say_their_shot_and_stand_once():
    found = grid(kinds={"standard": {}, "open": {"unknown_ways": 2}})
    for cell, result in found.results.items():
        if cell.method == "simpleshot":
            result.record["note"] = f"C = {cell.k_shot}"
    notes = [table.notes.get("SimpleShot") for table in [*make_tables(found), *make_tables(found, "auroc")]]
    assert notes == ["C = 1 (1-shot); C = 5 (5-shot)", None, None, None]
    for result in found.results.values():
        result.record["note"] = "C = 1"
    assert make_tables(found)[0].notes["SimpleShot"] == "C = 1"


def test_time_left_goes_by_cells(tmp_path):
    first, *rest = [job for job in plan_jobs(Benchmark()) if job.kind == "test"]
    journal = Journal(tmp_path / "log", [first, *rest])
    journal.started, journal.last = 0.0, 0.0
    journal.left -= weight(first)
    journal.spent["test"] = [(3.0 * len(first.cells), len(first.cells))]
    assert journal._times(5.0) == f" [5 s, about {3 * sum(len(job.cells) for job in rest)} s left]"


def test_latex_is_balanced_and_escaped():
    found = grid()
    text = to_latex(make_tables(found), ["Cyrillic", "Sym_bols"], "5-way & more", "tab:a")
    assert text.count("{") == text.count("}")
    assert r"5-way \& more" in text and r"\emph{trained on Sym\_bols}" in text
    rows = [line for line in text.splitlines() if line.startswith(("ProtoNet", "Meta", "TIM"))]
    assert len(rows) == 6 and all(line.count(" & ") == 6 for line in rows)
    assert all(r"\textbf" in line for line in rows if line.startswith("Meta"))
    assert not any(r"\textbf" in line for line in rows if line.startswith("TIM"))
    assert escape("a_b 5% ± 1") == r"a\_b 5\% $\pm$ 1"


def test_pictures_show_every_cell(tmp_path):
    found = grid()
    heat = plot_heatmap(found, tmp_path / "heat.png")
    assert len(heat.axes) == len(METHODS) * 2
    assert sum(len(axes.texts) for axes in heat.axes) == len(found.results) // 2
    assert [axes.get_title(loc="left") for axes in heat.axes] == [*found.titles().values(), *[""] * len(METHODS)]
    assert [label.get_text() for label in heat.axes[-1].get_xticklabels()] == ["Greek", "Latin", "Digits"]
    forest = plot_differences(found, differences(found), tmp_path / "differences.png")
    assert len(forest.axes) == 3 * 2
    words = [text.get_text() for text in forest.legends[0].get_texts()]
    assert words[2:] == ["filled: the 95 % interval excludes zero", "hollow: it does not",
                         "grey, dashed: transductive, not compared"]  # fmt: skip
    marks = [line for line in forest.axes[0].lines if line.get_marker() in ("o", "s")]
    hollow = [line.get_markerfacecolor() == "white" for line in marks]
    assert hollow == [False, False, True] * 2  # the last of three methods is transductive, though far from zero
    plot_ranks(rank(found), tmp_path / "ranks.png")
    assert {path.name for path in tmp_path.iterdir()} == {"heat.png", "differences.png", "ranks.png"}
    assert plot_differences(found, [], tmp_path / "none.png") is None and not (tmp_path / "none.png").exists()


def test_pictures_show_auroc_where_accuracies_are_the_same(tmp_path):
    found = grid(kinds={"standard": {}, "open": {"unknown_ways": 2}}, k_shot=[1])
    generator = np.random.default_rng(1)
    for cell, result in found.results.items():
        if cell.kind == "open":
            same = result if cell.method == "tim" else found.results[replace(cell, kind="standard")]
            found.results[cell] = replace(same, auroc=generator.uniform(0.5, 0.6, 50))
    assert found.views == [(("standard", 1), "accuracies"), (("open", 1), "auroc")]
    lost = next(cell for cell in found.results if (cell.kind, cell.method) == ("open", "protonet"))
    del found.results[lost]
    assert found.views[1] == (("open", 1), "accuracies")  # no longer the same
    heat = plot_heatmap(found)
    numbers = [[text.get_text() for text in axes.texts] for axes in heat.axes[-len(METHODS) :]]
    assert numbers[0].count("×") == 1 and all(50 < float(text) < 60 for text in numbers[1])
    assert "× no result" in heat.get_supxlabel()
    rows = differences(found)
    assert {row.view for row in rows} == set(found.views)
    assert {row.method for row in rows if row.apart} == {"tim"}
    forest = plot_differences(found, rows)
    assert forest.legends[0].get_texts()[-1].get_text() == "no result"


def test_jobs_follow_what_they_need_and_share_it():
    jobs = plan_jobs(Benchmark(methods=["protonet", "good_embed", "frn", "stl_deepbdc"], seeds=[1, 2]))
    seen: set[str] = set()
    for job in jobs:
        assert seen.issuperset(job.needs)
        seen.add(job.name)
    assert sum(job.kind == "pretrain" for job in jobs) == 2 * 2 * 2  # sources, poolings, seeds
    assert sum(job.kind == "meta_train" for job in jobs) == 2 * 2 * 2 * 2  # sources, seeds, shots, two methods
    assert sum(len(job.cells) for job in jobs) == 2 * 2 * 3 * 2 * 4


def test_other_seeds_have_other_episodes_and_weights():
    jobs = plan_jobs(Benchmark(seeds=[1, 2]))
    seeds = {(entry["cell"]["seed"], entry["options"]["seed"]) for job in jobs for entry in job.cells}
    assert seeds == {(1, 1), (2, 2)}
    assert all(f"seed{job.options['seed']}" in job.name for job in jobs if job.kind != "test")


def test_a_long_title_splits_no_table():
    table = replace(make_tables(grid())[0], title="a title that is longer than the terminal is wide, " * 3)
    assert len(narrow(table, 62)) == 2
