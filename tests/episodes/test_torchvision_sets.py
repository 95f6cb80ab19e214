"""torchvision sets on tiny fabricated copies of their files; nothing is downloaded."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from episodes.errors import UserError
from episodes.opening import open_dataset
from tests.episodes.pictures import grey, save


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
    from episodes.class_splits import load_split

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
    with pytest.raises(UserError, match=f"torchvision:{name} is not complete .*or --download ") as caught:
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

    from episodes.class_splits import split_classes

    assert split_classes("vgg_flower", list(Flowers102.classes))["train"][:2] == ["canna lily", "great masterwort"]
