"""The feature store: same numbers as without it, whatever happens to it on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from episodes.dataset import ArraySet, FileSet
from episodes.errors import UserError
from episodes.evaluate import evaluate_features, evaluate_images, extract_features
from episodes.features import open_features, read_features
from episodes.fingerprint import dataset_key, picture_facts, weights_key
from episodes.loaders import Pictures
from episodes.opening import open_dataset
from episodes.sampler import EpisodeSampler
from tests.episodes.pictures import tree
from tests.episodes.test_evaluate import Nearest, pictures

MEAN, STD = (0.5,) * 3, (0.3,) * 3


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten()).eval()


class Counting(nn.Module):
    """Count the images that pass; break down at image number `limit`."""

    def __init__(self, network: nn.Module, limit: int = 10**9) -> None:
        super().__init__()
        self.network, self.limit, self.seen = network, limit, 0

    def forward(self, images):
        self.seen += len(images)
        if self.seen > self.limit:
            raise KeyboardInterrupt
        return self.network(images)


def opened(network, data, folder, **options):
    """Open a store of 54 items in blocks of 10; returns it, how many images were computed, and what was said."""
    counting, said = Counting(network), []
    options = {"block_rows": 10, "batch_size": 4, "show": False, **options}
    key = options.pop("key", None) or weights_key(network)
    store = open_features(counting, data, key, folder, say=said.append, **options)
    return store, counting.seen, said


def test_features_are_computed_once(tmp_path, network):
    data = pictures()
    store, computed, said = opened(network, data, tmp_path)
    again, more, _ = opened(network, data, tmp_path)
    assert (computed, more, said) == (54, 0, [])
    assert store.path == again.path and store.path.parent == tmp_path
    assert (len(store), store.shape, store.row_bytes) == (54, (54, 16), 64)
    torch.testing.assert_close(store.tensor(), extract_features(network, data, show=False))
    assert torch.equal(store.tensor(), again.tensor())


def test_gather(tmp_path, network):
    store = opened(network, pictures(), tmp_path)[0]
    chosen = np.array([[3, 53, 3], [0, 20, 9]])
    rows = store.gather(chosen)
    assert rows.shape == (2, 3, 16) and rows.dtype == torch.float32
    assert torch.equal(rows, store.tensor()[chosen])
    assert store.gather(chosen[:, ::-1], out=rows) is rows
    assert torch.equal(rows[0, 1], store.tensor()[53])
    for outside in (-1, 54):
        with pytest.raises(IndexError, match="is not in the feature store .* of 54 items"):
            store.gather(np.array([outside]))


def test_maps_keep_their_shape(tmp_path, network):
    store = opened(network[:3], pictures(), tmp_path)[0]
    assert store.gather(np.array([[1, 2]])).shape == (1, 2, 4, 6, 6)


def test_accuracies_are_those_of_memory_and_of_images(tmp_path, network):
    data = pictures()
    sampler = EpisodeSampler(data.dataset.labels, 4, 2, 3, 30)
    store = opened(network, data, tmp_path)[0]
    kept = evaluate_features(Nearest(), store, sampler, 6, show=False)
    memory = evaluate_features(Nearest(), extract_features(network, data, show=False), sampler, 6, show=False)
    plain = evaluate_images(network, Nearest(), data, sampler, show=False)
    assert np.array_equal(kept.accuracies, memory.accuracies)
    assert np.array_equal(kept.accuracies, plain.accuracies)
    assert np.array_equal(kept.confusion, plain.confusion)
    assert 0.3 < kept.mean < 1.0


def test_float16_halves_the_file(tmp_path, network):
    single, half = (opened(network, pictures(), tmp_path, dtype=dtype)[0] for dtype in ("float32", "float16"))
    sizes = [(store.path / "features.bin").stat().st_size for store in (single, half)]
    assert sizes == [54 * 16 * 4, 54 * 16 * 2]
    assert half.gather(np.array([[5]])).dtype == torch.float32
    torch.testing.assert_close(half.tensor(), single.tensor(), rtol=1e-3, atol=1e-6)
    out = torch.empty(1, 2, 16)
    assert torch.equal(half.gather(np.array([[7, 8]]), out)[0], half.tensor()[7:9])


def test_a_number_too_large_for_float16_is_named(tmp_path, network):
    with pytest.raises(UserError, match="item 0 reach .* which float16 can't hold: keep them as float32"):
        opened(lambda images: network(images) + 1e5, pictures(), tmp_path, dtype="float16", key="large")
    with pytest.raises(UserError, match="float32 or float16, not int8"):
        opened(network, pictures(), tmp_path, dtype="int8")


def test_broken_weights_are_named(tmp_path, network):
    with pytest.raises(UserError, match="item 0 is not finite"):
        opened(lambda images: network(images) * torch.nan, pictures(), tmp_path, key="broken")


def test_an_interrupted_run_goes_on(tmp_path, network):
    data = pictures()
    with pytest.raises(KeyboardInterrupt):
        open_features(
            Counting(network, 33), data, weights_key(network), tmp_path, block_rows=10, batch_size=4, show=False
        )
    store, computed, said = opened(network, data, tmp_path)
    assert computed == 24
    assert len(said) == 1 and "3 of 6 blocks are there: computing what is missing" in said[0]
    assert torch.equal(store.tensor(), opened(network, data, tmp_path / "whole")[0].tensor())


KILLED = """
    import os, signal, sys, torch
    from episodes.features import open_features
    from episodes.fingerprint import weights_key
    from tests.episodes.test_evaluate import pictures
    network = torch.nn.Flatten()
    seen = 0
    def encode(images):
        global seen
        seen += len(images)
        if seen > int(sys.argv[2]):
            print("ready", flush=True)
            sys.stdin.readline()
        return network(images)
    open_features(encode, pictures(), weights_key(network), sys.argv[1], block_rows=10, batch_size=5, show=False)
"""


def start(folder, limit: int) -> subprocess.Popen:
    """Start a process that computes a store and, after `limit` images, says so and waits."""
    code = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(limit)]
    process = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_run_goes_on_and_leaves_no_lock(tmp_path):
    process = start(tmp_path, 25)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    store, computed, said = opened(nn.Flatten(), pictures(), tmp_path)
    assert computed == 34
    assert "2 of 6 blocks are there" in said[0]
    assert torch.equal(store.tensor(), pictures().load(range(54)).flatten(1))
    assert sorted(path.name for path in store.path.iterdir()) == ["features.bin", "store.json"]


def test_a_second_writer_waits_and_finds_all_done(tmp_path):
    process = start(tmp_path, 25)
    waiting, results = threading.Event(), []

    def second() -> None:
        counting = Counting(nn.Flatten())
        say = lambda text: waiting.set() if "another process" in text else results.append(text)  # noqa: E731
        store = open_features(counting, pictures(), weights_key(nn.Flatten()), tmp_path, show=False, say=say)
        results.append((counting.seen, store.tensor()))

    thread = threading.Thread(target=second)
    thread.start()
    assert waiting.wait(60)
    assert not results  # it waits as long as the first one works
    process.communicate("\n" * 54)
    thread.join()
    assert process.returncode == 0
    ((computed, features),) = results
    assert computed == 0
    assert torch.equal(features, pictures().load(range(54)).flatten(1))


def damage(store, name: str) -> None:
    file = store.path / "features.bin"
    if name == "truncated":
        os.truncate(file, 25 * 64)
    elif name == "flipped":
        with open(file, "r+b") as content:
            content.seek(33 * 64)
            content.write(b"\x01\x02\x03\x04")
    elif name == "gone":
        file.unlink()


@pytest.mark.parametrize("name, lost, blocks", [("truncated", 34, 4), ("flipped", 10, 1), ("gone", 54, 6)])
def test_a_damaged_store_is_mended_and_it_says_so(tmp_path, network, name, lost, blocks):
    store = opened(network, pictures(), tmp_path)[0]
    whole = store.tensor()
    damage(store, name)
    with pytest.raises(UserError, match=f"{blocks} of 6 blocks of '.*features.bin' are cut off or damaged; open it"):
        read_features(store.path)
    mended, computed, said = opened(network, pictures(), tmp_path)
    assert computed == lost
    assert f"{blocks} of 6 blocks" in said[0] and "computing what is missing" in said[0]
    assert torch.equal(mended.tensor(), whole)
    assert torch.equal(read_features(store.path).tensor(), whole)


def test_without_verifying_only_the_size_counts(tmp_path, network):
    store = opened(network, pictures(), tmp_path)[0]
    damage(store, "flipped")
    assert opened(network, pictures(), tmp_path, verify=False)[1] == 0
    damage(store, "truncated")
    assert opened(network, pictures(), tmp_path, verify=False)[1] == 34


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_a_damaged_header_starts_anew(tmp_path, network, text):
    store = opened(network, pictures(), tmp_path)[0]
    (store.path / "store.json").write_text(text)
    with pytest.raises(UserError, match="store.json' is damaged"):
        read_features(store.path)
    assert opened(network, pictures(), tmp_path)[1] == 54


def test_other_weights_have_another_store_and_are_refused_in_this_one(tmp_path, network):
    store = opened(network, pictures(), tmp_path)[0]
    other, computed, _ = opened(network, pictures(), tmp_path, key="f00")
    assert computed == 54 and other.path != store.path
    assert read_features(store.path, weights_key(network)).path == store.path
    with pytest.raises(UserError, match="is of other weights .* instead of f00"):
        read_features(store.path, "f00")
    os.rename(other.path, tmp_path / "moved")
    os.rename(store.path, other.path)  # a folder that lies about what it holds
    with pytest.raises(UserError, match="is of other weights"):
        opened(network, pictures(), tmp_path, key="f00")


def test_an_unfinished_or_absent_store_cannot_be_read(tmp_path, network):
    with pytest.raises(UserError, match="no feature store in"):
        read_features(tmp_path)
    store = opened(network, pictures(), tmp_path)[0]
    header = json.loads((store.path / "store.json").read_text())
    header["checksums"][2] = None
    (store.path / "store.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match="unfinished, 5 of 6 blocks"):
        read_features(store.path)


def test_a_full_disk_and_a_file_in_the_way_are_one_sentence(tmp_path, network, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
        with pytest.raises(UserError, match="need 0.0 GB on disk .* store them as float16"):
            opened(network, pictures(), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot keep features in .*file.*: give another folder"):
        opened(network, pictures(), tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_somebody_elses_store_can_be_read(tmp_path, network):
    store = opened(network, pictures(), tmp_path)[0]
    (tmp_path / f"{store.path.name}.lock").unlink(missing_ok=True)
    tmp_path.chmod(0o555)
    try:
        assert opened(network, pictures(), tmp_path)[1] == 0
    finally:
        tmp_path.chmod(0o755)


def test_the_default_folder_is_in_the_cache(tmp_path, network, monkeypatch):
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path))
    assert opened(network, pictures(), None)[0].path.parent == tmp_path / "features"


def test_the_key_of_weights(network):
    key = weights_key(network)
    assert weights_key(network) == key
    assert weights_key(network, "bf16-mixed") != key
    with torch.no_grad():
        for value in (network[0].weight, network[1].running_mean):
            before = value.clone()
            value.view(-1)[0] += 1
            assert weights_key(network) != key
            value.copy_(before)
    network[1].num_batches_tracked += 1  # counts, and changes nothing
    assert weights_key(network) == key
    assert weights_key(nn.Sequential(*network[:2], nn.LeakyReLU(), *network[3:])) != key


def test_the_key_of_pictures_in_memory():
    data = pictures().dataset
    key = dataset_key(data)
    assert dataset_key(ArraySet(data.images.clone(), data.labels, data.class_names)) == key
    changed = data.images.clone()
    changed[40, 2, 7, 7] ^= 1
    assert dataset_key(ArraySet(changed, data.labels, data.class_names)) != key
    assert dataset_key(ArraySet(data.images, data.labels[::-1].copy(), data.class_names)) != key
    assert dataset_key(ArraySet(data.images.flip(0), data.labels, data.class_names)) != key


def test_the_key_of_files(tmp_path):
    tree(tmp_path / "set", {"a": 3, "b": 2})
    data = open_dataset(str(tmp_path / "set"))
    key = dataset_key(data)
    assert dataset_key(open_dataset(str(tmp_path / "set"))) == key
    os.utime(data.names[1], ns=(1, 1))
    assert dataset_key(data) != key
    os.unlink(data.names[1])
    with pytest.raises(UserError, match="open the data set again"):
        dataset_key(data)


def test_the_key_of_other_sets_reads_them():
    def read(shift):
        from PIL import Image

        return lambda name: Image.new("RGB", (4, 4), (name + shift, 0, 0))

    first, same, other = (FileSet([1, 2, 3], np.zeros(3), ["a"], read(shift)) for shift in (0, 0, 1))
    assert dataset_key(first) == dataset_key(same) != dataset_key(other)


def test_the_preparation_is_part_of_the_key():
    data = pictures().dataset
    facts = picture_facts(Pictures(data, 8, MEAN, STD))
    assert facts == picture_facts(pictures())
    assert facts != picture_facts(Pictures(data, 6, MEAN, STD))
    assert facts != picture_facts(Pictures(data, 8, (0.4,) * 3, STD))
    with pytest.raises(UserError, match="augmentation 'light' can't be kept"):
        picture_facts(Pictures(data, 8, MEAN, STD, "light"))


def test_an_empty_set_is_refused(tmp_path, network):
    empty = ArraySet(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), np.zeros(0), [])
    with pytest.raises(UserError, match="the data set is empty"):
        opened(network, Pictures(empty, 8, MEAN, STD), tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_only_the_rows_that_are_asked_for_are_read(tmp_path):
    """A sparse file of 64 GB stands for a store that is larger than memory."""
    header = {"parts": {"dtype": "float32"}, "shape": [2**20, 2**14], "block_rows": 2**20, "checksums": [0]}
    (tmp_path / "store.json").write_text(json.dumps({**header, "format": "covey-features-1"}))
    with open(tmp_path / "features.bin", "wb") as file:
        file.truncate(2**36)
        file.seek(2**36 - 4)
        file.write(np.float32(2.5).tobytes())
    store = read_features(tmp_path, verify=False)
    rows = store.gather(np.array([[0, 5], [2**19, 2**20 - 1]]))
    assert rows.shape == (2, 2, 2**14) and float(rows[1, 1, -1]) == 2.5 and float(rows.sum()) == 2.5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_episodes_are_scored_from_a_store_that_memory_could_not_hold(tmp_path, dtype):
    """2**21 items in a sparse file of 64 or 128 GB; one class is all zeros, items of the other begin with ones."""
    count, length = 2**21, 2**14
    header = {"parts": {"dtype": dtype}, "shape": [count, length], "block_rows": count, "checksums": [0]}
    (tmp_path / "store.json").write_text(json.dumps({**header, "format": "covey-features-1"}))
    chosen = np.concatenate([np.arange(40), count - 1 - np.arange(40)])  # the items that episodes draw from
    bytes_per_row, labels = length * np.dtype(dtype).itemsize, np.full(count, 2)
    labels[chosen] = np.repeat([0, 1], 40)
    with open(tmp_path / "features.bin", "wb") as file:
        file.truncate(count * bytes_per_row)
        for item in np.flatnonzero(labels == 1):
            file.seek(int(item) * bytes_per_row)
            file.write(np.ones(8, dtype).tobytes())
    store = read_features(tmp_path, verify=False)
    sampler = EpisodeSampler(labels, 2, 1, 4, 50, classes=[0, 1])
    before = own_memory_mb()
    assert evaluate_features(Nearest(), store, sampler, 3, show=False).mean == 1.0
    assert own_memory_mb() - before < 200


def own_memory_mb() -> float:
    """Return the resident memory of this process that is not of a mapped file, in MB."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_mean_row(tmp_path, network, dtype):
    store, _, _ = opened(network, pictures(6, 9), tmp_path, dtype=dtype)
    torch.testing.assert_close(store.mean(rows=7), store.tensor().mean(0), rtol=1e-5, atol=1e-6)
