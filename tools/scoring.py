"""Test a model on data sets and shots: shared by `evaluate` and `demo`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from episodes.evaluate import Evaluation, evaluate_features, evaluate_images, take
from episodes.features import FeatureStore, open_features
from episodes.loaders import Pictures
from episodes.metrics import mean_and_interval
from episodes.processes import ALONE, Team
from episodes.sampler import EpisodeSampler
from episodes.shards import extract_shared, score_shared
from fewshot.maml import as_they_are
from tools.config import Evaluate
from tools.table import Cell, EpisodePicture

Features = Tensor | FeatureStore
DEVICE_BYTES = 8 << 30  # features that go to a GPU as a whole


@dataclass
class Score:
    """Results of one method on one data set and shot: `repeats` evaluations of the same number of episodes."""

    test: str
    k_shot: int
    evaluations: list[Evaluation]

    @property
    def accuracies(self) -> np.ndarray:
        """Accuracies of all episodes of all repeats, fractions."""
        return np.concatenate([part.accuracies for part in self.evaluations])

    @property
    def confusion(self) -> np.ndarray:
        """Counts of all repeats, (K, K)."""
        return sum(part.confusion for part in self.evaluations)

    def cell(self) -> Cell:
        """Return the table cell."""
        mean, interval = mean_and_interval(self.accuracies)
        seconds = sum(part.seconds + part.feature_seconds for part in self.evaluations)
        return Cell(mean, interval, len(self.accuracies), seconds)

    def row(self) -> dict[str, object]:
        """Return the entry for `metrics.json`."""
        mean, interval = mean_and_interval(self.accuracies)
        total = {"accuracy": mean, "interval": interval, "episodes": len(self.accuracies)}
        return {
            "test": self.test, "k_shot": self.k_shot, **total, "repeats": [part.summary() for part in self.evaluations]
        }  # fmt: skip


def episode_samplers(config: Evaluate, pictures: Pictures, k_shot: int, team: Team = ALONE) -> list[EpisodeSampler]:
    """Build the samplers of all repeats; the seed, data set and sizes alone decide the episodes.

    team: the samplers go over this process's share.
    """
    return [
        EpisodeSampler(
            pictures.dataset.labels,
            config.n_way,
            k_shot,
            config.n_query,
            config.episodes,
            config.seed,
            repeat,
            drop_small=config.drop_small,
            class_names=pictures.dataset.class_names,
            rank=team.rank,
            world_size=team.size,
        )
        for repeat in range(config.repeats)
    ]


def score_set(
    name: str,
    config: Evaluate,
    encode: Callable[[Tensor], Tensor],
    heads: dict[int, nn.Module],
    pictures: Pictures,
    device: torch.device | str = "cpu",
    show: bool = True,
    features: Features | None = None,
    weights: str = "",
    team: Team = ALONE,
) -> tuple[list[Score], Features | None]:
    """Score one data set at every shot; features are computed once for all shots and repeats.

    heads: shot -> head; one that adapts the network comes with its encoder (`fewshot.maml.with_encoder`).
    features: of all pictures, when they are at hand already.
    weights: key of the encoder's weights (see `episodes.fingerprint.weights_key`), for features on disk.
    team: processes that call this together: each encodes and scores its share, and all get the results of all.
    Returns the scores and the features (None when `config.cache` is none).
    """
    samplers, show = {k: episode_samplers(config, pictures, k, team) for k in heads}, show and team.main
    given, adapting = features, any(getattr(head, "adapts", False) for head in heads.values())
    if adapting:  # the network changes with every episode: there are no features to keep
        encode, features, config = as_they_are, None, replace(config, cache="none")
    scores, seconds = [], 0.0
    if config.cache != "none" and features is None:
        features, seconds = timed_features(name, config, encode, pictures, device, show, weights, team)
    for k, head in heads.items():
        head.to(device)
        parts = []
        for sampler in samplers[k]:
            if features is None:
                score = partial(evaluate_images, encode, head, pictures, sampler, device, show=show)
            else:
                n_classes = len(pictures.dataset.class_names)
                score = partial(evaluate_features, head, features, sampler, n_classes, show=show, device=device)
            parts.append(score_shared(team, sampler, score))
        parts[0].feature_seconds = seconds if not scores else 0.0  # counted where they were computed
        scores.append(Score(name, k, parts))
    return scores, given if adapting else features


def timed_features(
    name: str,
    config: Evaluate,
    encode,
    pictures: Pictures,
    device: torch.device | str,
    show: bool,
    weights: str,
    team: Team = ALONE,
) -> tuple[Features, float]:
    """Return the features of a data set, in memory or on disk as configured, and the seconds they took."""
    started = time.perf_counter()
    if config.cache == "memory":
        features = extract_shared(replace(team, device=device), encode, pictures, show=show)
        return features, time.perf_counter() - started
    store = open_features(
        encode, pictures, weights, config.features, config.feature_dtype, device=device, show=show, team=team
    )
    seconds = time.perf_counter() - started
    if show:
        size = (store.path / "features.bin").stat().st_size / 2**20
        print(f"features of {name}: {size:.1f} MB in {store.path}, {seconds:.1f} s (--no-cache does without)")
    if torch.device(device).type != "cpu" and len(store) * store.row_bytes <= DEVICE_BYTES:
        return store.tensor().to(device), seconds
    return store, seconds


@torch.no_grad()
def picture_of(
    title: str,
    pictures: Pictures,
    sampler: EpisodeSampler,
    number: int,
    features: dict[str, Features],
    heads: dict[str, nn.Module],
    queries: int = 4,
    device: torch.device | str | None = None,
) -> EpisodePicture:
    """Collect the pictures of one episode and what every method says about its queries.

    features, heads: by method; queries: how many of each class to show. device: of the heads, default the features'.
    """
    episode = sampler[number]
    query = np.concatenate([np.flatnonzero(episode.query_labels == c)[:queries] for c in range(episode.n_way)])
    labels = torch.tensor(np.array(episode.support_labels))[None]
    said = {}
    for name, head in heads.items():
        rows = features[name]
        # all queries are asked, since a transductive head answers by all of them
        support, asked = (take(rows, x[None]) for x in (episode.support, episode.query))
        support, asked = support.to(device or support.device), asked.to(device or asked.device)
        answers = head(support, labels.to(support.device), asked, n_way=episode.n_way)[0].argmax(-1).cpu().numpy()
        said[name] = answers[query]
    names = [pictures.dataset.class_names[c] for c in episode.classes]
    return EpisodePicture(
        title,
        plain_pixels(pictures, episode.support),
        episode.support_labels,
        plain_pixels(pictures, episode.query[query]),
        episode.query_labels[query],
        names,
        said,
    )


def plain_pixels(pictures: Pictures, indices: np.ndarray) -> Tensor:
    """Return what the network sees of some items, without the normalisation: uint8 (N, 3, S, S)."""
    plain = Pictures(pictures.dataset, pictures.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return (plain.load(indices) * 255).round().clamp(0, 255).to(torch.uint8)
