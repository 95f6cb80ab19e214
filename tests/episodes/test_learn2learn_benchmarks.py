"""learn2learn's benchmarks by name: its own code reads fabricated files, and no pickle unless it is trusted."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from episodes.errors import UserError
from episodes.learn2learn import Prepare, evaluate_tasks, from_meta_dataset, l2l_tasksets
from tests.episodes.nearest_mean import NearestMean, flat


@pytest.fixture(scope="module")
def l2l():
    return pytest.importorskip("learn2learn")


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(file, "png")
    return file.getvalue()


def fabricate(root: Path, name: str, classes: int = 3, items: int = 4) -> None:
    """Write a benchmark's files: every image of class c has the value 40 c."""
    labels = np.repeat(np.arange(classes), items)
    for part, short in (("train", "train"), ("validation", "val"), ("test", "test")):
        if name == "cifarfs":
            for number, label in enumerate(labels):
                folder = root / "cifarfs" / "processed" / short / f"class{label}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number}.png").write_bytes(png(40 * label))
        elif name == "mini-imagenet":
            images = np.tile((40 * labels).astype(np.uint8)[:, None, None, None], (1, 8, 8, 3))
            groups = {f"n{c}": np.flatnonzero(labels == c).tolist() for c in range(classes)}
            content = pickle.dumps({"image_data": images, "class_dict": groups})
            (root / f"mini-imagenet-cache-{part}.pkl").write_bytes(content)
        elif name == "fc100":
            images = np.tile((40 * labels).astype(np.uint8)[:, None, None, None], (1, 32, 32, 3))
            content = pickle.dumps({"data": images, "labels": labels.tolist()})
            (root / f"FC100_{short}.pickle").write_bytes(content)
        else:
            folder = root / "tiered-imagenet"
            folder.mkdir(exist_ok=True)
            (folder / f"{short}_images_png.pkl").write_bytes(pickle.dumps([png(40 * c) for c in labels]))
            (folder / f"{short}_labels.pkl").write_bytes(pickle.dumps({"label_specific": labels.tolist()}))


@pytest.mark.parametrize("name", ["cifarfs", "mini-imagenet", "tiered-imagenet", "fc100"])
def test_benchmarks_by_name(l2l, tmp_path, name):
    fabricate(tmp_path, name)
    made = l2l_tasksets(name, tmp_path, n_way=2, k_shot=1, n_query=2, trust_pickles=True)
    for tasks in (made.train, made.val, made.test):
        images, labels = tasks[0]
        assert images.shape[0] == 6
        for label in range(2):
            assert len(images[labels == label].flatten(1).unique(dim=0)) == 1  # one class, one value
    largest = 255 if name == "mini-imagenet" else 1
    prepare = Prepare(8, (0.5,) * 3, (0.25,) * 3, largest)
    assert evaluate_tasks(flat, NearestMean(), made.test, 1, 10, prepare=prepare).mean == 1
    mine = from_meta_dataset(made.test.dataset, largest)
    assert len(mine.class_names) == 3
    assert {int(mine[i][0].max() if torch.is_tensor(mine[i][0]) else 0) for i in range(12)} == {0, 40, 80}


def test_images_need_no_trust_and_leave_no_pickle(l2l, tmp_path):
    fabricate(tmp_path, "cifarfs")
    for _ in range(2):  # a bookkeeping that the first run left would be refused
        l2l_tasksets("cifarfs", tmp_path, 2, 1, 1)
        assert not list(tmp_path.glob("*.pkl"))
    l2l_tasksets("cifarfs", tmp_path, 2, 1, 1, trust_pickles=True)
    assert len(list(tmp_path.glob("*.pkl"))) == 3
    with pytest.raises(UserError, match="holds the pickle cifarfs-train-book.*trust_pickles=True.*or delete"):
        l2l_tasksets("cifarfs", tmp_path, 2, 1, 1)


class Bomb:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "ran")


def test_a_pickle_is_not_opened_unless_it_is_trusted(tmp_path):
    for part in ("train", "validation", "test"):
        (tmp_path / f"mini-imagenet-cache-{part}.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    with pytest.raises(UserError, match="mini-imagenet consists of pickle files.*trust_pickles=True"):
        l2l_tasksets("mini-imagenet", tmp_path)
    assert not (tmp_path / "trace").exists()


def test_wrong_names_and_absent_files(tmp_path):
    with pytest.raises(UserError, match="no benchmark 'mini_imagenet'; did you mean 'mini-imagenet'"):
        l2l_tasksets("mini_imagenet", tmp_path)
    with pytest.raises(UserError, match="FC100_train.pickle.*missing; put them there, or pass download=True"):
        l2l_tasksets("fc100", tmp_path)


@pytest.mark.parametrize("name", ["omniglot", "fc100", "cifarfs", "mini-imagenet"])
def test_a_download_that_fails_is_one_sentence(l2l, tmp_path, monkeypatch, name):
    """Every proxy is a port of this machine where nobody listens, so that nothing is asked outside."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=f"learn2learn cannot make {name} from .*check the network, or put") as caught:
        l2l_tasksets(name, tmp_path / "new" / "folder", download=True, trust_pickles=True)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_one_sentence(l2l, tmp_path):
    fabricate(tmp_path, "fc100")
    (tmp_path / "FC100_val.pickle").write_bytes(b"")
    with pytest.raises(UserError, match="learn2learn cannot make fc100 from .*EOFError"):
        l2l_tasksets("fc100", tmp_path, 2, 1, 1, trust_pickles=True)
