"""The sheet of predictions draws every size, and says what it is given."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from episodes.errors import UserError
from episodes.figures import RIGHT, WRONG
from episodes.prediction_sheet import PICTURES, Predicted, fitting, plot_sheet


def images(count: int, side: int = 20) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 255, (count, 3, side, side), dtype=np.uint8)


def predicted(shares, known=None, truth=None) -> Predicted:
    shares = np.array(shares, dtype=float)
    known = np.ones(len(shares), bool) if known is None else np.array(known)
    names = [f"folder/picture{i}.png" for i in range(len(shares))]
    return Predicted(images(len(shares)), names, shares, known, None if truth is None else np.array(truth))


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def frames(figure) -> list[tuple]:
    from matplotlib.colors import to_hex

    drawn = (patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and not patch.get_fill())
    clear = [p for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_facecolor()[3] == 0]
    return [to_hex(patch.get_edgecolor()) for patch in (list(drawn) or clear)]


def test_what_a_sheet_says(tmp_path):
    queries = predicted([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.35, 0.25]], [True, True, False], [0, 1, 0])
    figure = plot_sheet(images(4), [0, 1, 2, 2], ["ant", "bee", "cat"], queries, tmp_path / "s.png", counts=[1, 1, 9])
    said = words(figure)
    assert {"ant", "bee", "cat", "70 %", "60 %", "unknown", "+7", "folder/picture0.png"} <= set(said)
    assert frames(figure) == [RIGHT, WRONG, WRONG]
    assert {"right", "wrong, with the true class", "is bee", "is ant"} <= set(said) and "is cat" not in said
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_names_are_cut_only_where_they_do_not_fit():
    names = ["i" * 24, "W" * 24, "costs $5 or $6"]
    said = words(plot_sheet(images(3), [0, 1, 2], names, predicted([[0.5, 0.3, 0.2]])))
    assert said.count("i" * 24) == 2 and r"costs \$5 or \$6" in said  # thin letters fit, and dollars are dollars
    assert 3 < len(next(text for text in said if text.startswith("W") and text.endswith("…"))) < 24
    assert fitting("a/long/way/to/the/picture.png", 1.0, 6.5, tail=True).startswith("…")
    assert fitting("", 1.0, 9) == ""


def test_no_truth_no_frames():
    assert "right" not in words(plot_sheet(images(2), [0, 1], ["a", "b"], predicted([[0.7, 0.3]])))
    assert frames(plot_sheet(images(2), [0, 1], ["a", "b"], predicted([[0.7, 0.3]]))) == []
    assert frames(plot_sheet(images(2), [0, 1], ["a", "b"], predicted([[0.7, 0.3]], truth=[-1]))) == []


def test_rounded_shares_claim_no_certainty():
    said = words(plot_sheet(images(2), [0, 1], ["a", "b"], predicted([[0.999, 0.001]])))
    assert {"> 99 %", "< 1 %"} <= set(said)


@pytest.mark.parametrize(("classes", "shots", "queries"), [(2, 1, 1), (30, 1, 24), (6, 9, 5), (1, 2, 0)])
def test_every_size_is_drawn(tmp_path, classes, shots, queries):
    names = [f"a long name of class {i}" for i in range(classes)]
    labels = np.arange(classes).repeat(shots)
    shares = np.full((queries, classes), 1 / classes)
    figure = plot_sheet(images(len(labels)), labels, names, predicted(shares), tmp_path / "s.png")
    assert len(figure.axes[0].images) == classes * min(shots, 5) + queries


def test_later_pages_need_no_supports():
    figure = plot_sheet(None, None, ["a", "b"], predicted([[0.7, 0.3]]))
    assert len(figure.axes[0].images) == 1
    assert [PICTURES.pages(n) for n in (0, 1, 24, 25)] == [1, 1, 1, 2]


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="a page holds 24 queries, not 25"):
        plot_sheet(None, None, ["a", "b"], predicted(np.full((25, 2), 0.5)))
    with pytest.raises(UserError, match="must be uint8"):
        plot_sheet(images(2).astype(float), [0, 1], ["a", "b"], predicted([[0.5, 0.5]]))
