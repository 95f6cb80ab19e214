"""Pictures of open-set tests and of episodes with unknown and unlabelled pictures."""

from __future__ import annotations

import numpy as np
import pytest

from episodes.errors import UserError
from episodes.open_set import OpenSet, placements
from episodes.open_set_plot import plot_open_set
from episodes.plots import plot_episode

GENERATOR = np.random.default_rng(0)


def images(count: int) -> np.ndarray:
    return GENERATOR.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def found(by: str = "logit") -> OpenSet:
    known, unknown = GENERATOR.normal(1, 1, (30, 8)), GENERATOR.normal(0, 1, (30, 5))
    return OpenSet.of(known, unknown, placements(known, unknown), by)


def test_the_curve_is_drawn_with_its_area(tmp_path):
    results = found()
    figure = plot_open_set(results, tmp_path / "open.png", "logit")
    left, right = figure.axes
    (curve,) = (patch for patch in left.patches if hasattr(patch, "get_data"))
    np.testing.assert_allclose(curve.get_data().values, results.curve)
    assert left.texts[0].get_text() == f"area {100 * results.curve.mean():.2f} %"
    assert "240 known and 150 unknown" in right.get_title(loc="left")
    shares = [patch.get_data().values.sum() for patch in right.patches if hasattr(patch, "get_data")]
    assert shares == pytest.approx([100.0] * 4)
    assert (tmp_path / "open.png").read_bytes().startswith(b"\x89PNG")


def test_scores_of_a_sharp_head_are_spread_out():
    """Probabilities that all round to 1 fill many bins, as log-odds."""
    known, unknown = (-np.exp(-GENERATOR.normal(mean, 4, (100, 8))) for mean in (40, 30))
    results = OpenSet.of(known, unknown, placements(known, unknown), "probability")
    assert (1 / (1 + np.exp(-results.known)) == 1).mean() > 0.2
    right = plot_open_set(results).axes[1]
    share = next(patch for patch in right.patches if hasattr(patch, "get_data")).get_data().values
    assert share.sum() == pytest.approx(100) and share.max() < 20
    assert right.get_xlabel().startswith("log-odds")
    never = OpenSet.of(np.zeros((1, 2)), -np.ones((1, 2)), np.zeros((1, 2)), "probability")
    assert np.isfinite(never.known).all() and (never.unknown == 0).all()  # p = 1/2


def test_equal_scores_can_be_drawn():
    known, unknown = np.zeros((2, 3)), np.zeros((2, 4))
    figure = plot_open_set(OpenSet.of(known, unknown, placements(known, unknown), "probability"))
    assert figure.axes[0].texts[0].get_text() == "area 50.00 %"
    assert figure.axes[1].get_xlim()[1] >= 1


def episode(**extras):
    labels = np.repeat([0, 1, 2], 2)
    return plot_episode(images(3), [0, 1, 2], images(6), labels, [0, 1, 1, 1, 2, 2], ["ape", "bee", "cow"], **extras)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_sections_of_an_episode(tmp_path):
    plain = episode()
    full = episode(
        unknown_images=images(5), unknown_predictions=[0, 1, 2, 2, 0], unlabelled_images=images(7),
        unlabelled_labels=[0, 0, 1, 2, -2, -2, -2], path=tmp_path / "e.png",
    )  # fmt: skip
    assert len(plain.axes[0].images) == 9 and len(full.axes[0].images) == 9 + 5 + 7
    assert "unlabelled" in texts(full) and "other classes" in texts(full) and "unlabelled" not in texts(plain)
    assert [text for text in texts(full) if text.startswith("→")] == ["→ ape", "→ bee", "→ cow", "→ cow", "→ ape"]
    assert [text for text in texts(full) if text.startswith("✗")] == ["✗ bee"]
    # nothing lies on anything else
    corners = {tuple(image.get_extent()) for image in full.axes[0].images}
    assert len(corners) == 21
    assert "5 unknown" in full.get_suptitle()


def test_unlabelled_pictures_without_distractors_need_no_further_row():
    figure = episode(unlabelled_images=images(2), unlabelled_labels=[0, 2])
    assert "other classes" not in texts(figure) and len(figure.axes[0].images) == 11


@pytest.mark.parametrize(
    "extras",
    [
        {"unknown_images": images(2), "unknown_predictions": [0]},
        {"unlabelled_images": images(2), "unlabelled_labels": [0, 1, 2]},
        {"unlabelled_images": images(2).astype(float), "unlabelled_labels": [0, 1]},
    ],
)
def test_sections_that_do_not_fit_are_refused(extras):
    with pytest.raises(UserError, match="unknown|unlabelled"):
        episode(**extras)
