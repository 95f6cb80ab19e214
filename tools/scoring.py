"""Test a model on data sets and shots: shared by `evaluate` and `demo`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from episodes.evaluate import Evaluation, evaluate_features, evaluate_images, extract_features
from episodes.loaders import Pictures
from episodes.metrics import mean_and_interval
from episodes.sampler import EpisodeSampler
from tools.config import Evaluate
from tools.table import Cell, EpisodePicture


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


def episode_samplers(config: Evaluate, pictures: Pictures, k_shot: int) -> list[EpisodeSampler]:
    """Build the samplers of all repeats; the seed, data set and sizes alone decide the episodes."""
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
    features: Tensor | None = None,
) -> tuple[list[Score], Tensor | None]:
    """Score one data set at every shot; features are computed once for all shots and repeats.

    heads: shot -> head. features: of all pictures, when they are at hand already.
    Returns the scores and the features (None when `config.cache` is off).
    """
    samplers = {k: episode_samplers(config, pictures, k) for k in heads}
    scores, seconds = [], 0.0
    if config.cache and features is None:
        features, seconds = timed_features(encode, pictures, device, show)
    for k, head in heads.items():
        head.to(device)
        parts = []
        for sampler in samplers[k]:
            if features is None:
                parts.append(evaluate_images(encode, head, pictures, sampler, device, show=show))
            else:
                parts.append(evaluate_features(head, features, sampler, len(pictures.dataset.class_names), show=show))
        parts[0].feature_seconds = seconds if not scores else 0.0  # counted where they were computed
        scores.append(Score(name, k, parts))
    return scores, features


def timed_features(encode, pictures: Pictures, device, show: bool) -> tuple[Tensor, float]:
    """Return the features of a data set and the seconds they took."""
    import time

    started = time.perf_counter()
    features = extract_features(encode, pictures, device=device, show=show)
    return features, time.perf_counter() - started


@torch.no_grad()
def picture_of(
    title: str,
    pictures: Pictures,
    sampler: EpisodeSampler,
    number: int,
    features: dict[str, Tensor],
    heads: dict[str, nn.Module],
    queries: int = 4,
) -> EpisodePicture:
    """Collect the pictures of one episode and what every method says about its queries.

    features, heads: by method; queries: how many of each class to show.
    """
    episode = sampler[number]
    query = np.concatenate([np.flatnonzero(episode.query_labels == c)[:queries] for c in range(episode.n_way)])
    labels = torch.tensor(np.array(episode.support_labels))[None]
    said = {}
    for name, head in heads.items():
        rows = features[name]
        # all queries are asked, since a transductive head answers by all of them
        support, asked = (rows[torch.tensor(np.array(x))][None] for x in (episode.support, episode.query))
        answers = head(support, labels.to(rows.device), asked, n_way=episode.n_way)[0].argmax(-1).cpu().numpy()
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
