"""Labelled videos as a data set, and clips of them as tensors for the loaders of `episodes`."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodes.errors import UserError
from episodes.seeds import AUGMENT

from .clips_apart import ClipCrew, must_stay
from .clips_guard import Journal, watching
from .clips_views import ClipView, Draws
from .frames import FrameSampling
from .readers import Opener, VideoOpener, VideoReader

# Words in the names of data sets or classes whose meaning a mirror image changes (TAMT 10.3, TCP 4.3).
MIRROR_SENSITIVE = ("something", "ssv2", "jester", "diving48")
SIDES = frozenset({"left", "right", "leftward", "rightward", "clockwise", "anticlockwise", "counterclockwise"})


class ClipSet:
    """Labelled videos, known by name: `labels` and `class_names` open nothing.

    set[i] -> (uint8 (T, H, W, 3) tensor of 16 frames spread over the video, label); `open(i)` gives the video itself.
    names: of the videos. read: opens one by its name, picklable. origin: what the names are of, for messages.
    flip: whether mirror images keep their classes; None looks for words (left, right, data sets of gestures and dives).
    """

    def __init__(
        self,
        names: Sequence[str],
        labels: np.ndarray,
        class_names: Sequence[str],
        read: Opener | None = None,
        origin: str = "",
        flip: bool | None = None,
    ) -> None:
        self.names, self.read, self.origin = list(names), read or VideoOpener(), origin
        self.labels = np.asarray(labels, dtype=np.int64)
        self.class_names = [str(name) for name in class_names]
        _check(self.labels, self.class_names, len(self.names))
        self.flip = mirrors(self.class_names, origin) if flip is None else flip

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> VideoReader:
        """Open video `index`; raises UserError with its name when it cannot be read."""
        return self.read(self.names[index])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with self.open(index) as video:
            frames = video.frames(FrameSampling().indices(len(video)))
        return torch.from_numpy(frames), int(self.labels[index])

    def where(self, index: int) -> str:
        """Name of item `index`, for messages."""
        name = str(self.names[index])
        return f"'{name}'" if not self.origin or self.origin in name else f"'{name}' of {self.origin}"

    def take(self, indices: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> ClipSet:
        """The items at `indices`, with new labels and class names."""
        return ClipSet([self.names[i] for i in indices], labels, class_names, self.read, self.origin, self.flip)


class Clips:
    """Items of a `ClipSet` as tensors (3, T, S, S); takes the place of `episodes.loaders.Pictures`.

    sampling: which frames. view: how they become the network's input, see `ClipView`. The center view takes the middle
        frames, the others draw them (TAMT's code does so in training, validation and test).
    limit_s: seconds that reading one video may take. So that a decoder which hangs or crashes cannot take the program
        with it, the main process has its clips read by processes of its own, too; 0: no limit, and no such processes.
    readers: how many of these there are; the clips of one `load` are shared among them.
    """

    in_memory = False

    def __init__(
        self,
        dataset: ClipSet,
        view: ClipView | None = None,
        sampling: FrameSampling | None = None,
        limit_s: float = 120.0,
        readers: int = 1,
    ) -> None:
        self.dataset, self.view, self.sampling = dataset, view or ClipView(), sampling or FrameSampling()
        self.size, self.mean, self.std = self.view.size, self.view.mean, self.view.std
        self.augment = "none" if not self.view.random else f"{self.view.view} {self.view.augment}"
        self.journal, self.limit_s, self.readers = Journal(limit_s), limit_s, readers
        self._crew: ClipCrew | None = None

    def load(self, indices: np.ndarray | Sequence[int], *seed: int, places: Sequence[int] | None = None) -> Tensor:
        """Return (N, 3, T, size, size) float32 clips; what is random in them depends on `seed` and the place alone.

        places: (N,) of the clips in the whole batch, where these are a part of it; default 0, 1, ...
        """
        indices = np.asarray(indices).tolist()
        places = range(len(indices)) if places is None else places
        random = self.view.random
        tasks = [
            (index, (AUGMENT, *seed, place) if random else ()) for place, index in zip(places, indices, strict=True)
        ]
        out = torch.empty(len(indices), 3, self.sampling.frames, self.size, self.size)
        if not self.limit_s or getattr(self.dataset.read, "harmless", False) or must_stay():
            for row, (index, seeds) in enumerate(tasks):
                with self.journal.at(index):
                    out[row] = self.clip(index, seeds)
        else:
            self._apart().load(tasks, out.numpy())
        return out

    def clip(self, index: int, seeds: Sequence[int] = ()) -> Tensor:
        """Read one clip in this process: (3, T, size, size). seeds: of what is random in it; none: the center view."""
        draws = Draws.of(*seeds) if seeds else None
        with self.dataset.open(index) as video:
            chosen = self.sampling.indices(len(video), None if draws is None else draws.numpy)
            return self.view.clip(video, chosen, draws)

    def _apart(self) -> ClipCrew:
        """Return the processes that read for this one; they know the clips as they were when they began."""
        state = (id(self.dataset), self.view, self.sampling, self.limit_s, self.readers)
        if self._crew is None or not self._crew.fits(state):
            shape = (3, self.sampling.frames, self.size, self.size)
            self._crew = ClipCrew(copy.copy(self).clip, self.dataset.where, shape, self.readers, self.limit_s, state)
        return self._crew

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_crew": None}

    def facts(self) -> dict[str, Any]:
        """Return how clips are prepared, as plain values; raises UserError for views that change with every look."""
        if self.view.random:
            raise UserError(
                f"features of the {self.view.view} view can't be kept, since it changes with every look: "
                "use the center view"
            )
        view = {"size": self.size, "resize": self.view.short, "mean": list(self.mean), "std": list(self.std)}
        return {**view, "sampling": vars(self.sampling), "upright": getattr(self.dataset.read, "upright", True)}

    def guard(self) -> AbstractContextManager[None]:
        """Return what loaders of these clips run in: the death of a worker becomes an error that names the video."""
        return watching(self.journal, self.dataset.where)


def mirrors(class_names: Sequence[str], origin: str = "") -> bool:
    """Whether a mirror image of a clip keeps its class, as far as the names tell."""
    words = {word for name in class_names for word in _words(name)}
    text = os.path.basename(os.path.dirname(origin)).lower() + "/" + os.path.basename(origin).lower()
    return not words & SIDES and not any(name in text for name in MIRROR_SENSITIVE)


def _words(name: str) -> list[str]:
    return "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()


def drop_broken(dataset: ClipSet, broken: Sequence[tuple[int, str]], shown: int = 10) -> ClipSet:
    """The set without broken videos, (item, reason) each; says in one warning how many are left out, and which.

    A class that would lose all of its videos is a UserError.
    """
    if not broken:
        return dataset
    keep = np.setdiff1d(np.arange(len(dataset)), [item for item, _ in broken])
    sizes = np.bincount(dataset.labels[keep], minlength=len(dataset.class_names))
    if sizes.min() == 0:
        name = dataset.class_names[int(sizes.argmin())]
        raise UserError(
            f"every video of class '{name}' is broken, the first is {dataset.where(broken[0][0])}: replace it"
        )
    names = ", ".join(dataset.where(item) for item, _ in broken[:shown]) + (", ..." if len(broken) > shown else "")
    warnings.warn(f"{len(broken)} of {len(dataset)} videos cannot be read and are left out: {names}", stacklevel=2)
    return dataset.take(keep, dataset.labels[keep], dataset.class_names)


def _check(labels: np.ndarray, class_names: list[str], count: int) -> None:
    if labels.shape != (count,):
        raise UserError(f"{count} videos but labels of shape {labels.shape}: give one label per video")
    if len(set(class_names)) != len(class_names):
        raise UserError(f"class name '{max(class_names, key=class_names.count)}' occurs twice: class names must differ")
    sizes = np.bincount(labels, minlength=len(class_names)) if count and labels.min() >= 0 else np.zeros(0)
    if count and len(sizes) != len(class_names):
        raise UserError(f"labels must be 0..{len(class_names) - 1}, one for each class name")
    if count and sizes.min() == 0:
        raise UserError(f"class '{class_names[int(sizes.argmin())]}' has no video: add videos or remove the class")
