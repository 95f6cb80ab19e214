"""Packs: fabricated ones, and the shared ones where they are."""

from __future__ import annotations

import csv
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from episodes.check import check_images
from episodes.errors import UserError
from episodes.opening import open_dataset
from tests.episodes.pictures import grey, tree


def make_zip(path: Path, source: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "a") as archive:
        for file in sorted(source.rglob("*.png"), reverse=True):
            archive.write(file, prefix + str(file.relative_to(source)))
    return path


def test_zip_pack_equals_its_folder(tmp_path):
    folder = tree(tmp_path / "f", {"b": 2, "a": 3})
    pack, loose = open_dataset(str(make_zip(tmp_path / "p.zip", folder))), open_dataset(str(folder))
    assert pack.class_names == loose.class_names and pack.labels.tolist() == loose.labels.tolist()
    assert [grey(pack[i]) for i in range(5)] == [grey(loose[i]) for i in range(5)]


def test_zip_pack_with_splits_and_wrong_depth(tmp_path):
    path = tmp_path / "p.zip"
    make_zip(path, tree(tmp_path / "t", {"b": 1, "a": 1}), "train/")
    make_zip(path, tree(tmp_path / "v", {"c": 1}), "val/")
    assert open_dataset(f"{path}?split=val+train").class_names == ["c", "a", "b"]
    with pytest.raises(UserError, match="no images of the split 'test'"):
        open_dataset(f"{path}?split=test")
    with pytest.raises(UserError, match="has the splits train, val"):
        open_dataset(str(path))
    make_zip(path, tree(tmp_path / "w", {"d": 1}))
    with pytest.raises(UserError, match="must be named split/class/file"):
        open_dataset(f"{path}?split=val")
    (tmp_path / "no.zip").write_text("no")
    with pytest.raises(UserError, match="cannot open"):
        open_dataset(str(tmp_path / "no.zip"))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_zip_pack_is_safe_in_loader_workers(tmp_path, context):
    pack = open_dataset(str(make_zip(tmp_path / "p.zip", tree(tmp_path / "f", {"a": 5, "b": 5}))))
    grey(pack[0])  # opened here already: workers must open their own
    assert grey(pickle.loads(pickle.dumps(pack))[3]) == 3
    loader = DataLoader(pack, batch_size=5, num_workers=2, multiprocessing_context=context, collate_fn=greys)
    assert [v for batch in loader for v in batch] == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


def greys(items):
    return [grey(item) for item in items]


def test_a_damaged_zip_entry_is_a_broken_image(tmp_path):
    path = make_zip(tmp_path / "p.zip", tree(tmp_path / "f", {"a": 2}))
    content = bytearray(path.read_bytes())
    content[60] ^= 255  # inside the first entry
    path.write_bytes(content)
    dataset = open_dataset(str(path))
    assert [item.name for item in check_images(dataset)] == ["a/1.png"]
    with pytest.raises(UserError, match=r"'a/1\.png' of .*p\.zip"):
        dataset[1]


def test_npz_pack_colour_groups_and_errors(tmp_path):
    path = tmp_path / "p.npz"
    images = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    np.savez(path, images=images, label=[1, 0, 1], class_names=["z", "a"])
    dataset = open_dataset(str(path))
    assert dataset.class_names == ["a", "z"] and dataset.labels.tolist() == [0, 1, 0]  # sorted by name
    assert torch.equal(dataset[1][0], torch.from_numpy(images[1]).permute(2, 0, 1))
    with pytest.raises(UserError, match="has no groups"):
        open_dataset(f"{path}?groups=x")
    np.savez(path, images=images.astype(float), label=[1, 0, 1], class_names=["z", "a"])
    with pytest.raises(UserError, match="expected uint8"):
        open_dataset(str(path))
    np.savez(path, images=images, label=[1, 0, 1])
    with pytest.raises(UserError, match="no array 'class_names'"):
        open_dataset(str(path))
    np.savez(path, images=np.array([object()]), label=[0], class_names=["a"])
    with pytest.raises(UserError, match="as plain arrays"):
        open_dataset(str(path))


def test_shared_omniglot(shared_images):
    path = shared_images / "omniglot" / "omniglot_images.npz"
    dataset = open_dataset(f"{path}?groups=Latin,Greek")
    assert len(dataset.class_names) == 50 and len(dataset) == 1000
    assert set(np.bincount(dataset.labels)) == {20}
    assert {name.split("/")[0] for name in dataset.class_names} == {"Latin", "Greek"}
    image, _ = dataset[0]
    assert image.shape == (3, 105, 105) and set(image.unique().tolist()) == {0, 255}
    assert image.float().mean() > 127  # black ink on white
    with pytest.raises(UserError, match="did you mean 'Latin'"):
        open_dataset(f"{path}?groups=Latn")
    parts = [open_dataset(f"{path}?split={split}&by=mod5").class_names for split in ("train", "val", "test")]
    assert [len(p) for p in parts] == [123, 40, 40] and not set(parts[0]) & set(parts[2])


@pytest.mark.parametrize(
    "pack, classes, items",
    [("grocery/grocery84", 81, 2430), ("caltech101/caltech101_84", 99, 2772), ("textures/textures84", 10, 1200)],
)
def test_shared_photo_packs(shared_images, pack, classes, items):
    dataset = open_dataset(str(shared_images / f"{pack}.zip"))
    assert len(dataset.class_names) == classes and len(dataset) == items
    assert dataset.class_names == sorted(dataset.class_names)
    with zipfile.ZipFile(shared_images / f"{pack}.zip") as archive:
        rows = {row["file"]: row for row in csv.DictReader(archive.read("index.csv").decode().splitlines())}
    for i in range(0, items, 301):
        image, label = dataset[i]
        row = rows[dataset.names[i]]
        assert dataset.class_names[label] == row["class"]
        assert image.size == (int(row["width"]), int(row["height"]))


def test_shared_groceries_by_coarse_class(shared_images):
    path = shared_images / "grocery" / "grocery84.zip"
    apples = open_dataset(f"{path}?groups=Apple")
    assert "Granny-Smith" in apples.class_names and "Banana" not in apples.class_names
    assert len(apples) == 30 * len(apples.class_names)
