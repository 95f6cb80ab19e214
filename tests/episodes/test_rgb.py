"""Depth and transparency of pictures: files, lists and packs show the same."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from episodes import open_dataset
from episodes.rgb import to_rgb

RAMP = (16 * np.arange(4096)).astype(np.uint16).reshape(64, 64)  # 0..65520
EXPECTED = np.rint(RAMP / 257).astype(np.uint8)  # 0..255


def deep_folder(root: Path) -> Path:
    (root / "a").mkdir(parents=True)
    Image.fromarray(RAMP).save(root / "a" / "ramp.png")
    return root


def shown(dataset) -> np.ndarray:
    return np.asarray(dataset[0][0])


def test_sixteen_bits_become_eight_in_folders_lists_and_packs(tmp_path):
    folder = deep_folder(tmp_path / "set")
    assert EXPECTED[-1, -1] == 255
    (tmp_path / "list.json").write_text(
        json.dumps({"label_names": ["a"], "image_names": ["set/a/ramp.png"], "image_labels": [0]})
    )
    with zipfile.ZipFile(tmp_path / "pack.zip", "w") as pack:
        pack.write(folder / "a" / "ramp.png", "a/ramp.png")
    for spec in (folder, tmp_path / "list.json", tmp_path / "pack.zip"):
        assert (shown(open_dataset(str(spec))) == EXPECTED[..., None]).all(), spec


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[0, 128, 255]], np.int32), [0, 128, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-5, 50_000, 100_000]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, 7.0, 250.0]], np.float32), [0, 7, 250]),
    ],
)
def test_pictures_of_32_bits_are_scaled_to_their_white(tmp_path, pixels, expected):
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as image:
        assert np.asarray(to_rgb(image))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white_whatever_colour_they_hide(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (10, 10, 10, 0))
    image.putpixel((1, 0), (40, 40, 40, 255))
    image.convert(mode).save(tmp_path / "cut.png")
    with Image.open(tmp_path / "cut.png") as image:
        assert np.asarray(to_rgb(image)).tolist() == [[[255] * 3, [40] * 3]]
