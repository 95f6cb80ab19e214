"""Pictures: the axes hold the numbers that were given, files are whole, names are readable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from episodes.confusion_plot import most_confused
from episodes.errors import UserError
from episodes.figures import RIGHT, WRONG, fonts_with
from episodes.names import short_names
from episodes.plots import (
    plot_comparison,
    plot_confusion,
    plot_curves,
    plot_embedding,
    plot_episode,
    plot_per_class,
)


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_short_names_drop_what_all_share():
    assert short_names(["greek/α U+03B1", "greek/β U+03B2"]) == ["α", "β"]
    assert short_names(["birds/black_tern", "birds/wren"]) == ["black tern", "wren"]
    assert short_names(["a/wren", "b/tern"]) == ["a/wren", "b/tern"]  # the folder tells something here
    assert short_names(["latin/A U+0041", "greek/A U+0391"]) == ["latin/A U+0041", "greek/A U+0391"]
    assert short_names(["a_b", "a b"]) == ["a_b", "a b"]
    assert short_names([]) == []


def test_curves_hold_the_history():
    history = [
        {"epoch": 0, "loss": 2.0, "accuracy": 0.2, "val_accuracy": 0.25, "val_interval": 0.05, "lr": 0.1},
        {"epoch": 1, "loss": 1.0, "accuracy": 0.6},
        {"epoch": 2, "loss": 0.5, "accuracy": 0.8, "val_accuracy": 0.7, "val_interval": 0.02},
    ]
    loss, accuracy = plot_curves(history, title="a run").axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[2.0, 1.0, 0.5]]
    lines = {line.get_label(): line.get_ydata() for line in accuracy.lines}
    np.testing.assert_allclose(lines["training"], [20, 60, 80])
    np.testing.assert_allclose(lines["validation"], [25, np.nan, 70])
    band = np.concatenate([path.vertices for path in accuracy.collections[0].get_paths()])
    assert band[:, 1].min() == pytest.approx(20) and band[:, 1].max() == pytest.approx(72)


def test_ticks_of_accuracies_say_where_they_are():
    """Also where they are 2.5 % apart, which used to be rounded to whole ones."""
    figure = plot_curves([{"accuracy": 0.45}, {"accuracy": 0.55}, {"accuracy": 0.65}])
    FigureCanvasAgg(figure).draw()
    axis = figure.axes[1].yaxis
    said = [float(text.get_text().removesuffix("%")) for text in axis.get_ticklabels()]
    assert said == pytest.approx(list(axis.get_ticklocs())) and any(tick % 1 for tick in said)


def test_curves_do_without_missing_keys():
    loss, accuracy = plot_curves([{"loss": 2.0}, {"loss": float("nan")}, {"loss": 1.0}]).axes
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), [0, 1, 2])
    assert "not logged" in texts(accuracy) and not accuracy.lines
    with pytest.raises(UserError, match="no epoch"):
        plot_curves([])


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_suffix_chooses_the_format(tmp_path, suffix, start):
    path = tmp_path / "new" / f"curves{suffix}"
    plot_curves([{"loss": 1.0}], path)
    assert path.read_bytes().startswith(start)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no half-written file stays behind


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"must end in one of \.png"):
        plot_curves([{"loss": 1.0}], tmp_path / "curves.bmp")


def test_confusion_with_a_column_of_no_class():
    axes, words = plot_confusion(np.array([[6, 0, 4], [0, 0, 5]]), ["cat", "dog"]).axes[:2]
    np.testing.assert_allclose(axes.images[0].get_array().sum(axis=1), 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "unknown"]
    assert texts(words)[0].startswith("1.  dog → unknown   100 %  (5)")
    many = np.hstack([9 * np.eye(41, dtype=int), np.ones((41, 1), dtype=int)])
    axes = plot_confusion(many, [f"class{i}" for i in range(41)]).axes[0]
    assert axes.images[0].get_array().shape == (41, 42)
    np.testing.assert_allclose(axes.images[0].get_array()[:, -1], 0.1)


def test_confusion_is_normalised_by_row():
    counts = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])
    axes, words = plot_confusion(counts, ["cat", "dog", "eel"]).axes[:2]
    shown = axes.images[0].get_array()
    np.testing.assert_allclose(shown[:2], [[0.8, 0.2, 0], [0, 0.5, 0.5]])
    assert np.ma.getmaskarray(shown)[2].all()  # no query, so no share: blank, not zero
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "eel"]
    assert {"80", "20", "50"} == set(texts(axes))
    assert [" ".join(text.split()) for text in texts(words)] == ["1. dog → eel 50 % (5)", "2. cat → dog 20 % (2)"]


def test_many_classes_get_no_ticks_and_confused_ones_become_neighbours():
    n_classes = 50
    counts = 90 * np.eye(n_classes, dtype=int)
    for first in range(25):
        counts[first, first + 25] = counts[first + 25, first] = 10 + first  # partners stand far apart
    axes, words = plot_confusion(counts, [f"class {i}" for i in range(n_classes)]).axes[:2]
    assert not axes.get_xticks().size and not axes.get_yticks().size
    shown = np.asarray(axes.images[0].get_array())
    assert shown.diagonal().min() > 0.7
    beside = np.diagonal(shown, 1)
    assert (beside > 0).sum() == 25
    assert len(words.texts) == 10 and "class 24" in words.texts[0].get_text()
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert all(shown[round(box.get_y() + 0.5), round(box.get_x() + 0.5)] > 0.2 for box in boxes) and len(boxes) == 10


@pytest.mark.parametrize("count", [3, 5, 20])
def test_long_names_keep_the_parts_of_a_confusion_picture_apart(count):
    names = [f"Alpro-Blueberry-Soyghurt-{i}" for i in range(count)]
    figure = plot_confusion(50 * np.eye(count) + 5, names)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn, words = figure.axes[:2]
    boxes = {text.get_text(): text.get_window_extent(canvas.get_renderer()) for text in figure.findobj(Text)}
    assert boxes[drawn.get_title("left")].x1 < boxes[words.get_title("left")].x0
    assert max(boxes[text].x1 for text in texts(words)) <= figure.bbox.x1


def test_names_in_any_script_bring_no_flood_of_warnings(tmp_path, recwarn):
    plot_per_class(np.array([0.5, 0.7]), ["猫の写真", "🐶 dog"], tmp_path / "classes.png")
    assert (tmp_path / "classes.png").stat().st_size > 0
    assert not recwarn


def test_an_installed_font_fills_in_for_missing_letters(tmp_path):
    assert fonts_with("aäλ→") == ()
    assert fonts_with("\u2335") == ("DejaVu Sans Mono",)  # comes with matplotlib
    figure = plot_per_class(np.array([0.5, 0.7]), ["\u2335 one", "two"], tmp_path / "classes.png")
    assert "DejaVu Sans Mono" in figure.axes[0].get_yticklabels()[0].get_fontfamily()


def test_most_confused_skips_what_never_happened():
    assert most_confused(np.eye(3) * 4) == []
    assert most_confused(np.array([[1, 3], [0, 2]])) == [(0, 1, 0.75, 3)]
    with pytest.raises(UserError, match="does not fit 3 class names"):
        plot_confusion(np.eye(2), ["a", "b", "c"])


def test_per_class_bars_are_sorted_and_named():
    axes = plot_per_class(torch.tensor([0.5, float("nan"), 0.9, 0.7]), ["a", "b", "c", "d"]).axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [90, 70, 50])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "d", "a"]
    assert "3 classes, mean 70.0 %" in axes.get_title("left") and "1 without a query" in axes.get_title("left")
    assert texts(axes) == ["90.0", "70.0", "50.0"]


def test_of_many_classes_the_best_and_worst_are_drawn():
    values = np.random.default_rng(0).permutation(100) / 100
    axes = plot_per_class(values, [str(i) for i in range(100)]).axes[0]
    widths = [round(bar.get_width()) for bar in axes.patches]
    assert widths == [*range(99, 79, -1), *range(19, -1, -1)]
    assert any("60 more" in text for text in texts(axes))
    with pytest.raises(UserError, match="no class has a query"):
        plot_per_class([float("nan")], ["a"])


def episode(n_way=3, n_query=2):
    images = torch.arange((n_way + n_way * n_query) * 48, dtype=torch.int64).remainder(256).to(torch.uint8)
    images = images.view(-1, 3, 4, 4)
    support_labels, query_labels = np.array([2, 0, 1]), np.array([1, 0, 2, 2, 0, 1])  # any order
    return images[:n_way], support_labels, images[n_way:], query_labels


def test_an_episode_shows_every_picture_in_the_row_of_its_class():
    support, support_labels, query, query_labels = episode()
    predictions = query_labels.copy()
    predictions[3] = 0
    figure = plot_episode(support, support_labels, query, query_labels, predictions, ["ape", "bee", "cow"], title="t")
    axes = figure.axes[0]
    assert len(axes.images) == 9
    tops = sorted({round(float(image.get_extent()[3]), 3) for image in axes.images})
    rows = {top: [image.get_array() for image in axes.images if round(image.get_extent()[3], 3) == top] for top in tops}
    for label, top in enumerate(tops):  # rows from top to bottom are classes 0, 1, 2
        expected = [*support[support_labels == label], *query[query_labels == label]]
        for picture, image in zip(rows[top], expected, strict=True):
            np.testing.assert_array_equal(picture, image.permute(1, 2, 0))
    assert "6 queries shown, 5 right (83.3 %)" in figure.get_suptitle()


def test_wrong_queries_differ_by_more_than_colour():
    support, support_labels, query, query_labels = episode()
    predictions = query_labels.copy()
    predictions[3] = 0
    axes = plot_episode(support, support_labels, query, query_labels, predictions, ["ape", "bee", "cow"]).axes[0]
    right = [box for box in axes.patches if same_color(box.get_edgecolor(), RIGHT)]
    wrong = [box for box in axes.patches if same_color(box.get_edgecolor(), WRONG)]
    assert (len(right), len(wrong)) == (5, 1)
    assert right[0].get_linestyle() != wrong[0].get_linestyle() and wrong[0].get_linewidth() > right[0].get_linewidth()
    assert [text for text in texts(axes) if text.startswith("✗")] == ["✗ ape"]


def test_padding_is_not_drawn_and_bad_images_are_refused():
    support, support_labels, query, query_labels = episode()
    query_labels[0] = -1
    figure = plot_episode(support, support_labels, query, query_labels, query_labels, list("abc"))
    assert len(figure.axes[0].images) == 8 and "5 queries shown, 5 right (100.0 %)" in figure.get_suptitle()
    with pytest.raises(UserError, match="before normalisation"):
        plot_episode(support.float(), support_labels, query, query_labels, query_labels, list("abc"))
    with pytest.raises(UserError, match="are no episode"):
        plot_episode(support, support_labels, query, query_labels[:-1], query_labels, list("abc"))


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_embedding_shows_every_sample_of_ten_classes(method):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), [4] * 10 + [3, 2])
    features = rng.normal(size=(len(labels), 60)) + 20 * rng.normal(size=(12, 60))[labels]
    figure = plot_embedding(torch.from_numpy(features), labels, [f"c{i}" for i in range(12)], method=method, seed=1)
    axes = figure.axes[0]
    points = [dots.get_offsets() for dots in axes.collections]
    assert [len(part) for part in points] == [4] * 10
    assert "10 of 12 classes" in axes.get_title("left") and not texts(axes)  # names would cover each other
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"c{i}" for i in range(10)]
    again = plot_embedding(torch.from_numpy(features), labels, [f"c{i}" for i in range(12)], method=method, seed=1)
    np.testing.assert_array_equal(
        np.concatenate(points), np.concatenate([d.get_offsets() for d in again.axes[0].collections])
    )
    middles = np.stack([part.mean(0) for part in points])
    nearest = [np.linalg.norm(middles - point, axis=1).argmin() == i for i, part in enumerate(points) for point in part]
    assert np.mean(nearest) > 0.9


def test_embedding_says_what_it_needs():
    with pytest.raises(UserError, match="N >= 3"):
        plot_embedding(np.zeros((2, 4)), np.zeros(2, int), ["a"])
    with pytest.raises(UserError, match="choose pca or tsne"):
        plot_embedding(np.eye(4), np.zeros(4, int), ["a"], method="umap")
    assert plot_embedding(np.arange(4.0)[:, None], np.zeros(4, int), ["a"]).axes[0].collections  # D = 1


def test_comparison_places_means_and_intervals():
    rows = [
        {"row": row, "group": "greek", "column": column, "mean": mean, "interval": 0.02}
        for row, column, mean in (
            ("A", "1-shot", 0.5),
            ("B", "1-shot", 0.6),
            ("A", "5-shot", 0.8),
            ("B", "5-shot", 0.7),
        )
    ]
    figure = plot_comparison(rows)
    assert [axes.get_title("left") for axes in figure.axes] == ["greek 1-shot", "greek 5-shot"]
    lines = figure.axes[0].lines
    np.testing.assert_allclose([line.get_xdata() for line in lines[::2]], [[48, 52], [58, 62]])
    np.testing.assert_allclose([line.get_xdata()[0] for line in lines[1::2]], [50, 60])
    assert [same_color(line.get_color(), RIGHT) for line in lines[1::2]] == [False, True]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["A", "B"]
    with pytest.raises(UserError, match="nothing to compare"):
        plot_comparison([])


def test_many_panels_stand_in_rows_of_one_column_each():
    rows = [
        {"row": "A", "group": group, "column": column, "mean": 0.5, "interval": 0.1}
        for group in ("x", "y", "z")
        for column in ("1", "5")
        if (group, column) != ("z", "1")
    ]
    figure = plot_comparison(rows)
    assert [axes.get_title("left") for axes in figure.axes if axes.lines] == ["x 1", "y 1", "x 5", "y 5", "z 5"]
    assert not figure.axes[2].axison
