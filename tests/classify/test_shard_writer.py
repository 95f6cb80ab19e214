"""Shards that are written are the data set again."""

from __future__ import annotations

import numpy as np
import pytest

from backbones import UserError
from classify.shard_writer import write_shards
from episodes.opening import open_dataset
from tests.tools import tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path / "cache"))


def test_files_are_copied_and_arrays_become_png(tmp_path):
    """Either way every picture is there once, with its pixels and its class."""
    for source in (str(tiny.folder(tmp_path / "set", 3, 5)), tiny.pack(tmp_path / "pack.npz", 3, 5)):
        whole = open_dataset(source)
        out = tmp_path / "shards" / str(len(source))
        paths = write_shards(whole, out, per_shard=4)
        assert [path.name for path in paths] == [f"train-{number:06d}.tar" for number in range(4)]
        again = open_dataset(f"{out}/train-{{000000..000003}}.tar")
        assert again.class_names == list(whole.class_names) and len(again) == 15
        assert set(again.labels[:4].tolist()) != {0}  # classes are mixed
        keys = [int(again.names[i].split(":")[1].split(".")[0]) for i in range(15)]
        assert sorted(keys) == list(range(15))
        for place, key in enumerate(keys):
            theirs = np.asarray(whole[key][0])
            theirs = theirs.transpose(1, 2, 0) if theirs.shape[0] == 3 else theirs
            assert np.array_equal(np.asarray(again[place][0]), theirs) and again[place][1] == whole[key][1]


def test_pictures_can_be_shrunk(tmp_path):
    whole = open_dataset(str(tiny.folder(tmp_path / "set", 2, 3)))  # 20 px
    write_shards(whole, tmp_path / "out", size=10)
    again = open_dataset(str(tmp_path / "out"))
    assert again[0][0].size == (10, 10) and again.names[0].endswith(".jpg")


def test_old_shards_are_not_lost_by_chance(tmp_path):
    whole = open_dataset(tiny.pack(tmp_path / "pack.npz", 2, 6))
    write_shards(whole, tmp_path / "out", per_shard=3)
    with pytest.raises(UserError, match="exists: give another --out or --name"):
        write_shards(whole, tmp_path / "out", per_shard=6)
    write_shards(whole, tmp_path / "out", per_shard=6, overwrite=True)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2


def test_two_sets_share_a_folder_only_with_the_same_classes(tmp_path):
    """The numbers of the first set would otherwise be read with the names of the second."""
    out, first = tmp_path / "out", open_dataset(str(tiny.folder(tmp_path / "first", 3, 4)))
    write_shards(first, out, "train")
    write_shards(first, out, "val")
    with pytest.raises(UserError, match=r"classes\.txt' names other classes.*--out"):
        write_shards(open_dataset(str(tiny.folder(tmp_path / "other", 2, 4))), out, "test")
    assert open_dataset(f"{out}/train-*.tar").class_names == list(first.class_names)
