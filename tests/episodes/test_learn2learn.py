"""learn2learn, both ways: the same pictures, episodes and scores on either side, and benchmarks by name."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from episodes.dataset import ArraySet, FileSet
from episodes.errors import UserError
from episodes.evaluate import evaluate
from episodes.learn2learn import (
    Prepare,
    TaskEpisodes,
    as_rgb,
    evaluate_tasks,
    from_meta_dataset,
    own_random,
    split_task,
    to_meta_dataset,
    to_task_dataset,
)
from episodes.loaders import EpisodeImages, Pictures, numbered_loader
from episodes.sampler import EpisodeSampler
from tests.episodes.nearest_mean import NearestMean, flat

CLASSES, ITEMS = 6, 8
LABELS = np.tile(np.arange(CLASSES), ITEMS)  # not class by class


@pytest.fixture(scope="module")
def l2l():
    return pytest.importorskip("learn2learn")


def array_set() -> ArraySet:
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(60, 196, (CLASSES, 3, 1, 1), generator=generator)[LABELS]
    images = (colours + 60 * torch.randn(len(LABELS), 3, 8, 8, generator=generator)).clamp(0, 255).to(torch.uint8)
    return ArraySet(images, LABELS, [f"class{i}" for i in range(CLASSES)])


def pictures(augment: str = "none") -> Pictures:
    return Pictures(array_set(), 8, (0.5,) * 3, (0.25,) * 3, augment)


def test_a_meta_data_set_opens_no_image(l2l):
    def refuse(name):
        raise AssertionError(f"{name} was opened")

    meta = to_meta_dataset(FileSet([f"{i}.png" for i in range(len(LABELS))], LABELS, list("abcdef"), refuse))
    assert isinstance(meta, l2l.data.MetaDataset)
    assert sorted(meta.labels) == list(range(CLASSES))
    assert [meta.indices_to_labels[i] for i in range(len(LABELS))] == LABELS.tolist()
    assert meta.labels_to_indices[2] == np.flatnonzero(LABELS == 2).tolist()
    assert l2l.data.FilteredMetaDataset(meta, [4, 1]).labels == [4, 1]


def test_its_items_are_the_pictures(l2l):
    image, label = to_meta_dataset(pictures())[9]
    assert torch.equal(image, pictures().load([9])[0])
    assert label == LABELS[9]
    raw, _ = to_meta_dataset(array_set(), lambda image: image.float() / 255)[9]
    assert torch.equal(raw, array_set()[9][0].float() / 255)


@pytest.mark.parametrize("fused", [True, False])
def test_the_transforms_of_learn2learn_work_on_it(l2l, fused):
    meta, t = to_meta_dataset(pictures()), l2l.data.transforms
    choose = [t.FusedNWaysKShots(meta, n=3, k=4)] if fused else [t.NWays(meta, 3), t.KShots(meta, 4)]
    tasks = l2l.data.Taskset(
        meta, [*choose, t.LoadData(meta), t.RemapLabels(meta), t.ConsecutiveLabels(meta)], num_tasks=5
    )
    images = pictures().load(range(len(LABELS)))
    known = {tuple(image.flatten().tolist()): label for image, label in zip(images, LABELS, strict=True)}
    for images, labels in tasks:
        assert images.shape == (12, 3, 8, 8)
        assert np.bincount(labels).tolist() == [4, 4, 4]
        truth = np.array([known[tuple(image.flatten().tolist())] for image in images])
        assert all(len(set(truth[labels.numpy() == label])) == 1 for label in range(3))
        assert len(set(truth)) == 3


def test_task_i_is_episode_i(l2l):
    mine = pictures("standard")
    tasks = to_task_dataset(mine, 3, 2, 4, num_tasks=7, seed=5)
    assert isinstance(tasks, l2l.data.TaskDataset)
    assert len(tasks) == len(list(tasks)) == 7
    steps = EpisodeImages(mine, EpisodeSampler(LABELS, 3, 2, 4, 7, seed=5))
    for number in (0, 6):
        images, labels = tasks[number]
        (support, support_labels), (query, query_labels) = l2l.data.partition_task(images, labels, shots=2)
        expected = steps[number]
        assert torch.equal(torch.cat([support, query]), expected["images"][0])
        assert torch.equal(support_labels, expected["support_labels"][0])
        assert torch.equal(query_labels, expected["query_labels"][0])
        described = [one.index for one in tasks.description(number)]
        episode = EpisodeSampler(LABELS, 3, 2, 4, 7, seed=5)[number]
        assert LABELS[described].tolist() == episode.classes[labels].tolist()
    with pytest.raises(IndexError):
        tasks[7]


def test_tasks_travel_to_workers(l2l):
    tasks = to_task_dataset(pictures(), 3, 1, 2, num_tasks=4)
    copy = pickle.loads(pickle.dumps(tasks))
    served = list(DataLoader(tasks, batch_size=None, num_workers=2, multiprocessing_context="fork"))
    for number in range(4):
        assert torch.equal(copy[number][0], tasks[number][0])
        assert torch.equal(served[number][0], tasks[number][0])


def test_classes_that_are_too_small_for_the_tasks_are_named(l2l):
    with pytest.raises(UserError, match="need 9 items in every class, but 'class0' has 8"):
        to_task_dataset(pictures(), 3, 1, 8)


def test_there_and_back_are_the_same_steps_and_scores(l2l):
    tasks = to_task_dataset(pictures(), 3, 2, 4, num_tasks=30, seed=5)
    sampler = EpisodeSampler(LABELS, 3, 2, 4, 30, seed=5)
    ours, theirs = EpisodeImages(pictures(), sampler, 4), TaskEpisodes(tasks, 2, tasks_per_step=4)
    assert len(ours) == len(theirs) == 8
    for step in (0, 7):
        assert ours[step].keys() == theirs[step].keys()
        assert all(torch.equal(ours[step][key], theirs[step][key]) for key in ours[step])
    expected = evaluate(flat, NearestMean(), pictures(), sampler, show=False)
    for workers in (0, 2):
        found = evaluate_tasks(flat, NearestMean(), tasks, 2, workers=workers)
        assert found.accuracies.tolist() == expected.accuracies.tolist()
        assert (found.mean, found.interval) == (expected.mean, expected.interval)
    assert 0.4 < found.mean < 1  # chance is a third
    assert found.confusion.shape == (3, 3)
    assert found.confusion.sum() == 30 * 3 * 4
    assert found.confusion.trace() / found.confusion.sum() == pytest.approx(found.mean)


def test_the_share_of_a_process():
    tasks = [(torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 0, 1, 0, 1])) for _ in range(5)]
    whole = TaskEpisodes(tasks, 1, tasks_per_step=2)
    parts = [TaskEpisodes(tasks, 1, tasks_per_step=2, rank=rank, world_size=2) for rank in range(2)]
    for step in range(3):
        numbers = [part[step]["numbers"].tolist() for part in parts if part[step]["weight"] > 0]
        assert sorted(sum(numbers, [])) == whole[step]["numbers"].tolist()
        assert sum(float(part[step]["weight"]) for part in parts) == 2


def endless(l2l):
    meta, t = to_meta_dataset(pictures()), l2l.data.transforms
    choose = [t.FusedNWaysKShots(meta, n=3, k=4), t.LoadData(meta), t.RemapLabels(meta), t.ConsecutiveLabels(meta)]
    return l2l.data.Taskset(meta, choose)


def test_drawn_tasks_depend_on_seed_number_and_epoch_alone(l2l):
    before = random.getstate(), torch.get_rng_state()
    steps = TaskEpisodes(endless(l2l), 1, n_tasks=6, seed=3)
    first = [steps[number]["images"] for number in range(6)]
    again = TaskEpisodes(endless(l2l), 1, n_tasks=6, seed=3)
    assert all(torch.equal(again[number]["images"], first[number]) for number in (5, 0, 3))
    assert not torch.equal(TaskEpisodes(endless(l2l), 1, n_tasks=6, seed=4)[0]["images"], first[0])
    again.set_epoch(1)
    assert not torch.equal(again[0]["images"], first[0])
    assert not torch.equal(first[0], first[1])
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    scores = [evaluate_tasks(flat, NearestMean(), endless(l2l), 1, 20, tasks_per_step=k).accuracies for k in (1, 8)]
    assert scores[0].tolist() == scores[1].tolist()


def test_how_many_tasks_must_be_known(l2l):
    with pytest.raises(UserError, match="has no end.*say n_tasks"):
        TaskEpisodes(endless(l2l), 1)
    with pytest.raises(UserError, match="n_tasks=9, but the task set holds 4"):
        TaskEpisodes(to_task_dataset(pictures(), 3, 1, 2, num_tasks=4), 1, 9)


def test_a_task_is_split_in_its_own_order():
    labels = torch.tensor([7, 3, 7, 3, 3, 7, 5, 5])
    images, support, query = split_task(torch.arange(8.0).view(8, 1), labels, 2)
    assert images.flatten().tolist() == [1, 3, 6, 7, 0, 2, 4, 5]  # 3 3 5 5 7 7, then what is left of 3 and 7
    assert support.tolist() == [0, 0, 1, 1, 2, 2]
    assert query.tolist() == [0, 2]
    with pytest.raises(UserError, match=r"classes of sizes \{3: 3, 5: 2, 7: 3\} cannot be split at k_shot=3"):
        split_task(images, labels, 3)
    with pytest.raises(UserError, match="cannot be split at k_shot=2"):
        split_task(images[:4], torch.tensor([0, 0, 1, 1]), 2)


def test_uneven_tasks_are_padded():
    """Three classes beside two, and classes with different numbers of queries."""
    tasks = [
        (torch.rand(7, 1, 4, 4), torch.tensor([0, 0, 1, 1, 1, 2, 2])),
        (torch.rand(5, 1, 4, 4), torch.tensor([1, 1, 1, 0, 0])),
    ]
    steps = TaskEpisodes(tasks, 1, tasks_per_step=2)
    batch = next(numbered_loader(steps))
    assert batch["images"].shape == (2, 3 + 4, 3, 4, 4)
    assert batch["support_labels"].tolist() == [[0, 1, 2], [0, 1, -1]]
    assert batch["query_labels"].tolist() == [[0, 1, 1, 2], [0, 1, 1, -1]]
    assert torch.equal(batch["images"][1, 1, 0], tasks[1][0][0, 0])
    together, alone = (evaluate_tasks(flat, NearestMean(), tasks, 1, tasks_per_step=k).accuracies for k in (2, 1))
    assert together.tolist() == alone.tolist()


def test_pictures_are_prepared():
    prepare = Prepare(6, (0.5,) * 3, (0.25,) * 3, largest=255)
    assert prepare(torch.full((2, 1, 12, 12), 255.0)).allclose(torch.full((2, 3, 6, 6), 2.0))
    with pytest.raises(UserError, match=r"must be \(n, 1 or 3, H, W\), not \(2, 4, 8, 8\)"):
        as_rgb(torch.zeros(2, 4, 8, 8))


def test_a_meta_data_set_is_a_data_set_of_ours(l2l):
    meta = to_meta_dataset(array_set(), lambda image: image.float() / 255)
    mine = from_meta_dataset(l2l.data.FilteredMetaDataset(meta, [4, 1]))
    assert mine.class_names == ["1", "4"]
    assert np.bincount(mine.labels).tolist() == [ITEMS, ITEMS]
    image, label = mine[0]
    assert label == 1  # class 4 comes first there
    assert torch.equal(image, array_set()[4][0])
    shown = Pictures(mine, 8, (0.5,) * 3, (0.25,) * 3)
    assert evaluate(flat, NearestMean(), shown, EpisodeSampler(mine.labels, 2, 1, 2, 10), show=False).mean > 0.5


def test_what_is_no_meta_data_set_or_no_pictures_is_one_sentence():
    with pytest.raises(UserError, match="takes a learn2learn.data.MetaDataset, not a int"):
        from_meta_dataset(5)
    with pytest.raises(UserError, match=r"takes Pictures.*wrap the data set, Pictures\(dataset, size, mean, std\)"):
        to_task_dataset(array_set(), 3, 1, 2)


def test_pictures_in_another_range_are_refused(l2l):
    with pytest.raises(UserError, match="not from 0 to largest=1"):
        from_meta_dataset(to_meta_dataset(pictures()))[0]  # normalised
    raw = to_meta_dataset(array_set(), lambda image: image.float())
    with pytest.raises(UserError, match="largest=255"):
        from_meta_dataset(raw)[0]
    assert torch.equal(from_meta_dataset(raw, largest=255)[0][0], array_set()[0][0])
    with pytest.raises(UserError, match="above largest=1"):
        Prepare(8, (0.5,) * 3, (0.5,) * 3)(torch.full((1, 3, 8, 8), 200.0))


@pytest.mark.parametrize("option", ["k_shot", "n_tasks", "tasks_per_step"])
def test_numbers_of_tasks_start_at_one(option):
    with pytest.raises(UserError, match=f"{option} must be at least 1, not 0"):
        TaskEpisodes([(torch.zeros(2, 3, 8, 8), torch.tensor([0, 0]))], **{"k_shot": 1, option: 0})


def test_a_head_that_adapts_the_network_brings_it_along(l2l):
    from fewshot.maml import MAML, as_they_are, with_encoder

    tasks = to_task_dataset(pictures(), n_way=2, k_shot=1, n_query=1, num_tasks=2)

    class Encoder(torch.nn.Sequential):
        out_dim = 3

    encoder = Encoder(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(UserError, match="with_encoder"):
        evaluate_tasks(encoder, MAML(), tasks, k_shot=1)
    assert len(evaluate_tasks(as_they_are, with_encoder(MAML(), encoder), tasks, k_shot=1).accuracies) == 2


def test_own_random_is_seeded_and_leaves_no_trace():
    state = random.getstate()
    drawn = []
    for _ in range(2):
        with own_random(1, 2):
            drawn.append((random.random(), torch.rand(1).item()))
    with own_random(1, 3):
        assert random.random() != drawn[0][0]
    assert drawn[0] == drawn[1]
    assert random.getstate() == state


def test_without_it_there_is_one_sentence_with_the_recipe():
    """In a process of its own, where the import is blocked; MAML itself does without."""
    code = """
import sys
sys.modules["learn2learn"] = None
from fewshot.methods import create_head
from episodes.learn2learn import l2l_tasksets, to_meta_dataset
from episodes.errors import UserError
create_head("maml", 1)
for call in (lambda: to_meta_dataset(None), lambda: create_head("anil", 1, library="learn2learn")):
    try:
        call()
    except UserError as error:
        print(error)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("this needs learn2learn, which cannot be imported here (")
        assert "pip install 'cython<3' 'setuptools<80' wheel && CYTHON_FORCE_REGEN=1 pip install" in line
        assert "--config-settings=--global-option=build_ext learn2learn==0.2.0" in line
