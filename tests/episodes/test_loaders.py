"""From numbers to tensors: the same batches for any number of workers, ranks and starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from episodes.dataset import ArraySet
from episodes.errors import UserError
from episodes.loaders import BatchImages, EpisodeImages, Pictures, numbered_loader
from episodes.opening import open_dataset
from episodes.sampler import EpisodeSampler
from episodes.sizes import MetaDatasetSizes
from tests.episodes.pictures import tree

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def marked(classes: int = 5, items: int = 7, size: int = 8) -> ArraySet:
    """Image i is grey with value i, so that a tensor says which item it is."""
    count = classes * items
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1).expand(-1, size, size).contiguous()
    return ArraySet(images, np.repeat(np.arange(classes), items), [f"c{i}" for i in range(classes)])


def items_of(images: torch.Tensor) -> np.ndarray:
    return (images[..., 0, 0, 0] * 255).round().long().numpy()


def plain(dataset) -> Pictures:
    return Pictures(dataset, 8, **PLAIN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return open_dataset(str(tree(tmp_path_factory.mktemp("set"), {"a": 5, "b": 5, "c": 5})))


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("source", ["files", "memory"])
@pytest.mark.parametrize("kind", ["batches", "episodes"])
def test_workers_change_nothing(folder, source, kind):
    pictures = Pictures(folder if source == "files" else marked(3, 5), 8, augment="standard", **PLAIN)
    if kind == "batches":
        numbered = BatchImages(pictures, 4, seed=5, epoch=2)
    else:
        numbered = EpisodeImages(pictures, EpisodeSampler(pictures.dataset.labels, 2, 1, 2, 5, 5, 2), 2)
    torch.manual_seed(0)
    alone = list(numbered_loader(numbered, workers=0))
    for workers in (1, 3):
        torch.manual_seed(workers)  # the global state is none of their business
        other = list(numbered_loader(numbered, workers=workers))
        assert len(other) == len(alone)
        assert all(map(equal, alone, other))


def test_augmentation_differs_between_epochs_and_seeds():
    def first(seed, epoch):
        numbered = BatchImages(Pictures(marked(), 8, augment="standard", **PLAIN), 35, seed, epoch)
        batch = numbered[0]
        return batch["images"][batch["labels"].argsort(stable=True)]

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(0, 1))
    assert not torch.equal(first(0, 1), first(1, 0))


def test_an_epoch_holds_every_image_once_and_keeps_the_last_partial_batch():
    numbered = BatchImages(plain(marked()), 8, seed=1)
    batches = list(numbered_loader(numbered))
    assert [len(batch["images"]) for batch in batches] == [8, 8, 8, 8, 3]
    seen = np.concatenate([items_of(batch["images"]) for batch in batches])
    assert sorted(seen) == list(range(35))
    labels = torch.cat([batch["labels"] for batch in batches]).numpy()
    assert np.array_equal(labels, seen // 7)


def test_the_order_is_that_of_seed_and_epoch():
    def order(seed, epoch):
        return np.concatenate([items_of(b["images"]) for b in numbered_loader(BatchImages(plain(marked()), 8, seed))])

    numbered = BatchImages(plain(marked()), 8, seed=1)
    first = [items_of(numbered[i]["images"]) for i in range(5)]
    numbered.set_epoch(1)
    second = [items_of(numbered[i]["images"]) for i in range(5)]
    numbered.set_epoch(0)
    assert all(np.array_equal(a, items_of(numbered[i]["images"])) for i, a in enumerate(first))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    assert not np.array_equal(order(1, 0), order(2, 0))


def test_a_later_start_serves_the_rest():
    numbered = BatchImages(Pictures(marked(), 8, augment="light", **PLAIN), 8, seed=1)
    whole = list(numbered_loader(numbered))
    rest = list(numbered_loader(numbered, workers=1, start=3))
    assert len(rest) == 2
    assert all(map(equal, whole[3:], rest))
    assert list(numbered_loader(numbered, start=5)) == []


def test_processes_share_a_batch():
    whole = BatchImages(plain(marked()), 8, seed=3)
    parts = [BatchImages(plain(marked()), 8, seed=3, rank=rank, world_size=3) for rank in range(3)]
    for number in range(len(whole)):
        shares = [part[number] for part in parts]
        seen = np.concatenate([items_of(share["images"]) for share in shares])
        assert sorted(seen) == sorted(items_of(whole[number]["images"]))
        # mean over processes of weight * (mean over the share) is the mean over the batch
        means = [float(share["weight"]) * items_of(share["images"]).mean() for share in shares]
        assert np.mean(means) == pytest.approx(items_of(whole[number]["images"]).mean())


def test_a_process_without_an_image_takes_part_with_no_weight():
    part = BatchImages(plain(marked(1, 9)), 8, rank=2, world_size=3)
    last = part[1]
    assert len(last["images"]) == 1
    assert float(last["weight"]) == 0.0


def test_episodes_hold_the_items_of_the_sampler_support_first():
    pictures = plain(marked())
    sampler = EpisodeSampler(pictures.dataset.labels, 3, 2, 4, n_episodes=5, seed=9)
    numbered = EpisodeImages(pictures, sampler, episodes_per_step=2)
    steps = list(numbered_loader(numbered))
    assert [tuple(step["images"].shape[:2]) for step in steps] == [(2, 18), (2, 18), (1, 18)]
    for step in steps:
        for row, number in enumerate(step["numbers"].tolist()):
            episode = sampler[number]
            assert np.array_equal(
                items_of(step["images"][row]), np.concatenate([episode.support, episode.query])
            )  # fmt: skip
            assert np.array_equal(step["support_labels"][row], episode.support_labels)
            assert np.array_equal(step["query_labels"][row], episode.query_labels)
    assert torch.cat([step["numbers"] for step in steps]).tolist() == list(range(5))


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_pictures_of_an_episode_do_not_depend_on_its_neighbours(in_memory):
    dataset = marked()
    if not in_memory:  # hide the fast path
        dataset = type("Single", (), {
            "labels": dataset.labels, "class_names": dataset.class_names,
            "__len__": lambda self, d=dataset: len(d), "__getitem__": lambda self, i, d=dataset: d[i],
        })()  # fmt: skip
    pictures = Pictures(dataset, 8, (0.5,) * 3, (0.5,) * 3, "standard")
    sampler = EpisodeSampler(dataset.labels, 3, 1, 2, n_episodes=3)
    alone, together = EpisodeImages(pictures, sampler), EpisodeImages(pictures, sampler, episodes_per_step=3)
    assert torch.equal(torch.cat([alone[i]["images"] for i in range(3)]), together[0]["images"])


def test_episodes_of_an_epoch_differ_from_those_of_the_next():
    pictures = plain(marked())
    numbered = EpisodeImages(pictures, EpisodeSampler(pictures.dataset.labels, 3, 1, 2, 4))
    first = numbered[0]["images"]
    numbered.set_epoch(1)
    assert not torch.equal(first, numbered[0]["images"])
    numbered.set_epoch(0)
    assert torch.equal(first, numbered[0]["images"])


@pytest.mark.parametrize(("episodes", "world", "per_step"), [(6, 2, 2), (7, 2, 1), (7, 3, 2), (1, 3, 1), (5, 1, 2)])
def test_processes_share_the_episodes(episodes, world, per_step):
    """All have as many steps, or they would wait for each other for ever; the weights make it one mean."""
    pictures = plain(marked())
    shares = [
        EpisodeImages(
            pictures,
            EpisodeSampler(pictures.dataset.labels, 3, 1, 2, episodes, rank=rank, world_size=world),
            per_step,
        )
        for rank in range(world)
    ]
    assert len({len(share) for share in shares}) == 1
    seen = []
    for step in zip(*map(numbered_loader, shares), strict=True):
        counted = [(n, float(part["weight"])) for part in step for n in part["numbers"].tolist() if part["weight"] > 0]
        means = [float(part["weight"]) * part["numbers"].double().mean().item() for part in step]
        assert np.mean(means) == pytest.approx(np.mean([number for number, _ in counted]))
        seen += [number for number, _ in counted]
    assert sorted(seen) == list(range(episodes))


def test_uneven_episodes_are_padded():
    pictures = plain(marked(8, 9))
    sampler = EpisodeSampler(pictures.dataset.labels, n_episodes=6, variable=MetaDatasetSizes())
    step = EpisodeImages(pictures, sampler, 6)[0]
    assert (step["support_labels"] == -1).any()
    for row, number in enumerate(step["numbers"].tolist()):
        episode = sampler[number]
        assert (step["support_labels"][row] >= 0).sum() == len(episode.support)
        shots = len(episode.support)
        assert np.array_equal(items_of(step["images"][row, :shots]), episode.support)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_one_sentence_from_any_process(tmp_path, workers):
    root = tree(tmp_path, {"a": 3, "b": 3})
    (root / "b" / "1.png").write_bytes(b"no picture")
    pictures = Pictures(open_dataset(str(root)), 8, **PLAIN)
    with pytest.raises(UserError, match=r"cannot read image '.*b/1\.png'") as caught:
        list(numbered_loader(BatchImages(pictures, 2), workers=workers))
    assert "Traceback" not in str(caught.value)
