"""Folders of class folders, broken images, and file lists."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from episodes.check import check_images
from episodes.errors import UserError
from episodes.opening import open_dataset
from tests.episodes.pictures import grey, save, tree

# --- folders


def test_folder_classes_and_files_are_sorted_and_images_are_rgb(tmp_path):
    tree(tmp_path, {"b": 2, "a": 1, "C": 1})
    save(tmp_path / "a" / "grey.png", 77, mode="L")
    dataset = open_dataset(str(tmp_path))
    assert dataset.class_names == ["C", "a", "b"] and dataset.labels.tolist() == [0, 1, 1, 2, 2]
    assert [Path(n).name for n in dataset.names] == ["0.png", "0.png", "grey.png", "0.png", "1.png"]
    assert all(dataset[i][0].mode == "RGB" and dataset[i][1] == dataset.labels[i] for i in range(5))
    assert grey(dataset[2]) == 77 and grey(dataset[4]) == 1


def test_other_files_are_left_out_with_a_count(tmp_path):
    tree(tmp_path, {"a": 2})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "readme.md").write_text("x")
    for hidden in (".DS_Store", "a/.hidden.png"):
        (tmp_path / hidden).write_text("x")
    (tmp_path / ".cache").mkdir()
    with pytest.warns(UserWarning, match="2 entries .* are not images"):
        dataset = open_dataset(str(tmp_path))
    assert len(dataset) == 2


def test_split_folders_number_classes_one_after_the_other(tmp_path):
    tree(tmp_path / "train", {"m": 1, "a": 1})
    tree(tmp_path / "val", {"b": 2})
    tree(tmp_path / "test", {"c": 1})
    assert open_dataset(f"{tmp_path}?split=val").class_names == ["b"]
    assert open_dataset(f"{tmp_path}?split=train+val").class_names == ["a", "m", "b"]
    assert open_dataset(f"{tmp_path}?split=val+train").class_names == ["b", "a", "m"]
    assert open_dataset(f"{tmp_path}?split=train+val+test").labels.tolist() == [0, 1, 2, 2, 3]
    assert open_dataset(f"folder:{tmp_path}?split=test").class_names == ["c"]
    with pytest.raises(UserError, match="has the splits train, val, test: add"):
        open_dataset(str(tmp_path))
    # a class list chooses from all three
    assert open_dataset(f"{tmp_path}?split=train&by=mod5").class_names == ["a", "b", "c"]


@pytest.mark.parametrize(
    "make, spec, words",
    [
        (lambda p: None, "", "holds no class folders"),
        (lambda p: (tree(p, {"a": 1}), (p / "b").mkdir()), "", "class folder .*b' has no image"),
        (lambda p: tree(p / "train", {"a": 1}), "?split=val", "has no folder 'val'"),
        (lambda p: tree(p, {"a": 1}), "?split=val", "no splits of its own"),
        (lambda p: tree(p, {"a": 1}), "?groups=x", "'groups', which folder does not know"),
        (lambda p: tree(p, {"a": 1}), "/absent", "no file, folder or source"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path, make, spec, words):
    make(tmp_path)
    with pytest.raises(UserError, match=words):
        open_dataset(f"{tmp_path}{spec}")


def test_shrunken_images_of_imagenet_are_warned_about_and_can_be_silenced(tmp_path):
    for i in range(8):
        save(tmp_path / "n01532829" / f"{i}.png", size=(84, 84))
    with pytest.warns(UserWarning, match=r"the \d pictures probed are 84 x 84 .*train\?warn_small=false"):
        open_dataset(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset(f"{tmp_path}?warn_small=false")
        for i in range(8):
            save(tmp_path / "n01532829" / f"{i}.png", size=(90, 84))
        open_dataset(str(tmp_path))
    with pytest.raises(UserError, match="must be true or false"):
        open_dataset(f"{tmp_path}?warn_small=perhaps")


def test_other_pictures_of_84_pixels_are_nothing_to_warn_about(tmp_path, recwarn):
    for i in range(8):
        save(tmp_path / "house finch" / f"{i}.png", size=(84, 84))
    open_dataset(str(tmp_path))
    assert not recwarn


def test_sub_folders_with_pictures_are_named_and_litter_is_not(tmp_path, recwarn):
    tree(tmp_path, {"a": 2, "b": 1})
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / "a" / name).write_bytes(b"x")
        (tmp_path / name).write_bytes(b"x")
    assert len(open_dataset(str(tmp_path))) == 3
    assert not recwarn
    save(tmp_path / "a" / "more" / "deep" / "0.png")
    save(tmp_path / "b" / "more" / "0.png")
    with pytest.warns(UserWarning, match=r"2 sub-folders of class .*are ignored, the first is '.*a.more'") as said:
        assert len(open_dataset(str(tmp_path))) == 3
    assert len(said) == 1  # nothing about "not images"
    (tmp_path / "b" / "0.png").unlink()
    with pytest.raises(UserError, match=r"b' has no image of its own, only in sub-folders such as 'more'"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("photos/trian", r"did you mean '.*photos/train'\?"),
        ("phtos/train", r"did you mean '.*photos'\?"),
        ("nofolder", ": give a folder, "),
    ],
)
def test_a_path_that_does_not_exist_names_its_neighbour(tmp_path, wrong, words):
    tree(tmp_path / "photos" / "train", {"a": 1})
    with pytest.raises(UserError, match=words):
        open_dataset(str(tmp_path / wrong))


def test_an_unknown_word_is_no_misspelt_kind_unless_a_colon_follows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="source 'nofolder': give a folder"):
        open_dataset("nofolder")
    with pytest.raises(UserError, match=r"did you mean 'glyphs'\?"):
        open_dataset("glyps:latin")


# --- broken images


def broken_tree(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "ab":
        for i in range(3):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(root / name / f"{i}.jpg")
    whole = (root / "a" / "1.jpg").read_bytes()
    (root / "a" / "1.jpg").write_bytes(whole[: len(whole) // 2])  # truncated
    (root / "b" / "0.jpg").write_text("not an image")
    (root / "b" / "2.jpg").write_bytes(b"")
    return root


@pytest.mark.parametrize("workers", [1, 3])
def test_broken_images_are_found_and_named(tmp_path, workers):
    dataset = open_dataset(str(broken_tree(tmp_path)))
    broken = check_images(dataset, workers)
    assert [(item.index, Path(item.name).parts[-2:]) for item in broken] == [
        (1, ("a", "1.jpg")),
        (3, ("b", "0.jpg")),
        (5, ("b", "2.jpg")),
    ]
    assert "truncated" in broken[0].reason
    with pytest.raises(UserError, match=r"cannot read image '.*1\.jpg'.*skip_broken"):
        dataset[1]
    assert dataset[0][0].size == (40, 40)


def test_skip_broken_leaves_them_out_of_items_and_labels_and_says_so(tmp_path):
    with pytest.warns(UserWarning, match=r"3 of 6 images cannot be read and are left out: .*1\.jpg.*0\.jpg.*2\.jpg"):
        dataset = open_dataset(str(broken_tree(tmp_path)), skip_broken=True)
    assert dataset.labels.tolist() == [0, 0, 1] and len(dataset) == 3 and dataset.class_names == ["a", "b"]
    assert all(dataset[i][0].size == (40, 40) for i in range(3))


def test_a_class_of_broken_images_only_is_an_error(tmp_path):
    broken_tree(tmp_path)
    (tmp_path / "b" / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="every image of class 'b' is broken"):
        open_dataset(str(tmp_path), skip_broken=True)


# --- lists


def cub_lists(root: Path) -> Path:
    """base.json and val.json as the official generator writes them: all names, sparse labels, absolute paths."""
    names = ["w", "x", "y", "z"]
    tree(root / "images", dict.fromkeys(names, 2))
    lists = {"base": [2, 0, 2, 0], "val": [1, 1], "novel": [3, 3]}
    for part, labels in lists.items():
        seen: dict[int, int] = {}
        images = []
        for label in labels:
            index = seen[label] = seen.get(label, -1) + 1
            relative = f"images/{names[label]}/{index}.png"
            images.append(relative if part == "val" else str(root / relative))
        content = {"label_names": names, "image_names": images, "image_labels": labels}
        (root / f"{part}.json").write_text(json.dumps(content))
    return root


def test_json_lists_are_remapped_and_keep_the_item_order(tmp_path):
    cub_lists(tmp_path)
    base = open_dataset(f"{tmp_path}?split=train")
    assert base.class_names == ["w", "y"] and base.labels.tolist() == [1, 0, 1, 0]
    assert [grey(base[i]) for i in range(4)] == [20, 0, 21, 1]
    assert open_dataset(str(tmp_path / "val.json")).class_names == ["x"]  # relative paths
    both = open_dataset(f"{tmp_path}?split=train+test")
    assert both.class_names == ["w", "y", "z"] and both.labels.tolist() == [1, 0, 1, 0, 2, 2]
    with pytest.raises(UserError, match="has the splits train, val, test"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"image_labels": [0]}, "4 image_names but 1 image_labels"),
        ({"image_labels": [0, 1, 2, 4]}, "label 4, which is no position in its 4 label_names"),
        ({"image_labels": [0, 1, 2, "a"]}, "label 'a'"),
        ({"label_names": None}, "lacks the list 'label_names'"),
        ({"label_names": ["w", "w", "y", "z"]}, "twice"),
        ({"image_names": ["gone.png"] * 4}, "4 of 4 images .* do not exist.*root="),
        ({"image_names": [], "image_labels": []}, "names no image"),
    ],
)
def test_what_is_wrong_with_a_json_list_is_said(tmp_path, change, words):
    path = cub_lists(tmp_path) / "base.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words):
        open_dataset(str(path))
    path.write_text("[")
    with pytest.raises(UserError, match="is not JSON"):
        open_dataset(str(path))


def test_csv_lists_with_a_root(tmp_path):
    for i, name in enumerate(("p.png", "q.png", "r.png")):
        save(tmp_path / "pictures" / name, i)
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "train.csv"
    path.write_text("filename,label\nq.png,n02\np.png,n01\nr.png,n02\n")
    spec = f"{path}?root={tmp_path / 'pictures'}"
    dataset = open_dataset(spec)
    assert dataset.class_names == ["n01", "n02"] and dataset.labels.tolist() == [1, 0, 1]
    assert [grey(dataset[i]) for i in range(3)] == [1, 0, 2]
    assert open_dataset(f"{tmp_path / 'lists'}?split=train&root={tmp_path / 'pictures'}").names == dataset.names
    with pytest.raises(UserError, match="has no list of the split 'val': it has train"):
        open_dataset(f"{tmp_path / 'lists'}?split=val&root={tmp_path / 'pictures'}")
    with pytest.raises(UserError, match="3 of 3 images"):
        open_dataset(str(path))
    path.write_text("filename,label\nq.png\n")
    with pytest.raises(UserError, match="line 2"):
        open_dataset(spec)
    path.write_text("file,class\nq.png,a\n")
    with pytest.raises(UserError, match="must name filename,label"):
        open_dataset(spec)


def test_items_of_every_class_by_their_number(tmp_path):
    whole = open_dataset("digits")
    parts = [open_dataset(f"digits?items={name}") for name in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(whole) and all(part.class_names == whole.class_names for part in parts)
    sixes = [whole.images[i] for i in np.flatnonzero(whole.labels == 6)]
    assert all((a == b).all() for a, b in zip(sixes[3::5], parts[1].images[parts[1].labels == 6], strict=True))
    assert len(open_dataset("digits?items=train+val")) == len(parts[0]) + len(parts[1])
    with pytest.raises(UserError, match="asks for the items 'trian'; did you mean 'train'"):
        open_dataset("digits?items=trian")
    tree(tmp_path, {"a": 5, "b": 4})
    with pytest.raises(UserError, match="class 'b' of .* has 4 items: items= needs five at least"):
        open_dataset(f"{tmp_path}?items=val")
