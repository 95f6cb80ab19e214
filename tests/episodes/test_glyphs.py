"""Characters drawn from matplotlib's fonts."""

from __future__ import annotations

import os
import unicodedata

import numpy as np
import pytest
import torch

from episodes.opening import open_dataset
from episodes.sources.cache import cached_arrays
from episodes.sources.glyph_survey import MIN_FACES, OTHER_SCRIPT, SAME_SCRIPT, SCRIPTS, similarity
from episodes.sources.glyphs import FACES, affine_changes, draw_characters, script_characters, warp


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """A cache folder for this test file, so that the user's is neither used nor changed."""
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path_factory.getbasetemp() / "glyph-cache"))


def test_scripts_are_disjoint_and_large():
    scripts = script_characters()
    assert tuple(scripts) == SCRIPTS
    everything = "".join(scripts.values())
    assert len(set(everything)) == len(everything)
    assert {script: len(text) for script, text in scripts.items()} == {
        "latin": 585,
        "greek": 106,
        "cyrillic": 108,
        "armenian": 53,
        "georgian": 112,
        "symbols": 614,
    }
    for script in SCRIPTS[:-1]:
        assert all(unicodedata.name(c).startswith(script.upper()) for c in scripts[script])


def test_known_look_alikes_are_in_one_script_only():
    everything = "".join(script_characters().values())
    for first, *others in ("AΑА", "OΟОՕ0", "PΡР", "cсϲ", "pрρ", "ΣƩ∑"[:2], "ΦФ", "εɛ", "SЅՏ"):
        assert first in everything
        assert not [c for c in others if c in everything]


def test_no_two_characters_look_alike_by_the_measure():
    """Sampled: the everyday letters of each script, against one another."""
    scripts = script_characters()
    sample = {script: text[:40] for script, text in scripts.items()}
    alike = similarity("".join(sample.values()))
    script = np.repeat(np.arange(len(sample)), [len(text) for text in sample.values()])
    same = script[:, None] == script[None]
    np.fill_diagonal(alike, 0)
    assert alike[same].max() < SAME_SCRIPT
    assert alike[~same].max() < OTHER_SCRIPT


def test_every_class_has_its_faces_thrice_and_no_blank_picture():
    georgian = open_dataset("glyphs:georgian")
    sizes = np.bincount(georgian.labels)
    assert sizes.min() >= 3 * MIN_FACES and sizes.max() <= 3 * len(FACES) and (sizes % 3 == 0).all()
    assert georgian.images.dtype == torch.uint8 and georgian.images.shape[1:] == (32, 32)
    spread = georgian.images.flatten(1).float().amax(1) - georgian.images.flatten(1).float().amin(1)
    assert spread.min() > 60  # ink everywhere
    edges = georgian.images[:, 0, 0].float()
    assert edges.min() >= 199  # light paper, so no glyph fills its cell
    assert georgian.class_names[0].startswith("georgian/") and georgian.class_names[0].endswith("U+10A0")


def test_a_face_without_the_character_is_not_used():
    """STIX has no Georgian letters: a drawn box for a missing glyph would be a false class."""
    _, _, faces = draw_characters("\u10d0", 32)
    assert all(FACES[f].startswith("DejaVu") for f in faces) and len(faces) >= MIN_FACES
    ink, which, _ = draw_characters("A \u10d0", 32)  # a space has no picture
    assert 1 not in which and ink.any(axis=(1, 2)).all()


def test_pictures_depend_on_nothing_but_the_item():
    both, alone = open_dataset("glyphs:armenian,greek"), open_dataset("glyphs:greek")
    start = int(np.flatnonzero(both.labels == both.class_names.index(alone.class_names[0]))[0])
    assert torch.equal(both.images[start:], alone.images)
    assert [both.class_names[label] for label in both.labels[start:]] == [
        alone.class_names[label] for label in alone.labels
    ]
    assert torch.equal(open_dataset("glyphs:greek+armenian").images[: len(alone)], alone.images)
    one, two = affine_changes(ord("A"), 1, seed=0), affine_changes(ord("A"), 3, seed=0)
    assert np.array_equal(one[0], two[0]) and not np.array_equal(two[0], two[1])


def test_seed_variants_and_size_are_options():
    first, other = open_dataset("glyphs:armenian"), open_dataset("glyphs:armenian?seed=1")
    assert first.images.shape == other.images.shape and not torch.equal(first.images, other.images)
    small = open_dataset("glyphs:armenian?size=20&variants=1")
    assert small.images.shape == (len(first) // 3, 20, 20)


def test_no_change_draws_the_plain_picture():
    ink, _, _ = draw_characters("A", 32)
    plain = warp(torch.from_numpy(ink), torch.zeros(len(ink), 1, 8))
    expected = 227.5 + torch.from_numpy(ink).float().div(255).view(-1, 16, 2, 16, 2).mean((2, 4)) * (45 - 227.5)
    assert (plain[:, 0].float() - expected).abs().max() <= 0.5 + 1e-3


def test_a_shift_moves_the_picture_and_dark_is_dark():
    ink = np.zeros((1, 32, 32), np.uint8)
    ink[0, 12:20, 12:20] = 255
    changes = torch.zeros(1, 2, 8)
    changes[0, 1, 4] = 1.0  # 6 % of 32 pixels, to the left: the grid looks to the right
    changes[0, :, 6] = -1.0
    plain, moved = warp(torch.from_numpy(ink), changes)[0].float()
    assert plain[8, 8] == 0
    columns = torch.arange(16.0)
    centre = [((227.5 - p) * columns).sum() / (227.5 - p).sum() for p in (plain, moved)]
    assert centre[0] - centre[1] == pytest.approx(0.06 * 16, abs=0.1)


def test_glyphs_can_be_learned_from_neighbours():
    """Nearest neighbour in other faces and variants finds the class far above chance, so labels fit pictures."""
    greek = open_dataset("glyphs:greek")
    flat = torch.nn.functional.avg_pool2d(greek.images.float()[:, None], 2).flatten(1)
    flat = torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)
    labels = torch.from_numpy(greek.labels)
    hits = labels[(flat[::2] @ flat[1::2].T).argmax(1) * 2 + 1] == labels[::2]
    assert hits.float().mean() > 0.3  # chance is 1 %


def test_the_cache_is_used_survives_damage_and_may_be_unwritable(tmp_path, monkeypatch):
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path / "new" / "folder"))
    calls = []

    def make():
        calls.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        assert cached_arrays("k", make)["x"].tolist() == [0, 1, 2]
    assert len(calls) == 1 and os.listdir(tmp_path / "new" / "folder") == ["k.npz"]
    (tmp_path / "new" / "folder" / "k.npz").write_bytes(b"PK\x03\x04 half a file")
    assert cached_arrays("k", make)["x"].tolist() == [0, 1, 2] and len(calls) == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path / "file" / "below"))  # cannot be made, whoever runs this
    assert cached_arrays("k", make)["x"].tolist() == [0, 1, 2] and len(calls) == 3
