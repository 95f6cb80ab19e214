"""Lists of videos: every format, what is wrong with them, where the videos lie, groups."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episodes.errors import UserError
from tests.conftest import SHARED
from tests.video.films import grey_frames, write_film
from video.lists import folder_list, pack_list, read_list, write_list
from video.lists_paths import absent, groups_of, held_out, place

TAMT = {
    "image_names": ["/disk/hmdb/run/a b.avi", "/disk/hmdb/run/c.avi", "/disk/hmdb/jump/d.avi"],
    "image_labels": [1, 1, 4],
}
FORMS = {
    "tamt.json": json.dumps(TAMT),
    "tcp.txt": "run/a b.avi 30 1\nrun/c.avi 41 1\njump/d.avi 12 4\n",
    "mae.txt": "run/a b.avi 1\nrun/c.avi 1\n\njump/d.avi 4",
    "mae.csv": "run/a b.avi 1\nrun/c.avi 1\njump/d.avi 4",
    "plain.csv": "run/a b.avi,1\nrun/c.avi,1\njump/d.avi,4\n",
    "head.csv": "\ufefffile,frames,class\nrun/a b.avi,30,run\nrun/c.avi,41,run\njump/d.avi,12,jump\n",
    "tabs.csv": "path\tlabel\nrun/a b.avi\t1\nrun/c.avi\t1\njump/d.avi\t4\n",
    "molo.txt": "train1//videos/run/a b.avi\ntrain1//videos/run/c.avi\ntrain4//videos/jump/d.avi\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(tmp_path, name):
    """Classes get the name of the folder that holds their videos."""
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    found = read_list(tmp_path / name)
    assert found.classes == ["run", "run", "jump"]
    assert [Path(n).name for n in found.names] == ["a b.avi", "c.avi", "d.avi"]
    assert set(found.order) == {"run", "jump"}
    assert found.frames == ([30, 41, 12] if name in ("tcp.txt", "head.csv") else [None] * 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "a.avi,30,1\nb.avi,3,1\n", "line 1 of .* separated by spaces; it seems to be separated by commas"),
        ("a.txt", "a.avi 30 1\nb.avi 3\n", "line 2 of .* not 'path frames label'"),
        ("a.txt", "a.avi one\n", "line 1 of .* not 'path label'"),
        ("a.txt", "train1/a.avi\nb.avi\n", "line 2 of"),
        ("a.txt", "\n", "names no video"),
        ("a.csv", "file,class\na.avi\n", "line 2 of .* has 1 columns, not 2"),
        ("a.csv", "file,size,frames\na.avi,3,4\n", "needs file and class"),
        ("a.csv", "a.avi|3\n", "separated by commas"),
        ("a.json", "[", "is not JSON"),
        ("a.json", '{"image_names": ["a"]}', "lacks the list 'image_labels'"),
        ("a.json", '{"image_names": ["a"], "image_labels": [0, 1]}', "1 image_names but 2 image_labels"),
        ("a.json", '{"image_names": ["a"], "image_labels": [-1]}', "has the label -1"),
        ("a.json", '{"image_names": ["a"], "image_labels": [2], "label_names": ["x"]}', "label 2, which is missing"),
    ],
)
def test_bad_lists(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_list(tmp_path / name)


def test_class_names(tmp_path):
    (tmp_path / "novel.json").write_text(json.dumps({"image_names": ["1.webm", "2.webm"], "image_labels": [0, 3]}))
    assert read_list(tmp_path / "novel.json").order == ["class 0", "class 3"]
    (tmp_path / "names.txt").write_text("push\npull\n")
    with pytest.raises(UserError, match="label 3, which is missing in '.*names.txt'"):
        read_list(tmp_path / "novel.json", tmp_path / "names.txt")
    table = "split,label,class_name\nbase,0,wrong\nnovel,0,push\nnovel,3,\n"
    (tmp_path / "classes.csv").write_text(table)
    assert read_list(tmp_path / "novel.json").order == ["push", "class 3"]


# Classes, videos and the fewest of a class in base, val and novel, as the description of the lists has them.
SIZES = {
    "hmdb51": ((31, 4280, 102), (10, 1194, 102), (10, 1292, 103)),
    "ucf101": ((70, 9154, 100), (10, 1421, 114), (21, 2745, 109)),
    "ssv2_full": ((64, 67013, 156), (12, 1926, 56), (24, 2857, 17)),
    "ssv2_small": ((64, 6400, 100), (12, 1200, 100), (24, 2400, 100)),
    "kinetics100": ((64, 6400, 100), (12, 1200, 100), (24, 2400, 100)),
    "diving48": ((36, 13478, 50), (6, 1632, 67), (6, 2929, 65)),
    "rareact": ((48, 3897, 50), (8, 638, 50), (8, 608, 57)),
}
PREFIXES = {  # of TAMT's lists, and a name that remains
    "hmdb51": ("/home/wyll/DeepBDC/filelist/hmdb51/hmdb51_org/", r"[^/]+/[^/]+\.avi"),
    "ucf101": ("/home/wyll/DeepBDC/filelist/ucf101/UCF101/UCF-101/", r"[^/]+/[^/]+\.avi"),
    "ssv2_full": ("/hd2/20bn-something-something-v2/", r"\d+\.webm"),
    "diving48": ("/hd2/Diving48/rgb/", r"[^/]+\.mp4"),
    "rareact": ("/hd1/wyl/rareact_cut/", r"[^/]+\.mp4"),
}
SPLITS = SHARED / "data" / "splits" / "video"


@pytest.mark.parametrize("dataset", SIZES)
def test_the_lists_that_are_used(dataset, tmp_path):
    """TAMT's and MoLo's lists have the sizes of their description, hold the same, and name files below a root."""
    if not SPLITS.is_dir():
        pytest.skip(f"no video splits at {SPLITS}")
    places = {}
    for tamt, molo, wanted in zip(("base", "val", "novel"), ("train", "val", "test"), SIZES[dataset], strict=True):
        files = [SPLITS / dataset / f"{tamt}.json", SPLITS / dataset / f"{molo}_few_shot.txt"]
        lists = [read_list(file) for file in files if file.is_file()]
        assert lists
        for found in lists:
            sizes = Counter(found.classes)
            assert (len(found.order), len(found.names), min(sizes.values())) == wanted
        if len(lists) == 2:
            assert Counter(lists[0].classes) == Counter(lists[1].classes)
        if dataset in PREFIXES:
            prefix, pattern = PREFIXES[dataset]
            paths = place(lists[0], tmp_path, strip=prefix)
            assert all(re.fullmatch(re.escape(f"{tmp_path}/") + pattern, path) for path in paths)
            for path in paths[:: max(1, len(paths) // 5)][:5]:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).touch()
            suffix = ".webm" if dataset == "ssv2_full" else ""
            for found in lists:  # the prefix is found by looking, in both forms of list
                assert sorted(place(found, tmp_path, suffix=suffix)) == sorted(paths)
            places[tamt] = paths
    if places:
        assert not set(places["base"]) & (set(places["val"]) | set(places["novel"]))


def test_names_of_the_classes_of_the_lists_that_are_used():
    if not SPLITS.is_dir():
        pytest.skip(f"no video splits at {SPLITS}")
    small = read_list(SPLITS / "ssv2_small" / "test_few_shot.txt")
    assert not any(name.startswith("class ") for name in small.order)
    for name in ("kinetics100", "hmdb51", "ucf101"):
        assert not any(n.startswith("class ") for n in read_list(SPLITS / name / "test_few_shot.txt").order)
    full = read_list(SPLITS / "ssv2_full" / "base.json").order
    assert 0 < sum(name.startswith("class ") for name in full) < len(full)  # 64 of its 100 names are not known
    rare = [read_list(SPLITS / "rareact" / f"{part}.json") for part in ("base", "novel")]
    assert not set(rare[0].order) & set(rare[1].order) and min(rare[1].labels) >= 0


def test_where_videos_lie(tmp_path):
    (tmp_path / "data" / "run").mkdir(parents=True)
    (tmp_path / "data" / "run" / "c.avi").touch()
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "base.json").write_text(json.dumps(TAMT))
    found = read_list(tmp_path / "lists" / "base.json")
    root = tmp_path / "data"
    wanted = [str(root / "run" / "a b.avi"), str(root / "run" / "c.avi"), str(root / "jump" / "d.avi")]
    assert place(found, root) == wanted
    assert place(found, root, strip="/disk/hmdb/") == wanted
    assert place(found, tmp_path / "elsewhere") == [
        str(tmp_path / "elsewhere" / Path(w).relative_to(root)) for w in wanted
    ]
    assert absent(wanted) == [0, 2]
    assert place(found) == TAMT["image_names"]
    with pytest.raises(UserError, match="does not start with '/other/'"):
        place(found, root, strip="/other/")
    (tmp_path / "lists" / "molo.txt").write_text(FORMS["molo.txt"])
    assert place(read_list(tmp_path / "lists" / "molo.txt"), root) == wanted
    (tmp_path / "lists" / "numbers.txt").write_text("train0/78687\n")
    assert place(read_list(tmp_path / "lists" / "numbers.txt"), root, suffix=".webm") == [str(root / "78687.webm")]


@pytest.mark.parametrize("suffix", ["json", "csv", "txt"])
def test_written_lists_read_back(tmp_path, suffix):
    for name in ("walk/a.mp4", "walk/b.mp4", "run/c.mp4"):
        write_film(tmp_path / name, grey_frames(2))
    (tmp_path / "run" / "frames").mkdir()
    (tmp_path / "run" / "frames" / "1.png").touch()
    (tmp_path / "run" / "notes.doc").touch()
    with pytest.warns(UserWarning, match="1 entries of .* are no videos"):
        found = folder_list(tmp_path)
    assert found.names == ["run/c.mp4", "run/frames", "walk/a.mp4", "walk/b.mp4"]
    write_list(tmp_path / f"all.{suffix}", found)
    again = read_list(tmp_path / f"all.{suffix}")
    assert (again.names, again.classes, again.order) == (found.names, found.classes, found.order)
    with pytest.raises(UserError, match=r"as \.json, \.csv or \.txt"):
        write_list(tmp_path / "all.xml", found)


def test_folders_without_videos(tmp_path):
    with pytest.raises(UserError, match="holds no class folders"):
        folder_list(tmp_path)
    (tmp_path / "walk").mkdir()
    with pytest.raises(UserError, match="walk' has no video"):
        folder_list(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        folder_list(tmp_path / "none")


def test_packs(shared_videos, tmp_path):
    found = pack_list(shared_videos / "overhead_actions" / "overhead_actions.zip")
    assert (len(found.names), len(found.order)) == (151, 9)
    assert all(12 <= n <= 80 for n in found.frames)
    groups = groups_of(found, "recording")
    assert len(set(groups)) == 15
    with pytest.raises(UserError, match="has no column 'person' to group by: it has .*recording"):
        groups_of(found, "person")
    assert set(groups_of(pack_list(shared_videos / "ucf_clips" / "ucf_clips.zip"), "ucf")) <= {
        f"{i:02}" for i in range(26)
    }
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as pack:
        pack.writestr("a.mp4", b"")
    with pytest.raises(UserError, match=r"must be named class/clip, but there is a\.mp4"):
        pack_list(tmp_path / "flat.zip")


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=60), st.floats(0.05, 0.95), st.integers(0, 5))
def test_groups_stay_whole(groups, share, seed):
    if len(set(groups)) < 2:
        with pytest.raises(UserError, match="only one group"):
            held_out(groups, share, seed)
        return
    out = held_out(groups, share, seed)
    assert 0 < out.sum() < len(groups)
    assert not set(np.array(groups)[out]) & set(np.array(groups)[~out])
    np.testing.assert_array_equal(out, held_out(groups, share, seed))
