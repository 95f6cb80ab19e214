"""Testing on other kinds of episodes: options, table, figures, pictures and episode files."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from backbones import UserError
from tests.tools import tiny
from tests.tools.test_evaluate import episodes_of
from tools.cli import parse
from tools.config import Evaluate
from tools.evaluate import evaluate
from tools.groups import Kind
from tools.limits import out_of_range

OPEN = {"unknown_ways": 2, "unknown_queries": 3}
SEMI = {"unlabelled": 3, "distractor_ways": 1, "distractors": 2}


@pytest.fixture
def run(tmp_path, packs, pretrained):
    """Run an evaluation into a folder of this test; returns its metrics."""

    def start(
        name: str, kind: dict | None = None, method: str = "protonet", head: dict | None = None, **options
    ) -> dict:
        defaults = {"k_shot": [1], "n_way": 3, "n_query": 4, "episodes": 20, "method": method}
        options = {**defaults, **options}
        test = options.pop("test", packs["test"])
        config = tiny.evaluate_options(tmp_path / name, str(pretrained["protonet"]), test, **options)
        config.kind, config.model.head = Kind(**(kind or {})), head or {}
        return evaluate(config)

    return start


def test_open_set(run, tmp_path):
    closed = run("closed")
    metrics = run("open", OPEN, pictures=True)
    (score,) = metrics["scores"]
    assert score["accuracy"] == closed["scores"][0]["accuracy"]  # known queries are those of the closed episodes
    rows = episodes_of(tmp_path / "open")
    values = [float(row["auroc"]) for row in rows]
    assert score["auroc"] == pytest.approx(np.mean(values), abs=1e-6)
    assert score["auroc_interval"] == pytest.approx(1.96 * np.std(values) / np.sqrt(20), abs=1e-6)
    assert 0.5 < score["auroc"] < 1
    text = (tmp_path / "open" / "table.md").read_text()
    assert "1-shot AUROC" in text and f"{100 * score['auroc']:.2f} ±" in text and "largest probability" in text
    assert "3 queries of each of 2 unknown classes" in text
    assert "(20 ep) |" in text and text.count(" s) |") <= 1  # the seconds are told once, where they are not 0.0
    assert [rows[0][key] for key in ("way", "supports", "queries")] == ["3", "3", "12"]
    assert metrics["kind"]["unknown_ways"] == 2
    (folder,) = (tmp_path / "open" / "pictures").iterdir()
    assert all((folder / f"{name}_1shot.png").is_file() for name in ("open_set", "episode"))
    assert "auroc" not in episodes_of(tmp_path / "closed")[0]


def test_the_score_of_open_sets_is_an_option(run):
    by = {name: run(name, {**OPEN, "open_score": name})["scores"][0] for name in ("probability", "logit")}
    assert by["probability"]["accuracy"] == by["logit"]["accuracy"]
    assert by["probability"]["auroc"] != by["logit"]["auroc"]


@pytest.mark.parametrize("method", ["protonet", "semi_soft_kmeans", "soft_kmeans"])
def test_all_extras_with_and_without_kept_features(run, tmp_path, method):
    found = [run(cache, {**OPEN, **SEMI, "unknown_ways": 1}, method, cache=cache, n_way=2)
             for cache in ("memory", "none")]  # fmt: skip
    assert episodes_of(tmp_path / "memory") == episodes_of(tmp_path / "none")
    notes = found[0]["notes"]
    assert ("unlabelled pictures" in notes) == (method != "semi_soft_kmeans")
    assert ("unknown queries" in notes) == (method == "soft_kmeans")


def test_semi_supervised(run, tmp_path):
    plain = run("plain", SEMI)
    semi = run("semi", SEMI, "semi_soft_kmeans", pictures=True)
    assert plain["scores"][0]["accuracy"] != semi["scores"][0]["accuracy"]
    assert plain["scores"][0]["accuracy"] == run("no", None)["scores"][0]["accuracy"]
    text = (tmp_path / "semi" / "table.md").read_text()
    assert "(semi-supervised)" in text and "3 unlabelled items a class and 2 distractors" in text
    assert run("none", None, "semi_soft_kmeans")["notes"]["unlabelled pictures"].startswith("there are none")


def test_imbalanced(run, tmp_path):
    metrics = run(
        "a", {"sizes": "imbalanced", "shots": [1, 3], "query_alpha": 1.0}, "tim", k_shot=[1, 2], pictures=True
    )
    (score,) = metrics["scores"]  # one column: the shots are the episodes' own
    assert (score["k_shot"], score["shots"], score["episodes"]) == (2, "1-to-3-shot", 20)
    assert "imbalanced 3-way, 12 queries shared by Dirichlet(1)" in (tmp_path / "a" / "table.md").read_text()
    queries = run("b", {"sizes": "imbalanced", "query_alpha": 1.0}, "bd_cspn", k_shot=[1, 2])
    assert [score["shots"] for score in queries["scores"]] == ["1-shot", "2-shot"]


def test_meta_dataset(run, tmp_path):
    metrics = run("a", {"sizes": "meta_dataset", "max_way": 5, "unknown_ways": 1}, k_shot=[1, 3], pictures=True)
    (score,) = metrics["scores"]
    assert (score["k_shot"], score["shots"]) == (3, "variable") and 0 < score["auroc"] < 1
    assert "way (5 to 5), shots and queries of Meta-Dataset" in (tmp_path / "a" / "table.md").read_text()
    assert (metrics["n_way"], metrics["n_query"], metrics["seed"]) == (None, None, 0)
    row = episodes_of(tmp_path / "a")[0]
    assert row["way"] == "5" and 5 <= int(row["supports"]) <= 42 and row["queries"] == "30"  # half of 12 items a class
    with pytest.raises(UserError, match="1 outside the episode, but there are 6: lower max_way to 5"):
        run("b", {"sizes": "meta_dataset", "unknown_ways": 1})


@pytest.mark.parametrize("kind", [{}, OPEN, {"sizes": "imbalanced", "shots": [1, 3]}, {"sizes": "meta_dataset"}])
def test_episodes_written_by_one_test_serve_another(run, tmp_path, kind, capsys):
    first = run("first", kind, write_episodes=True)
    (file,) = (tmp_path / "first" / "episodes").iterdir()
    assert f"episodes written to {file}" in capsys.readouterr().out
    second = run("second", episode_file=str(file), n_way=2, n_query=1, k_shot=[1, 2], episodes=3, seed=9, pictures=True)
    assert "n_way, k_shot, n_query, episodes, seed and kind have no say" in capsys.readouterr().out
    assert [row["accuracy"] for row in episodes_of(tmp_path / "first")] == [
        row["accuracy"] for row in episodes_of(tmp_path / "second")
    ]
    for key in ("accuracy", "shots", "auroc"):
        assert first["scores"][0].get(key) == second["scores"][0].get(key)
    assert second["episode_file"] == str(file)
    for key in ("n_way", "n_query", "seed"):
        assert second[key] == first[key]
    assert (second["sizes"]["rule"] == "fixed") == ("sizes" not in kind)
    logits = run("logits", {"open_score": "logit"}, episode_file=str(file))
    assert ("auroc" in logits["scores"][0]) == (kind == OPEN)


def test_one_file_for_every_shot_and_repeat(run, tmp_path, packs):
    run("a", k_shot=[1, 2], repeats=2, episodes=3, write_episodes=True, test=[packs["test"], packs["val"]])
    files = sorted((tmp_path / "a" / "episodes").iterdir())
    assert len(files) == 8 and all(name in files[0].name for name in ("1-shot", "_0.jsonl.gz"))
    with gzip.open(files[1], "rt") as file:
        header = json.loads(file.readline())
    assert (header["episodes"], header["epoch"], header["sizes"]["rule"]) == (3, 1, "fixed")
    for options, words in (({"repeats": 2}, "repeats"), ({"test": [packs["test"], packs["val"]]}, "several data sets")):
        with pytest.raises(UserError, match=f"one data set: leave out {words}"):
            run("b", episode_file=str(files[0]), **options)


def test_a_file_of_other_pictures_is_refused_before_work(run, tmp_path, packs):
    run("a", write_episodes=True, episodes=3, test=packs["train"])
    (file,) = (tmp_path / "a" / "episodes").iterdir()
    with pytest.raises(UserError, match="is of 8 classes and the data set has 6"):
        run("b", episode_file=str(file))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"sizes": "imbalanced"}, "need kind.shots, kind.query_alpha or both"),
        ({"shots": [1, 5]}, "add kind.sizes imbalanced"),
        ({"sizes": "meta_dataset", "query_alpha": 2.0}, "add kind.sizes imbalanced"),
        ({"sizes": "imbalanced", "shots": [5, 1]}, "fewest and the most"),
        ({"sizes": "imbalanced", "shots": [5]}, "fewest and the most"),
        ({"sizes": "imbalanced", "query_alpha": 0.0}, "kind.query_alpha must be above 0"),
        ({"unknown_queries": 3}, "needs kind.unknown_ways"),
        ({"unknown_ways": -1}, "kind.unknown_ways must be at least 0"),
        ({"distractors": 3}, "needs kind.distractor_ways"),
        ({"distractor_ways": 3}, "needs kind.distractors"),
        ({"distractor_ways": 3, "unlabelled": 2, "distractors": 0}, "needs kind.distractors"),
        ({"max_way": 10}, "kind.max_way is of episodes of the Meta-Dataset rule"),
        ({"open_score": "logit"}, "kind.open_score needs kind.unknown_ways"),
        ({"sizes": "meta_dataset", "max_way": 4}, "kind.max_way must be at least 5"),
    ],
)
def test_options_that_do_not_fit_together(kind, words):
    assert words in out_of_range(Evaluate(kind=Kind(**kind)))


def test_too_few_classes_or_pictures_are_told_before_work(run, tmp_path):
    with pytest.raises(UserError, match="4 outside the episode, but there are 6"):
        run("a", {"unknown_ways": 4})
    with pytest.raises(UserError, match="need 35 items in every class, but 'class00' has 12"):
        run("b", {"unlabelled": 30})
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_flags():
    flags = "--sizes imbalanced --shots 1 5 --query-alpha 2 --unknown-ways 3 --write-episodes --episode-file e.jsonl"
    config = parse(Evaluate, "evaluate", flags.split())
    assert config.kind == Kind("imbalanced", [1, 5], 2.0, unknown_ways=3)
    assert config.write_episodes and config.episode_file == "e.jsonl"
