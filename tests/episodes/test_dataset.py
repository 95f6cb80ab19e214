"""The data set protocol, specs and class splits, on data that is always there."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from episodes.class_splits import list_splits, load_split, split_classes
from episodes.dataset import ArraySet, FileSet, ImageSet, select_classes, to_memory
from episodes.errors import UserError
from episodes.opening import open_dataset


def small_set(labels=(0, 1, 2, 1), names=("a", "b", "c")) -> ArraySet:
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1).expand(-1, 4, 5).contiguous()
    return ArraySet(images, np.array(labels), names)


def test_array_set_shows_grey_as_three_channels_one_at_a_time_and_in_batches():
    dataset = small_set()
    assert isinstance(dataset, ImageSet) and len(dataset) == 4
    image, label = dataset[3]
    assert image.shape == (3, 4, 5) and image.dtype == torch.uint8 and label == 1 and (image == 3).all()
    batch = dataset.batch([3, 0])
    assert batch.shape == (2, 3, 4, 5)
    assert torch.equal(batch[0], image) and torch.equal(batch[1], dataset[0][0])


@pytest.mark.parametrize(
    "labels, names, words",
    [
        ((0, 1, 3, 1), ("a", "b", "c"), "label 3 has no class name"),
        ((0, -1, 2, 1), ("a", "b", "c"), "label -1"),
        ((0, 1, 0, 1), ("a", "b", "c"), "class 'c' has no image"),
        ((0, 1, 2, 1), ("a", "b", "a"), "'a' occurs twice"),
    ],
)
def test_labels_and_class_names_must_fit(labels, names, words):
    with pytest.raises(UserError, match=words):
        small_set(labels, names)


def test_label_count_must_fit():
    with pytest.raises(UserError, match="one label per image"):
        ArraySet(torch.zeros(3, 4, 4, dtype=torch.uint8), np.zeros(2), ["a"])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_selecting_classes_keeps_exactly_their_items(raw, random):
    used = sorted(set(raw))
    labels = np.searchsorted(used, raw)
    dataset = ArraySet(torch.arange(len(raw), dtype=torch.uint8).view(-1, 1, 1), labels, [f"c{u}" for u in used])
    wanted = random.sample(dataset.class_names, random.randint(1, len(used)))
    chosen = select_classes(dataset, wanted)
    expected = [(i, f"c{value}") for i, value in enumerate(raw) if f"c{value}" in wanted]
    assert [(int(chosen[j][0][0, 0, 0]), chosen.class_names[chosen[j][1]]) for j in range(len(chosen))] == expected
    assert chosen.class_names == wanted


def test_selecting_an_absent_class_names_it():
    with pytest.raises(UserError, match="1 of 2 wanted classes.*'bb'.*did you mean"):
        select_classes(small_set((0, 1), ("a", "bbb")), ["a", "bb"])


def test_to_memory_keeps_labels_and_crops_the_centre():
    images = torch.zeros(2, 3, 8, 16, dtype=torch.uint8)
    images[:, :, :, 4:12] = 200  # the centred square
    dataset = ArraySet(images, np.array([1, 0]), ["x", "y"])
    memory = to_memory(dataset, 8)
    assert memory.images.shape == (2, 3, 8, 8) and (memory.images == 200).all()
    assert memory.labels.tolist() == [1, 0] and memory.class_names == ["x", "y"]
    assert to_memory(dataset, 4, resize=6).images.shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    "spec, words",
    [
        ("digit", "no file, folder or source 'digit'; did you mean 'digits'"),
        ("glyphs:latn", "no script 'latn'.*did you mean 'latin'"),
        ("glyphs:latin?sise=3", "'sise'.*did you mean 'size'"),
        ("glyphs:latin?split=trian&by=mod5", "'trian'.*did you mean 'train'"),
        ("glyphs:latin?split=train&by=mod6", "no class split 'mod6'; did you mean 'mod5'"),
        ("glyphs:latin?split=train", "no splits of its own"),
        ("glyphs:latin?by=mod5", "no split: add split=train"),
        ("glyphs:latin?size=big", "whole number"),
        ("glyphs:latin?size=4", "size >= 8"),
        ("digits?size", "key=value"),
        ("digits:odd", "no parts"),
        ("torchvision:CIFAR101", "did you mean 'CIFAR10"),
    ],
)
def test_a_wrong_spec_is_one_sentence_with_the_nearest_name(spec, words):
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(spec)
    assert "\n" not in str(caught.value)


def test_digits_are_real_scans():
    digits = open_dataset("digits")
    assert len(digits) == 1797 and digits.class_names == [str(d) for d in range(10)]
    assert digits.images.shape == (1797, 32, 32) and digits.images.dtype == torch.uint8
    # the scans are told apart by the nearest class mean, so labels and pictures belong together
    flat = digits.images.flatten(1).float()
    labels = torch.from_numpy(digits.labels)
    means = torch.stack([flat[:900][labels[:900] == d].mean(0) for d in range(10)])
    assert (torch.cdist(flat[900:], means).argmin(1) == labels[900:]).float().mean() > 0.8


def test_mod5_follows_the_rule_of_sorted_names():
    names = {split: open_dataset(f"digits?split={split}&by=mod5").class_names for split in ("train", "val", "test")}
    assert names == {"train": ["0", "1", "2", "5", "6", "7"], "val": ["3", "8"], "test": ["4", "9"]}
    joined = open_dataset("digits?split=test+train&by=mod5")
    assert joined.class_names == names["test"] + names["train"]
    assert {joined.class_names[label] for label in joined.labels} == set(joined.class_names)


def test_a_split_file_may_be_yaml_or_json(tmp_path):
    lists = {"train": ["1", "7"], "test": ["0"]}
    (tmp_path / "s.json").write_text(json.dumps(lists))
    (tmp_path / "s.yaml").write_text("train: ['1', '7']\ntest: ['0']\n")
    for name in ("s.json", "s.yaml"):
        assert open_dataset(f"digits?split=train&by={tmp_path / name}").class_names == ["1", "7"]
    with pytest.raises(UserError, match="no classes for split=val"):
        open_dataset(f"digits?split=val&by={tmp_path / 's.json'}")
    (tmp_path / "bad.json").write_text(json.dumps({"train": ["1"], "test": ["1"]}))
    with pytest.raises(UserError, match="'1' twice, in train and in test"):
        open_dataset(f"digits?split=train&by={tmp_path / 'bad.json'}")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        open_dataset(f"digits?split=train&by={tmp_path / 'broken.json'}")


@pytest.mark.parametrize("name", list_splits())
def test_every_shipped_split_has_disjoint_parts_of_the_published_sizes(name):
    sizes = {
        "mini_imagenet": (64, 16, 20),
        "tiered_imagenet": (351, 97, 160),
        "cifar_fs": (64, 16, 20),
        "fc100": (60, 20, 20),
        "aircraft": (70, 15, 15),
        "dtd": (33, 7, 7),
        "vgg_flower": (71, 15, 16),
        "stanford_cars_dn4": (130, 17, 49),
        "stanford_dogs_dn4": (70, 20, 30),
        "omniglot_vinyals": (1028, 172, 423),
        "cub_100_50_50": (100, 50, 50),
        "cub_140_30_30": (140, 30, 30),
        "cub_dn4": (130, 20, 50),
        "mod5": (120, 40, 40),
        "kinetics100_61": (61, 0, 0),
    }
    parts = split_classes(name, [f"{i:03d}" for i in range(200)])
    assert tuple(len(parts[part]) for part in ("train", "val", "test")) == sizes[name]
    assert len(set().union(*parts.values())) == sum(sizes[name])
    assert load_split(name)["dataset"]


def test_the_cub_rule_wants_200_classes():
    with pytest.raises(UserError, match="for 200 classes, the data set has 7"):
        split_classes("cub_100_50_50", list("abcdefg"))


def test_numbered_classes_are_positions_from_one():
    names = [f"flower {i}" for i in range(1, 103)]
    assert split_classes("vgg_flower", names)["train"][0] == "flower 90"
    with pytest.raises(UserError, match="class number"):
        split_classes("vgg_flower", names[:50])


def test_sets_can_be_pickled():
    digits = pickle.loads(pickle.dumps(small_set()))
    assert torch.equal(digits[1][0], small_set()[1][0])


@settings(max_examples=20)
@given(st.integers(0, 2), st.integers(1, 4))
def test_file_set_take_renumbers(first, count):
    dataset = FileSet(list("abcdef"), np.array([0, 0, 1, 1, 2, 2]), ["x", "y", "z"], read=None)
    indices = np.arange(first, first + count)
    taken = dataset.take(indices, np.zeros(count, dtype=int), ["only"])
    assert taken.names == list("abcdef")[first : first + count] and taken.labels.tolist() == [0] * count
