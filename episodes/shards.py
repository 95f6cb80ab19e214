"""Evaluation by several processes: each encodes its share of the pictures and scores its share of the episodes.

Shares are whole batches of pictures, the batches that one process would make, so features are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from episodes.errors import UserError
from episodes.evaluate import Evaluation, encode_batch, evaluate, evaluate_features, evaluate_images, extract_features
from episodes.loaders import Pictures
from episodes.open_set import OpenSet
from episodes.processes import Team, collect, from_main, together
from episodes.progress import Progress
from episodes.sampler import EpisodeSampler

PER_EPISODE = ("numbers", "accuracies", "auroc", "sizes")


@torch.no_grad()
def extract_shared(
    team: Team,
    encode: Callable[[Tensor], Tensor],
    pictures: Pictures,
    batch_size: int = 128,
    label: str = "features",
    show: bool = True,
) -> Tensor:
    """`episodes.evaluate.extract_features` with the batches shared out; every process gets all features (N, ...)."""
    if team.size == 1:
        return extract_features(encode, pictures, None, batch_size, team.device, label, show)
    count, done = len(pictures.dataset), {}
    starts = range(0, count, batch_size)
    with together(team), Progress(count, label, on=show and team.main) as bar:
        if not count:
            raise UserError("there are no images to represent: the data set is empty")
        for start in starts[team.rank :: team.size]:
            part = np.arange(start, min(start + batch_size, count))
            done[start] = encode_batch(encode, pictures, part, team.device)
            bar.advance(min(len(part) * team.size, count - start))
    # a process without a batch of its own has not seen what a row looks like
    shape, dtype = from_main(team, (done[0].shape[1:], done[0].dtype) if team.main else None)
    features = torch.empty(count, *shape, dtype=dtype, device=team.device)
    for number, start in enumerate(starts):
        rows = features[start : start + batch_size]
        if start in done:
            rows.copy_(done.pop(start))
        dist.broadcast(rows, src=number % team.size)
    return features


def gather(team: Team, part: Evaluation | None) -> Evaluation:
    """Put the shares of all processes together, in the order of the episodes' numbers; every process gets the whole.

    part: of this process; None where it has no episode. seconds: of the slowest process.
    Raises UserError when an episode was scored twice.
    """
    if team.size == 1 and part is not None:
        return part
    parts = [one for one in collect(team, part) if one is not None]
    numbers = np.concatenate([one.numbers for one in parts])
    order = np.argsort(numbers, kind="stable")
    if (np.diff(numbers[order]) == 0).any():
        raise UserError("an episode was scored by two processes: give each its share (rank, world_size) of the sampler")
    arrays = {
        name: np.concatenate([getattr(one, name) for one in parts])[order]
        for name in PER_EPISODE
        if getattr(parts[0], name, None) is not None
    }
    confusion = np.sum([one.confusion for one in parts], axis=0)
    slowest = {name: max(getattr(one, name) for one in parts) for name in ("seconds", "feature_seconds")}
    seen = [one.open_set for one in parts if one.open_set is not None]
    open_set = OpenSet.merge(seen) if seen else None
    return replace(parts[0], confusion=confusion, open_set=open_set, **arrays, **slowest)


def score_shared(team: Team, sampler: EpisodeSampler, score: Callable[[], Evaluation]) -> Evaluation:
    """Score this process's share of the episodes with `score` and return the results of all of them.

    sampler: of this process's share; the processes together must have every episode once.
    """
    part = None
    with together(team):
        if len(sampler):
            part = score()
    return gather(team, part)


def evaluate_shared(
    team: Team,
    encode: Callable[[Tensor], Tensor],
    head: nn.Module,
    pictures: Pictures,
    sampler: EpisodeSampler,
    memory_bytes: int = 4 << 30,
    show: bool = True,
) -> Evaluation:
    """`episodes.evaluate.evaluate` by all processes: every episode once, the same result on each of them."""
    if team.size == 1:
        return evaluate(encode, head, pictures, sampler, team.device, memory_bytes, show)
    show = show and team.main
    with together(team), torch.no_grad():
        probe = encode(pictures.load([0]).to(team.device))
    if probe.numel() * 4 * len(pictures.dataset) > memory_bytes:
        return score_shared(
            team, sampler, lambda: evaluate_images(encode, head, pictures, sampler, team.device, show=show)
        )
    features = extract_shared(team, encode, pictures, show=show)
    classes = len(pictures.dataset.class_names)
    return score_shared(team, sampler, lambda: evaluate_features(head, features, sampler, classes, show=show))
