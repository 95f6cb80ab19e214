"""Episode files: the episodes of a test written down, so that another method or another paper scores the very same.

A file is text, one JSON object a line, compressed where its name ends in .gz. The first line is the header:

    {"format": "covey-episodes-1", "episodes": 600, "data": "pets?split=test", "sizes": {"rule": "fixed", ...},
     "extras": {...}, "seed": 0, "epoch": 0, "classes": ["cat", "dog", ...],
     "items": ["cat/01.png", ...], "item_classes": [0, ...], "labels": "<SHA-256>"}

`items` are the items that the episodes use, by the name that every copy of the data set gives them, and `item_classes`
their places in `classes`; both are null where items have no names and go by their place in the data set. `labels` is
the fingerprint of items and classes. Every other line is an episode, in the order of their numbers:

    {"episode": 0, "classes": [3, 7], "support": [[12], [80]], "query": [[14, 15], []]}

with places in `classes` and `items` (or in the data set), support and query grouped by class; "unknown": [...],
"unlabelled": [[...], [...]] and "distractors": [...] are there where the episode has such items.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from backbones.checkpoint import write_atomically
from episodes.dataset import ImageSet
from episodes.episode import DISTRACTOR, Episode
from episodes.errors import UserError
from episodes.extras import Extras
from episodes.item_names import fingerprint, item_table
from episodes.lines import FORMAT, opened
from episodes.numbered import NumberedEpisodes
from episodes.reader import EpisodeFile, read_episodes
from episodes.sizes import describe_sizes

__all__ = ["EpisodeFile", "read_episodes", "write_episodes"]

STEP = 512  # episodes written at a time


def write_episodes(path: str | Path, sampler: NumberedEpisodes, dataset: ImageSet, data: str = "") -> Path:
    """Write all episodes of the sampler's epoch, whatever its rank; the file appears whole or not at all.

    dataset: the data set that the sampler was built on. data: its description, for readers.
    Raises UserError when the episodes are not of this data set.
    """
    path = Path(path)
    names, labels = item_table(dataset)
    used = _used_items(sampler, dataset)
    places = np.arange(len(dataset.labels))
    header = {
        "format": FORMAT, "episodes": sampler.n_episodes, "data": data,
        "sizes": describe_sizes(sampler.sizes) if getattr(sampler, "sizes", None) else None,
        "extras": asdict(getattr(sampler, "extras", None) or Extras()),
        "seed": sampler.seed, "epoch": sampler.epoch, "classes": list(dataset.class_names),
        "items": None, "item_classes": None, "labels": labels,
    }  # fmt: skip
    if names is not None:
        items = sorted(used.tolist(), key=names.__getitem__)  # so that another order of the files gives the same text
        places[items] = np.arange(len(items))
        header["items"], header["item_classes"] = [names[i] for i in items], dataset.labels[items].tolist()
        header["labels"] = fingerprint((names[i], dataset.class_names[dataset.labels[i]]) for i in items)

    def write(temporary: str) -> None:
        with opened(temporary, "w", path.suffix == ".gz") as file:
            file.write(json.dumps(header) + "\n")
            for start in range(0, sampler.n_episodes, STEP):
                numbers = range(start, min(start + STEP, sampler.n_episodes))
                for episode in sampler.batch(numbers).episodes():
                    file.write(json.dumps(_as_line(episode, places), separators=(",", ":")) + "\n")

    write_atomically(path, write)
    return path


def _used_items(sampler: NumberedEpisodes, dataset: ImageSet) -> np.ndarray:
    """Return the items of all episodes, sorted; refuses episodes of another data set."""
    used = np.zeros(len(dataset.labels), dtype=bool)
    for start in range(0, sampler.n_episodes, STEP):
        for episode in sampler.batch(range(start, min(start + STEP, sampler.n_episodes))).episodes():
            items = np.concatenate([episode.support, episode.query, episode.unknown, episode.unlabelled])
            truth = episode.classes[np.concatenate([episode.support_labels, episode.query_labels])]
            if items.max() >= len(used) or (dataset.labels[items[: len(truth)]] != truth).any():
                raise UserError(
                    f"episode {episode.number} is not of this data set (its items are of other classes there): "
                    "give the data set whose labels the sampler was built on"
                )
            used[items] = True
    return np.flatnonzero(used)


def _as_line(episode: Episode, places: np.ndarray) -> dict[str, Any]:
    def grouped(items: np.ndarray, labels: np.ndarray) -> list[list[int]]:
        ordered = places[items[np.argsort(labels, kind="stable")]].tolist()
        ends = np.cumsum(np.bincount(labels, minlength=episode.n_way)).tolist()
        return [ordered[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    line: dict[str, Any] = {
        "episode": episode.number,
        "classes": episode.classes.tolist(),
        "support": grouped(episode.support, episode.support_labels),
        "query": grouped(episode.query, episode.query_labels),
    }
    if len(episode.unknown):
        line["unknown"] = places[episode.unknown].tolist()
    own = episode.unlabelled_labels != DISTRACTOR
    if own.any():
        line["unlabelled"] = grouped(episode.unlabelled[own], episode.unlabelled_labels[own])
    if not own.all():
        line["distractors"] = places[episode.unlabelled[~own]].tolist()
    return line
