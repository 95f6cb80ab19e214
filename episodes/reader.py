"""Read an episode file back, checking everything that it says against the data set at hand."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from episodes.batch import EpisodeBatch, batch_of
from episodes.claims import Sizes, claimed, contradiction
from episodes.dataset import ImageSet
from episodes.episode import DISTRACTOR, Episode, ExtendedEpisode
from episodes.errors import UserError
from episodes.extras import Extras
from episodes.item_names import fingerprint, item_table
from episodes.lines import FORMAT, read_lines
from episodes.numbered import NumberedEpisodes

BLOCK = 256
KEYS = ("episodes", "classes", "items", "item_classes", "labels")
LISTS = ("classes", "support", "query")
EXTRA_LISTS = ("unknown", "unlabelled", "distractors")


class EpisodeFile(NumberedEpisodes):
    """The episodes of a file, with the interface of `EpisodeSampler`. There is one epoch: `set_epoch` changes nothing
    but what else is drawn with an episode, such as the augmentation of its pictures.

    path, dataset: of the file and the data set that its items are in.
    header: what the file says about itself. sizes, extras: the rules that it names; sizes are None where it names none.
    Raises UserError for a file that cannot be read, is damaged or cut off, is of another data set, or holds an episode
    that cannot be scored.
    """

    def __init__(self, path: str | Path, dataset: ImageSet, rank: int = 0, world_size: int = 1) -> None:
        self.path, lines = Path(path), read_lines(path)
        self.header = _header(self.path, next(lines, ""))
        self.sizes, self.extras = _rule(self.path, self.header)
        check = _Checker(self.path, self.header, dataset, self.sizes, self.extras)
        self._blocks: list[EpisodeBatch] = []
        episodes: list[Episode] = []
        count = 0
        for count, line in enumerate(lines, 1):
            episodes.append(check.episode(count - 1, line))
            if len(episodes) == BLOCK:
                self._blocks.append(_frozen(batch_of(episodes)))
                episodes = []
        if episodes:
            self._blocks.append(_frozen(batch_of(episodes)))
        if count != self.header["episodes"]:
            what = "is cut off" if count < self.header["episodes"] else "holds too many episodes"
            raise UserError(
                f"the episode file '{path}' {what}: it has {count} of {self.header['episodes']} episodes, "
                "copy or write it again"
            )
        uneven = any(block.padded for block in self._blocks)
        seed = self.header.get("seed")
        super().__init__(count, BLOCK, uneven, seed if isinstance(seed, int) else 0, rank, world_size)
        self.epoch = 0

    def _block(self, block: int) -> EpisodeBatch:
        return self._blocks[block]


def read_episodes(path: str | Path, dataset: ImageSet, rank: int = 0, world_size: int = 1) -> EpisodeFile:
    """Read the episodes that `episodes.files.write_episodes` wrote, for this or another copy of their data set."""
    return EpisodeFile(path, dataset, rank, world_size)


def read_rule(path: str | Path) -> tuple[Sizes | None, Extras]:
    """Return the rule of sizes (None where it names none) and the extras that a file's header names."""
    return _rule(Path(path), _header(Path(path), next(read_lines(path), "")))


def _frozen(batch: EpisodeBatch) -> EpisodeBatch:
    for array in vars(batch).values():
        array.setflags(write=False)
    return batch


def _header(path: Path, line: str) -> dict[str, Any]:
    """Read the first line and check that it is a header of a known version."""
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):  # brackets without end are damage, too
        header = None
    if not isinstance(header, dict) or not str(header.get("format", "")).startswith("covey-episodes-"):
        raise UserError(f"'{path}' is no episode file: its first line must be a header with the format '{FORMAT}'")
    if header["format"] != FORMAT:
        raise UserError(f"the episode file '{path}' has the format '{header['format']}', this version reads '{FORMAT}'")
    absent = [key for key in KEYS if key not in header]
    if absent:
        raise UserError(f"the header of the episode file '{path}' lacks '{absent[0]}'")
    items, classes = header["items"], header["item_classes"]
    sound = type(header["episodes"]) is int and header["episodes"] > 0 and _texts(header["classes"])
    if items is not None:
        sound = sound and _texts(items) and isinstance(classes, list) and len(classes) == len(items)
        sound = sound and all(type(c) is int and 0 <= c < len(header["classes"]) for c in classes)
    if not sound:
        raise UserError(f"the header of the episode file '{path}' is damaged: copy or write it again")
    return header


def _texts(value: Any) -> bool:
    """Whether the value is a list of different texts."""
    return isinstance(value, list) and all(isinstance(v, str) for v in value) and len(set(value)) == len(value)


def _rule(path: Path, header: dict[str, Any]) -> tuple[Sizes | None, Extras]:
    return claimed(header, f"the episode file '{path}', line 1")


class _Checker:
    """Turns lines into episodes of a data set. dataset_class, place: (K,), (N,) its number of a class, of an item."""

    def __init__(
        self, path: Path, header: dict[str, Any], dataset: ImageSet, sizes: Sizes | None, extras: Extras
    ) -> None:
        self.path, self.names, self.class_names = path, header["items"], header["classes"]
        self.sizes, self.extras = sizes, extras
        if set(self.class_names) != set(dataset.class_names):
            other = sorted(set(self.class_names) ^ set(dataset.class_names))[0]
            where = "the file" if other in self.class_names else "the data set"
            raise UserError(
                f"the episode file '{path}' is of {len(self.class_names)} classes and the data set has "
                f"{len(dataset.class_names)} ('{other}' is in {where} alone): give the data set that it was written for"
            )
        number = {name: i for i, name in enumerate(dataset.class_names)}
        self.dataset_class = np.array([number[name] for name in self.class_names])
        names, labels = item_table(dataset)
        if self.names is None:
            if not labels or labels != header["labels"]:
                raise UserError(
                    f"the episode file '{path}' names items by their place in a data set with other items or labels "
                    "than this one: give the data set that it was written for"
                )
            self.place = np.arange(len(dataset.labels))
        else:
            self.place = self._found(header, names, dataset)
        self.item_class = dataset.labels[self.place]

    def _found(self, header: dict[str, Any], names: list[str] | None, dataset: ImageSet) -> np.ndarray:
        """Look every item of the file up in the data set."""
        if names is None:
            raise UserError(
                f"the episode file '{self.path}' names items by file and this data set has no file names: "
                "give the data set that it was written for"
            )
        pairs = [(n, self.class_names[c]) for n, c in zip(self.names, header["item_classes"], strict=True)]
        if fingerprint(pairs) != header["labels"]:
            raise UserError(f"the items of the episode file '{self.path}' were changed: copy or write it again")
        number = {name: i for i, name in enumerate(names)}
        missing = [name for name in self.names if name not in number]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(self.names)} items of the episode file '{self.path}' are not in the data set, "
                f"the first is '{missing[0]}'"
            )
        place = np.array([number[name] for name in self.names])
        wanted = self.dataset_class[np.array(header["item_classes"])]
        wrong = np.flatnonzero(dataset.labels[place] != wanted)
        if len(wrong):
            item = wrong[0]
            raise UserError(
                f"item '{self.names[item]}' is of class '{dataset.class_names[dataset.labels[place[item]]]}' in the "
                f"data set and of '{pairs[item][1]}' in the episode file '{self.path}': their labels differ"
            )
        return place

    def episode(self, number: int, text: str) -> Episode:
        """Read and check one episode."""
        line = self._line(number, text)
        classes = self._numbers(number, line["classes"], len(self.class_names), "classes")
        if len(classes) < 2:
            raise self._wrong(number, f"has {len(classes)} class: it needs two at least")
        if len(set(classes.tolist())) < len(classes):
            raise self._wrong(number, "names a class twice")
        labelled = [self._grouped(number, line, key, len(classes)) for key in ("support", "query", "unlabelled")]
        (support, support_labels), (query, query_labels), (unlabelled, truth) = labelled
        unknown, strangers = (
            self._numbers(number, line.get(key, []), len(self.place), key) for key in ("unknown", "distractors")
        )
        for label, class_id in enumerate(classes.tolist()):
            if label not in support_labels:
                raise self._wrong(number, f"has no support of class '{self.class_names[class_id]}'")
        if not len(query):
            raise self._wrong(number, "has no query")
        own = self.dataset_class[classes]
        self._check_items(number, own, labelled, np.concatenate([unknown, strangers]))
        counts = [np.bincount(labels, minlength=len(classes)) for _, labels in labelled]
        others = [self.item_class[items] for items in (unknown, strangers)]
        if otherwise := contradiction(self.sizes, self.extras, *counts, *others):
            raise self._wrong(number, otherwise)
        sides = (own, self.place[support], support_labels, self.place[query], query_labels)
        if not any(key in line for key in EXTRA_LISTS):
            return Episode(number, *sides)
        further = self.place[np.concatenate([unlabelled, strangers])]
        truth = np.concatenate([truth, np.full(len(strangers), DISTRACTOR)])
        return ExtendedEpisode(number, *sides, self.place[unknown], further, truth)

    def _line(self, number: int, text: str) -> dict[str, Any]:
        """Parse a line and check its entries' names and number."""
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict):
            raise self._wrong(number, "is not a whole JSON object: the file is damaged or cut off")
        for key in ("episode", *LISTS):
            if key not in line:
                raise self._wrong(number, f"lacks '{key}'")
        for key in line:
            if key not in ("episode", *LISTS, *EXTRA_LISTS):
                raise self._wrong(number, f"has the unknown entry '{key}'")
        if type(line["episode"]) is not int or line["episode"] != number:  # true is no number, though it equals 1
            raise self._wrong(number, f"has the number {line['episode']}: episodes must stand in order from 0")
        return line

    def _check_items(self, number: int, own: np.ndarray, labelled: list, others: np.ndarray) -> None:
        """Refuse an item that comes twice or is of another class than the line says."""
        items = np.concatenate([*(items for items, _ in labelled), others])
        values, counts = np.unique(items, return_counts=True)
        if len(values) < len(items):
            raise self._wrong(number, f"has item {self._name(values[counts.argmax()])} twice")
        for side, labels in labelled:
            bad = np.flatnonzero(self.item_class[side] != own[labels])
            if len(bad):
                raise self._wrong(number, f"has item {self._name(side[bad[0]])} in a class that it is not of")
        bad = np.flatnonzero(np.isin(self.item_class[others], own))
        if len(bad):
            raise self._wrong(
                number, f"has item {self._name(others[bad[0]])} of its own classes among unknown queries or distractors"
            )

    def _grouped(self, number: int, line: dict[str, Any], key: str, n_way: int) -> tuple[np.ndarray, np.ndarray]:
        groups = line.get(key, [[]] * n_way)
        if not isinstance(groups, list) or len(groups) != n_way or not all(isinstance(g, list) for g in groups):
            raise self._wrong(number, f"needs one list of {key} items for each of its {n_way} classes")
        items = self._numbers(number, list(chain.from_iterable(groups)), len(self.place), key)
        return items, np.repeat(np.arange(n_way), [len(group) for group in groups])

    def _numbers(self, number: int, values: Any, stop: int, key: str) -> np.ndarray:
        if not isinstance(values, list) or not all(type(value) is int and 0 <= value < stop for value in values):
            raise self._wrong(number, f"must have whole numbers from 0 to {stop - 1} under '{key}'")
        return np.array(values, dtype=np.int64)

    def _name(self, item: int) -> str:
        return f"'{self.names[item]}'" if self.names is not None else str(int(item))

    def _wrong(self, number: int, what: str) -> UserError:
        return UserError(f"the episode file '{self.path}', line {number + 2}: episode {number} {what}")
