"""Episode files: every kind comes back the same, from another copy of the data too, and damage is told."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

from episodes.batch import EpisodeBatch
from episodes.dataset import ArraySet
from episodes.errors import UserError
from episodes.extras import Extras
from episodes.files import read_episodes, write_episodes
from episodes.opening import open_dataset
from episodes.sampler import EpisodeSampler
from episodes.sizes import ImbalancedSizes, MetaDatasetSizes
from tests.tools import tiny

KINDS = {
    "fixed": {"n_way": 3, "k_shot": 2, "n_query": 2},
    "unequal": {"n_way": 3, "k_shot": (1, 3, 2), "n_query": 2},
    "imbalanced": {"variable": ImbalancedSizes(3, (1, 3), 2, 0.5)},
    "meta_dataset": {"variable": MetaDatasetSizes(2, 4, max_query=3, max_support=12)},
    "open": {"n_way": 3, "extras": Extras(2, 2), "n_query": 2},
    "semi": {"variable": MetaDatasetSizes(2, 4, max_query=3, max_support=12), "extras": Extras(0, 0, 3, 1, 2)},
    "all": {"n_way": 3, "n_query": 2, "extras": Extras(1, 2, 2, 1, 2)},
}


def array_set(classes: int = 7, items: int = 12) -> ArraySet:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), items))
    return ArraySet(torch.zeros(len(labels), 2, 2, dtype=torch.uint8), labels, [f"c{i}" for i in range(classes)])


def same(first: EpisodeBatch, second: EpisodeBatch) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in vars(first))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_every_kind_comes_back(tmp_path, kind, suffix):
    data = array_set()
    sampler = EpisodeSampler(data.labels, n_episodes=300, seed=4, epoch=2, **KINDS[kind])
    path = write_episodes(tmp_path / f"e{suffix}", sampler, data, "seven classes")
    read = read_episodes(path, data)
    assert len(read) == 300 and read.sizes == sampler.sizes and read.extras == sampler.extras
    assert (read.header["data"], read.header["seed"], read.header["epoch"]) == ("seven classes", 4, 2)
    for a, b in zip(sampler.steps(70), read.steps(70), strict=True):
        assert same(a, b)
    assert same(sampler.batch([299, 3, 256]), read.batch([299, 3, 256]))
    assert repr(read[7]) == repr(sampler[7])
    for episode, other in zip(sampler, read, strict=True):
        assert np.array_equal(episode.query, other.query)
    again = write_episodes(tmp_path / f"again{suffix}", read, data, "seven classes")
    assert lines(again)[1:] == lines(path)[1:]


def lines(path) -> list[str]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return file.read().splitlines()


def test_ranks_share_a_file(tmp_path):
    data = array_set()
    path = write_episodes(tmp_path / "e.jsonl", EpisodeSampler(data.labels, 3, 1, 2, 11), data)
    shards = [read_episodes(path, data, rank, 3) for rank in range(3)]
    assert sorted(episode.number for shard in shards for episode in shard) == list(range(11))
    with pytest.raises(UserError, match="rank=3"):
        read_episodes(path, data, 3, 3)


def test_another_copy_in_another_order_gives_the_same_pictures(tmp_path):
    first = open_dataset(str(tiny.folder(tmp_path / "a", 5, 6)))
    sampler = EpisodeSampler(first.labels, 3, 1, 2, 40)
    path = write_episodes(tmp_path / "e.jsonl", sampler, first)
    second = open_dataset(str(tiny.folder(tmp_path / "other" / "place", 5, 8)))  # and has more files
    order = np.random.default_rng(1).permutation(len(second))
    names = list(reversed(second.class_names))
    labels = len(names) - 1 - second.labels[order]
    second = second.take(order, labels, names)
    read = read_episodes(path, second)
    for mine, theirs in zip(sampler, read, strict=True):
        for side in ("support", "query"):
            a, b = (
                [s.names[i].split("/")[-2:] for i in getattr(e, side)] for s, e in ((first, mine), (second, theirs))
            )
            assert a == b
        assert [first.class_names[c] for c in mine.classes] == [names[c] for c in theirs.classes]
    # the text depends on the pictures alone
    rewritten = write_episodes(tmp_path / "b.jsonl", read, second)
    assert json.loads(lines(rewritten)[0])["items"] == json.loads(lines(path)[0])["items"]


@pytest.fixture
def written(tmp_path):
    data = array_set()
    sampler = EpisodeSampler(data.labels, 3, 1, 2, 20, extras=Extras(1, 2, 1, 1, 2))
    return write_episodes(tmp_path / "e.jsonl", sampler, data), data


def edited(path, number: int, change) -> None:
    """Change one line of a file in place."""
    rows = lines(path)
    entry = json.loads(rows[number])
    rows[number] = json.dumps(change(entry) or entry)
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("number", "change", "words"),
    [
        (0, lambda h: h.update(format="covey-episodes-9"), "has the format 'covey-episodes-9'"),
        (0, lambda h: h.update(format="other"), "is no episode file"),
        (0, lambda h: h.pop("classes") and None, "lacks 'classes'"),
        (0, lambda h: h.update(episodes="many"), "header .* is damaged"),
        (0, lambda h: h.update(episodes=21), "is cut off: it has 20 of 21 episodes"),
        (0, lambda h: h.update(episodes=19), "too many episodes"),
        (0, lambda h: h.update(labels="0"), "other items or labels"),
        (0, lambda h: h["classes"].append("zebra"), r"is of 8 classes and the data set has 7 \('zebra' is in the file"),
        (0, lambda h: h["sizes"].update(rule="odd"), "names sizes or extras that are not known"),
        (0, lambda h: h["sizes"].update(shots=[]), "names sizes or extras that are not known"),
        (0, lambda h: h["sizes"].update(shots=3), "names sizes or extras that are not known"),
        (0, lambda h: h["sizes"].update(shots=["a", 1, 1]), "names sizes or extras that are not known"),
        (0, lambda h: h["sizes"].update(n_query=0), "names sizes or extras that are not known"),
        (3, lambda e: e.update(episode=5), "line 4: episode 2 has the number 5"),
        (3, lambda e: e.update(classes=e["classes"][:1]), "episode 2 has 1 class: it needs two at least"),
        (3, lambda e: e.update(classes=e["classes"][:1] * 3), "names a class twice"),
        (3, lambda e: e.update(classes=[0, 1, 99]), "whole numbers from 0 to 6 under 'classes'"),
        (3, lambda e: e["support"].pop() and None, "one list of support items for each of its 3"),
        (3, lambda e: e["support"][1].clear(), "has no support of class 'c"),
        (3, lambda e: [group.clear() for group in e["query"]] and None, "has no query"),
        (3, lambda e: e["query"][0].append(e["support"][0][0]), r"has item \d+ twice"),
        (3, lambda e: e["query"][0].append(e["query"][1].pop()), r"has item \d+ in a class that it is not of"),
        (3, lambda e: e["unlabelled"][0].append(e["distractors"].pop()), r"in a class that it is not of"),
        (3, lambda e: e["distractors"].append(e["query"][1].pop()), "of its own classes among unknown queries"),
        (0, lambda h: h["sizes"].update(shots=[2, 2, 2]), r"has \[1, 1, 1\] supports .* header says: 3-way 2-shot"),
        (0, lambda h: h["sizes"].update(shots=[1, 1]), "has .* supports .* header says: 2-way 1-shot"),
        (0, lambda h: h["sizes"].update(n_query=3), "header says: 3-way 1-shot with 3 queries"),
        (0, lambda h: h.update(sizes={"rule": "meta_dataset"}), "line 2: episode 0 has .* variable episodes"),
        (0, lambda h: h.update(sizes={"rule": "imbalanced", "n_way": 3, "shots": [2, 3], "n_query": 2}), "2-to-3-shot"),
        (0, lambda h: h.update(extras=None), "has 2 unknown queries and the header's extras name 0"),
        (0, lambda h: h["extras"].update(unknown_ways=2, unknown_queries=1), "has 1 classes of unknown queries"),
        (0, lambda h: h["extras"].update(distractors=1), "has 2 distractors and the header's extras name 1"),
        (0, lambda h: h["extras"].update(unlabelled=2), r"has \[1, 1, 1\] unlabelled items .* extras 2"),
        (0, lambda h: h["extras"].update(unlabelled=1.5), "e.jsonl', line 1: extras.unlabelled is 1.5"),
        (0, lambda h: h["extras"].update(unlabelled=-1), "e.jsonl', line 1: extras.unlabelled is -1"),
        (0, lambda h: h["extras"].update(distractors=0), "e.jsonl', line 1: distractor_ways=1 and distractors=0"),
        (0, lambda h: h["sizes"].update(n_query=True), "line 1: the header names sizes or extras"),
        (2, lambda e: e.update(episode=True), "line 3: episode 1 has the number True"),
        (3, lambda e: e["unknown"].pop() and None, "has 1 unknown queries and the header's extras name 2"),
        (3, lambda e: e["query"][0].append(84), "whole numbers from 0 to 83 under 'query'"),
        (3, lambda e: e["query"][0].append(True), "whole numbers from 0 to 83 under 'query'"),
        (3, lambda e: e["query"][0].append("1"), "whole numbers from 0 to 83 under 'query'"),
        (3, lambda e: e.pop("query") and None, "lacks 'query'"),
        (3, lambda e: e.update(extra=[]), "unknown entry 'extra'"),
        (3, lambda e: [1], "not a whole JSON object"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_told_with_its_line(written, number, change, words):
    path, data = written
    edited(path, number, change)
    with pytest.raises(UserError, match=words):
        read_episodes(path, data)


def test_files_that_are_cut_off(tmp_path, written):
    path, data = written
    text = path.read_bytes()
    path.write_bytes(text[: len(text) // 2])
    with pytest.raises(UserError, match="not a whole JSON object"):
        read_episodes(path, data)
    packed = tmp_path / "e.jsonl.gz"
    packed.write_bytes(gzip.compress(text)[:-400])
    with pytest.raises(UserError, match=r"e.jsonl.gz' is cut off"):
        read_episodes(packed, data)
    packed.write_bytes(text)
    with pytest.raises(UserError, match="cannot read the episode file"):
        read_episodes(packed, data)
    for start in (b"", b"[" * 200_000):
        path.write_bytes(start)
        with pytest.raises(UserError, match="is no episode file"):
            read_episodes(path, data)
    with pytest.raises(UserError, match="there is no episode file"):
        read_episodes(tmp_path / "absent.jsonl", data)
    with pytest.raises(UserError, match="cannot read the episode file"):
        read_episodes(tmp_path, data)


def test_another_data_set_is_refused(tmp_path, written):
    path, data = written
    other = ArraySet(data.images, np.roll(data.labels, 1), data.class_names)
    with pytest.raises(UserError, match="other items or labels"):
        read_episodes(path, other)
    with pytest.raises(UserError, match="is of 7 classes and the data set has 5"):
        read_episodes(path, array_set(5))
    with pytest.raises(UserError, match="episode 0 is not of this data set"):
        write_episodes(tmp_path / "b.jsonl", EpisodeSampler(data.labels, 3, 1, 2, 5), other)
    assert not (tmp_path / "b.jsonl").exists()


def test_missing_and_relabelled_files_are_named(tmp_path):
    folder = tiny.folder(tmp_path / "a", 5, 6)
    data = open_dataset(str(folder))
    path = write_episodes(tmp_path / "e.jsonl", EpisodeSampler(data.labels, 5, 1, 2, 40), data)
    with pytest.raises(UserError, match="names items by file and this data set has no file names"):
        read_episodes(path, ArraySet(torch.zeros(30, 2, 2, dtype=torch.uint8), data.labels, data.class_names))
    labels = data.labels.copy()
    labels[7] = 4
    with pytest.raises(UserError, match=r"item 'class1/1.png' is of class 'class4' in the data set and of 'class1'"):
        read_episodes(path, data.take(np.arange(30), labels, data.class_names))
    edited(path, 0, lambda header: header["item_classes"].__setitem__(0, 3))
    with pytest.raises(UserError, match="were changed"):
        read_episodes(path, data)
    path = write_episodes(tmp_path / "e.jsonl", EpisodeSampler(data.labels, 5, 1, 2, 40), data)
    (folder / "class2" / "3.png").unlink()
    with pytest.raises(UserError, match=r"1 of 30 items .* are not in the data set, the first is 'class2/3.png'"):
        read_episodes(path, open_dataset(str(folder)))


def test_training_goes_on_with_the_same_episodes(written):
    path, data = written
    read = read_episodes(path, data)
    before = read[4].support.copy()
    read.set_epoch(3)
    assert read.epoch == 3 and np.array_equal(read[4].support, before)
    with pytest.raises(ValueError, match="read-only"):
        read[0].support[0] = 1
