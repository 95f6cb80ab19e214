"""Clips as film strips, alone and as episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from episodes.episode_plot import plot_episode
from episodes.errors import UserError
from episodes.figures import RIGHT, WRONG
from episodes.strips import FRAMES, as_strips, plot_strips, shown_frames, strip_width
from tests.episodes.test_plots import same_color, texts


def clips(count: int, frames: int = 16, side: int = 20) -> np.ndarray:
    """uint8 (N, 3, T, H, W): frame t of clip n has the grey level 10 n + t."""
    levels = 10 * np.arange(count)[:, None] + np.arange(frames)
    return np.broadcast_to(levels[:, None, :, None, None], (count, 3, frames, side, side)).astype(np.uint8)


def levels_of(strip: np.ndarray, side: int = 20) -> list[int]:
    """The grey levels of the frames in a strip, from left to right."""
    return [int(strip[0, x, 0]) for x in range(0, strip.shape[1], side + 1)]


def test_frames_of_a_strip():
    np.testing.assert_array_equal(shown_frames(16), [0, 3, 6, 9, 12, 15])
    np.testing.assert_array_equal(shown_frames(2), [0, 1])
    np.testing.assert_array_equal(shown_frames(1), [0])
    strips = as_strips(clips(3))
    assert strips.shape == (3, 20, FRAMES * 20 + FRAMES - 1, 3)
    assert levels_of(strips[2]) == [20, 23, 26, 29, 32, 35]
    assert (strips[:, :, 20] == 255).all()  # a white gap
    assert strip_width(clips(1)) == pytest.approx(0.88 * strips.shape[2] / 20 + 0.12)
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(as_strips(images), images.transpose(0, 2, 3, 1))


def test_an_episode_of_clips_shows_every_clip_with_its_class(tmp_path):
    support_labels, query_labels = np.array([2, 0, 1, 2, 0, 1, 2]), np.array([1, 0, 2, 2, 0, 1, -1])
    predictions = query_labels.copy()
    predictions[3] = 0
    support, query = clips(7), clips(14)[7:]
    figure = plot_episode(
        torch.from_numpy(support), support_labels, query, query_labels, predictions,
        ["walk the dog", "bee", "cow"], tmp_path / "episode.png",
    )  # fmt: skip
    axes = figure.axes[0]
    assert len(axes.images) == 7 + 6
    for name, label in zip(("walk the dog", "bee", "cow"), range(3), strict=True):
        (text,) = (text for text in axes.texts if text.get_text() == name)
        wanted = {10 * i for i in np.flatnonzero(support_labels == label)}
        wanted |= {10 * (7 + i) for i in np.flatnonzero(query_labels == label)}
        others = [t.get_position()[1] for t in axes.texts if t.get_text() in ("walk the dog", "bee", "cow")]
        nearest = {
            int(image.get_array()[0, 0, 0])
            for image in axes.images
            if min(others, key=lambda y: abs(y - np.mean(image.get_extent()[2:]))) == text.get_position()[1]
        }
        assert nearest == wanted
    boxes = [image.get_extent() for image in axes.images]
    assert len({(round(box[0], 3), round(box[3], 3)) for box in boxes}) == len(boxes)  # nothing over anything
    assert sum(same_color(box.get_edgecolor(), RIGHT) for box in axes.patches) == 5
    assert sum(same_color(box.get_edgecolor(), WRONG) for box in axes.patches) == 1
    assert "✗ walk the dog" in texts(axes) and "6 queries shown, 5 right (83.3 %)" in figure.get_suptitle()
    assert (tmp_path / "episode.png").read_bytes().startswith(b"\x89PNG")


def test_many_clips_stand_in_several_lines():
    labels = np.repeat(np.arange(5), 5)
    figure = plot_episode(clips(25), labels, clips(25), labels, labels, list("abcde"))
    width, height = figure.get_size_inches()
    assert 0.7 < width / height < 2.5
    assert len(figure.axes[0].images) == 50


def test_a_single_support_stands_beside_its_name_and_in_the_middle_of_its_queries():
    labels = np.arange(5)
    figure = plot_episode(clips(5), labels, clips(15), np.repeat(labels, 3), np.repeat(labels, 3), list("abcde"))
    axes = figure.axes[0]
    for label, name in enumerate("abcde"):
        (text,) = (text for text in axes.texts if text.get_text() == name)
        own = [image for image in axes.images if abs(np.mean(image.get_extent()[2:]) - text.get_position()[1]) < 0.01]
        assert [int(image.get_array()[0, 0, 0]) for image in own] == [10 * label]
        assert own[0].get_extent()[0] < 0.1  # the first column
    lines = sorted({round(image.get_extent()[3], 3) for image in axes.images if image.get_extent()[0] > 1})
    assert len(lines) == 10  # queries in two lines a class


def test_unlabelled_and_unknown_clips():
    labels = np.array([0, 1])
    figure = plot_episode(
        clips(2), labels, clips(2), labels, labels, ["a", "b"], unknown_images=clips(1), unknown_predictions=[1],
        unlabelled_images=clips(3), unlabelled_labels=[0, -2, -2],
    )  # fmt: skip
    assert len(figure.axes[0].images) == 8 and "→ b" in texts(figure.axes[0])


def test_strips_with_names(tmp_path):
    figure = plot_strips(
        clips(3), ["a/run", "a/jump", "a/walk"], tmp_path / "strips.png", "clips", said=["1", "2", "3"]
    )
    axes = figure.axes[0]
    assert {"run", "jump", "walk", "1", "2", "3"} <= set(texts(axes)) and figure.get_suptitle() == "clips"
    assert [int(image.get_array()[0, 0, 0]) for image in axes.images] == [0, 10, 20]
    for wrong in (clips(3).astype(np.float32), clips(2), clips(0), clips(3)[:, :, 0]):
        with pytest.raises(UserError, match="film strips need clips"):
            plot_strips(wrong, ["a", "b", "c"][: max(len(wrong), 3)])
