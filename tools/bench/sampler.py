"""Bench: choosing the items of few-shot episodes, indices only, against learn2learn.

easyfsl 1.5 is not compared: its task sampler passes an argument that torch's Sampler no longer takes.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from tools.bench.case import Case, PeerMissing

CLASSES, ITEMS = 64, 600  # the training split of miniImageNet
WAYS, SHOTS, QUERIES = 5, 1, 15
EPISODES = 10_000  # five test runs of 2,000
SHAPE = f"{WAYS}-way {SHOTS}-shot {QUERIES}-query of {CLASSES}x{ITEMS} items"
LABELS = np.repeat(np.arange(CLASSES), ITEMS)


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one episode; every call draws episodes that were never drawn before. Runs on the CPU alone.

    Raises PeerMissing where learn2learn is not installed.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # gym, which it loads, prints a page of advice
            import learn2learn.data  # noqa: F401
    except ImportError as error:
        raise PeerMissing(
            f"learn2learn, which this case compares with, can't be imported ({error}): `make setup` builds it"
        ) from error
    # The fused transform alone leaves the classes in any order and the labels as they are; with the two others its
    # episodes carry what ours do. Neither splits support from query, which its users do themselves.
    yield Case("sampler", SHAPE, covey_sampler(), learn2learn_fused(), "learn2learn fused", unit_count=EPISODES)
    shape = f"{SHAPE}, relabelled"
    yield Case("sampler", shape, covey_sampler(), learn2learn_labelled(), "learn2learn fused", unit_count=EPISODES)


def covey_sampler() -> Callable[[], None]:
    """Hand out every episode of a new epoch as an `Episode`."""
    from episodes.sampler import EpisodeSampler

    sampler = EpisodeSampler(LABELS, WAYS, SHOTS, QUERIES, EPISODES)
    epochs = itertools.count()

    def run() -> None:
        sampler.set_epoch(next(epochs))
        for _ in sampler:
            pass

    return run


def _learn2learn_dataset() -> object:
    import torch
    from learn2learn.data import MetaDataset
    from torch.utils.data import TensorDataset

    by_class = {c: list(range(c * ITEMS, (c + 1) * ITEMS)) for c in range(CLASSES)}
    by_item = dict(enumerate(LABELS.tolist()))
    return MetaDataset(TensorDataset(torch.arange(len(LABELS))), indices_to_labels=by_item, labels_to_indices=by_class)


def learn2learn_fused() -> Callable[[], None]:
    """The transform that its documentation names the efficient one, on its own."""
    from learn2learn.data.transforms import FusedNWaysKShots

    fused = FusedNWaysKShots(_learn2learn_dataset(), n=WAYS, k=SHOTS + QUERIES)

    def run() -> None:
        for _ in range(EPISODES):
            fused(None)

    return run


def learn2learn_labelled() -> Callable[[], None]:
    """The fused transform and those that number the classes of an episode and group its items."""
    from learn2learn.data.transforms import ConsecutiveLabels, FusedNWaysKShots, RemapLabels

    dataset = _learn2learn_dataset()
    fused = FusedNWaysKShots(dataset, n=WAYS, k=SHOTS + QUERIES)
    remap, consecutive = RemapLabels(dataset), ConsecutiveLabels(dataset)

    def run() -> None:
        for _ in range(EPISODES):
            consecutive(remap(fused(None)))

    return run
