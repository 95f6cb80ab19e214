"""Folders, lists, packs and torchvision sets: fabricated ones, and the shared packs where they are."""

from __future__ import annotations

import csv
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from episodes.check import check_images
from episodes.dataset import open_dataset
from episodes.errors import UserError


def save(path: Path, value: int = 0, size: tuple[int, int] = (9, 7), mode: str = "RGB") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)
    return str(path)


def tree(root: Path, classes: dict[str, int]) -> Path:
    """Class folders with the given numbers of images; image i of class c is grey with value 10 c + i."""
    for number, (name, count) in enumerate(classes.items()):
        for i in range(count):
            save(root / name / f"{i}.png", 10 * number + i)
    return root


def grey(item) -> int:
    image = item[0]
    return int(np.asarray(image)[0, 0, 0])


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


def test_shrunken_images_are_warned_about_once_and_can_be_silenced(tmp_path):
    for i in range(8):
        save(tmp_path / "a" / f"{i}.png", size=(84, 84))
    with pytest.warns(UserWarning, match="exactly 84 x 84"):
        open_dataset(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset(f"{tmp_path}?warn_small=false")
        for i in range(8):
            save(tmp_path / "a" / f"{i}.png", size=(90, 84))
        open_dataset(str(tmp_path))
    with pytest.raises(UserError, match="must be true or false"):
        open_dataset(f"{tmp_path}?warn_small=perhaps")


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


# --- packs


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


# --- torchvision


def fake_cifar100(root: Path, monkeypatch) -> None:
    """CIFAR-100's files with plain grey pictures; the checksums are taken out, as the files are made up."""
    from torchvision.datasets import CIFAR100

    folder = root / "cifar-100-python"
    folder.mkdir()
    names = sorted(n for part in ("train", "val", "test") for n in cifar_names(part))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    for part, count in (("train", 5), ("test", 1)):
        labels = np.repeat(np.arange(100), count)
        data = np.repeat(labels[:, None], 3072, axis=1).astype(np.uint8)
        (folder / part).write_bytes(pickle.dumps({"data": data, "fine_labels": labels.tolist()}))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", None]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", None]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": None})


def cifar_names(part: str) -> list[str]:
    from episodes.splits import load_split

    return load_split("fc100")[part]


@pytest.mark.parametrize("by", ["cifar_fs", "fc100"])
def test_cifar_fs_and_fc100_take_every_image_of_a_class(tmp_path, monkeypatch, by):
    fake_cifar100(tmp_path, monkeypatch)
    names = []
    for split in ("train", "val", "test"):
        dataset = open_dataset(f"torchvision:CIFAR100?root={tmp_path}&by={by}&split={split}")
        assert set(np.bincount(dataset.labels)) == {6}  # 5 of train and 1 of test
        alphabetical = sorted(sum((cifar_names(p) for p in ("train", "val", "test")), []))
        for i in (0, len(dataset) - 1):  # the picture's grey is the original label
            assert alphabetical[grey(dataset[i])] == dataset.class_names[dataset.labels[i]]
        names += dataset.class_names
    assert len(set(names)) == 100
    assert len(open_dataset(f"torchvision:CIFAR100?root={tmp_path}&split=test")) == 100


def test_torchvision_folders_give_omniglot_characters(tmp_path):
    """Omniglot from its folder layout; torchvision checks the zip's sum, so its check is left out by a made-up file."""
    from torchvision.datasets import Omniglot

    for part, alphabet in (("background", "Latin"), ("evaluation", "Tengwar")):
        for character in (1, 2):
            save(
                tmp_path / "omniglot-py" / f"images_{part}" / alphabet / f"character{character:02d}" / "0_01.png",
                mode="L",
            )

    class Unchecked(Omniglot):
        def _check_integrity(self) -> bool:
            return True

    from torchvision import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "Omniglot", Unchecked)
        dataset = open_dataset(f"torchvision:Omniglot?root={tmp_path}")
    assert dataset.class_names == [
        "background/Latin/character01",
        "background/Latin/character02",
        "evaluation/Tengwar/character01",
        "evaluation/Tengwar/character02",
    ]
    assert dataset.labels.tolist() == [0, 1, 2, 3] and dataset[2][0].mode == "RGB"


def test_aircraft_and_textures_from_their_annotation_files(tmp_path):
    """The two sets whose labels torchvision keeps privately: names and labels come from the files."""
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    for i, name in enumerate(("1", "2", "3")):
        save(data / "images" / f"{name}.jpg", i)
    (data / "variants.txt").write_text("747-400\nF-16A/B\n")
    for part, line in (("train", "1 F-16A/B"), ("val", "2 747-400"), ("test", "3 F-16A/B")):
        (data / f"images_variant_{part}.txt").write_text(line + "\n")
    aircraft = open_dataset(f"torchvision:FGVCAircraft?root={tmp_path}")
    assert aircraft.class_names == ["747-400", "F-16A/B"] and aircraft.labels.tolist() == [1, 0, 1]
    assert open_dataset(f"torchvision:FGVCAircraft?root={tmp_path}&split=val").class_names == ["747-400"]
    textures = tmp_path / "dtd" / "dtd"
    for part, file in (("train", "banded/a.jpg"), ("val", "dotted/b.jpg"), ("test", "polka-dotted/c.jpg")):
        save(textures / "images" / file)
        (textures / "labels").mkdir(exist_ok=True)
        (textures / "labels" / f"{part}1.txt").write_text(file + "\n")
    assert open_dataset(f"torchvision:DTD?root={tmp_path}").class_names == ["banded", "dotted", "polka-dotted"]


def test_a_set_without_a_list_of_labels_is_read_once():
    with pytest.warns(UserWarning, match="no list of labels: all 60 items are read once"):
        dataset = open_dataset("torchvision:FakeData")
    assert len(dataset) == 60 and all(dataset.labels[i] == dataset[i][1] for i in (0, 59))


@pytest.mark.parametrize("name", ["CIFAR100", "Omniglot", "FGVCAircraft", "Flowers102", "DTD", "Food101", "EuroSAT"])
def test_absent_torchvision_data_say_how_to_fetch_them(tmp_path, name):
    with pytest.raises(UserError, match=f"torchvision:{name} is not complete .*or pass download") as caught:
        open_dataset(f"torchvision:{name}?root={tmp_path}")
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_every_listed_torchvision_set_exists():
    from torchvision import datasets

    from episodes.sources.torchvision_sets import PARTS

    assert all(hasattr(datasets, name) for name in PARTS)


def test_flower_names_are_those_of_torchvision_by_number():
    """The split is by number: 90 is the canna lily in the source's own list."""
    from torchvision.datasets import Flowers102

    from episodes.splits import split_classes

    assert split_classes("vgg_flower", list(Flowers102.classes))["train"][:2] == ["canna lily", "great masterwort"]
