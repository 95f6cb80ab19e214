"""WebDataset shards as a data set: labels of every kind, patterns of names, and what is wrong with a shard."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from episodes.errors import UserError
from episodes.opening import open_dataset
from episodes.sources.shards import find_shards, sample_key


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path / "cache"))


def picture(shade: int, suffix: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (12, 10), (shade, shade, shade)).save(content, suffix)
    return content.getvalue()


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def numbered(root: Path, counts: tuple[int, ...] = (3, 2), classes: int = 2) -> Path:
    """Write shards of pictures whose shade is their number in the set; labels go round the classes."""
    number = 0
    for place, count in enumerate(counts):
        files = {}
        for _ in range(count):
            files |= {f"{number:04d}.png": picture(number), f"{number:04d}.cls": str(number % classes).encode()}
            number += 1
        shard(root / f"train-{place:03d}.tar", files)
    return root


def test_items_come_in_the_order_of_the_files(tmp_path):
    dataset = open_dataset(str(numbered(tmp_path)))
    assert dataset.labels.tolist() == [0, 1, 0, 1, 0] and dataset.class_names == ["0", "1"]
    assert dataset.shards.tolist() == [0, 0, 0, 1, 1]
    assert [np.asarray(dataset[i][0])[0, 0, 0] for i in range(5)] == [0, 1, 2, 3, 4]
    assert dataset.names[3] == "train-001.tar:0003.png"
    part = dataset.take(np.array([1, 4]), np.array([0, 0]), ["x"])
    assert np.asarray(part[1][0])[0, 0, 0] == 4 and part.shards.tolist() == [0, 1]


def test_labels_of_every_kind(tmp_path):
    files = {
        "a.jpg": picture(1, "JPEG"), "a.cls": b"cat\n",
        "b.JPEG": picture(2, "JPEG"), "b.json": json.dumps({"label": "dog"}).encode(),
        "bird/c.png": picture(3),
        "note.txt": b"no picture",
        "d.seg.png": picture(4), "d.cls": b"cat",
    }  # fmt: skip
    dataset = open_dataset(str(shard(tmp_path / "x.tar", files)))
    assert [dataset.class_names[label] for label in dataset.labels] == ["cat", "dog", "bird", "cat"]
    assert sample_key("n01/img.001.jpg") == "n01/img"


def test_numbers_get_names_from_a_list(tmp_path):
    numbered(tmp_path, (11,), 11)
    assert open_dataset(str(tmp_path)).class_names == [str(number) for number in range(11)]
    (tmp_path / "classes.txt").write_text("".join(f"class {number}\n" for number in range(11)))
    assert open_dataset(str(tmp_path)).class_names[10] == "class 10"
    (tmp_path / "short.txt").write_text("one\n")
    with pytest.raises(UserError, match="names 1 classes and the shards have the label 10"):
        open_dataset(f"{tmp_path}?classes={tmp_path}/short.txt")


def test_patterns(tmp_path):
    numbered(tmp_path, (1, 1, 1), 1)
    assert [Path(p).name for p in find_shards(f"{tmp_path}/train-{{001..002}}.tar")] == [
        "train-001.tar",
        "train-002.tar",
    ]
    assert len(find_shards(f"{tmp_path}/train-00{{0,2}}.tar")) == 2
    assert len(find_shards(f"{tmp_path}/train-*.tar")) == 3 and len(find_shards(str(tmp_path))) == 3
    with pytest.raises(UserError, match="there is no shard '.*train-003.tar'"):
        open_dataset(f"{tmp_path}/train-{{000..003}}.tar")
    with pytest.raises(UserError, match="counts from 3 to 1"):
        open_dataset(f"{tmp_path}/train-{{003..001}}.tar")


def test_a_shard_that_is_cut_off_at_any_place(tmp_path):
    numbered(tmp_path, (3,))
    path = tmp_path / "train-000.tar"
    whole = path.read_bytes()
    for end in [*range(0, 3 * 2048, 300), *range(0, 3 * 2048 + 1, 1024)]:
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="train-000.tar"):
            open_dataset(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"no tar file at all" * 100, "cannot be read"),
        (None, "holds no picture"),
    ],
)
def test_shards_that_are_none(tmp_path, content, words):
    path = tmp_path / "bad.tar"
    shard(path, {}) if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=f"the shard '.*bad.tar' {words}.*leave it out") as told:
        open_dataset(str(path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.png": b"x"}, "'a.png' of the shard '.*' has no label: add a.cls"),
        ({"a.png": b"x", "a.cls": b"\xff\xfe"}, "the label 'a.cls' of the shard '.*' is damaged"),
        ({"a.png": b"x", "a.json": b"{"}, "the label 'a.json' of the shard '.*' is damaged"),
    ],
)
def test_samples_without_a_label(tmp_path, files, words):
    with pytest.raises(UserError, match=words):
        open_dataset(str(shard(tmp_path / "x.tar", files)))


def test_a_broken_picture_is_named_and_can_be_left_out(tmp_path):
    files = {
        "a.png": picture(1),
        "a.cls": b"0",
        "b.png": b"no picture",
        "b.cls": b"0",
        "c.png": picture(2),
        "c.cls": b"1",
    }
    path = shard(tmp_path / "x.tar", files)
    with pytest.raises(UserError, match=r"cannot read image 'x.tar:b.png' of .* \(it is no picture.*--skip-broken"):
        open_dataset(str(path))[1]
    with pytest.warns(UserWarning, match="1 of 3 images cannot be read and are left out: x.tar:b.png"):
        assert len(open_dataset(str(path), skip_broken=True)) == 2


def test_the_index_is_kept_and_made_anew_for_another_file(tmp_path, monkeypatch):
    numbered(tmp_path)
    first = open_dataset(str(tmp_path))
    kept = list((tmp_path / "cache" / "shards").glob("*.npz"))
    assert len(kept) == 2
    monkeypatch.setattr("episodes.sources.shards.index_shard", lambda path: pytest.fail("read again"))
    assert open_dataset(str(tmp_path)).labels.tolist() == first.labels.tolist()
    monkeypatch.undo()
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path / "cache"))
    numbered(tmp_path, (3, 4))
    assert len(open_dataset(str(tmp_path))) == 7
