"""Test a model on data sets and shots: shared by `evaluate` and `demo`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from backbones.wording import file_size
from episodes.evaluate import Evaluation, evaluate_features, evaluate_images
from episodes.evaluation import summary_of
from episodes.features import open_features
from episodes.loaders import Pictures
from episodes.metrics import mean_and_interval
from episodes.open_set import OpenSet
from episodes.processes import ALONE, Team
from episodes.shards import extract_shared, score_shared
from fewshot.maml import as_they_are
from tools.config import Evaluate
from tools.kinds import column_of, episode_samplers
from tools.picturing import Features, picture_of
from tools.table import Cell

__all__ = ["Features", "Score", "episode_samplers", "picture_of", "score_set"]

DEVICE_BYTES = 8 << 30  # features that go to a GPU as a whole


@dataclass
class Score:
    """Results of one method on one data set and shot: `repeats` evaluations of the same number of episodes.

    k_shot: that the head was built for. column: the shots of the episodes, as the head of a column.
    """

    test: str
    k_shot: int
    evaluations: list[Evaluation]
    column: str = ""

    @property
    def accuracies(self) -> np.ndarray:
        """Accuracies of all episodes of all repeats, fractions."""
        return np.concatenate([part.accuracies for part in self.evaluations])

    @property
    def confusion(self) -> np.ndarray:
        """Counts of all repeats, (K, K)."""
        return sum(part.confusion for part in self.evaluations)

    @property
    def auroc(self) -> np.ndarray | None:
        """AUROCs of all episodes of all repeats, fractions; None without unknown queries."""
        if self.evaluations[0].auroc is None:
            return None
        return np.concatenate([part.auroc for part in self.evaluations])

    @property
    def open_set(self) -> OpenSet | None:
        """Scores and mean curve of all repeats, for pictures; None without unknown queries."""
        parts = [part.open_set for part in self.evaluations]
        return OpenSet.merge(parts) if parts[0] is not None else None

    def cell(self, of: str = "accuracies") -> Cell:
        """Return the table cell of the accuracies, or of "auroc"."""
        values = getattr(self, of)
        seconds = sum(part.seconds + part.feature_seconds for part in self.evaluations)
        return Cell(*mean_and_interval(values), len(values), seconds)

    def row(self) -> dict[str, object]:
        """Return the entry for `metrics.json`."""
        total = summary_of(self.accuracies, self.auroc)
        shots = {"k_shot": self.k_shot} | ({"shots": self.column} if self.column else {})
        return {"test": self.test, **shots, **total, "repeats": [part.summary() for part in self.evaluations]}


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
    batch_size: int = 128,
) -> tuple[list[Score], Features | None]:
    """Score one data set at every shot; features are computed once for all shots and repeats.

    heads: shot -> head; one that adapts the network comes with its encoder (`fewshot.maml.with_encoder`).
    features: of all pictures, when they are at hand already.
    weights: key of the encoder's weights (see `episodes.fingerprint.weights_key`), for features on disk.
    team: processes that call this together: each encodes and scores its share, and all get the results of all.
    batch_size: items that are loaded and encoded at a time.
    Returns the scores and the features (None when `config.cache` is none).
    """
    samplers, show = {k: episode_samplers(config, pictures, k, team) for k in heads}, show and team.main
    given, adapting = features, any(getattr(head, "adapts", False) for head in heads.values())
    if adapting:  # the network changes with every episode: there are no features to keep
        encode, features, config = as_they_are, None, replace(config, cache="none")
    scores, seconds = [], 0.0
    if config.cache != "none" and features is None:
        features, seconds = timed_features(name, config, encode, pictures, device, show, weights, team, batch_size)
    for k, head in heads.items():
        head.to(device)
        parts, options = [], {"show": show, "device": device, "open_score": config.kind.open_score}
        for repeat, sampler in enumerate(samplers[k]):
            if features is None:
                look = (config.seed, repeat)  # of what is random in a view
                score = partial(evaluate_images, encode, head, pictures, sampler, seed=look, **options)
            else:
                n_classes = len(pictures.dataset.class_names)
                score = partial(evaluate_features, head, features, sampler, n_classes, **options)
            parts.append(score_shared(team, sampler, score))
        parts[0].feature_seconds = seconds if not scores else 0.0  # counted where they were computed
        scores.append(Score(name, k, parts, column_of(samplers[k][0])))
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
    batch_size: int = 128,
) -> tuple[Features, float]:
    """Return the features of a data set, in memory or on disk as configured, and the seconds they took."""
    started = time.perf_counter()
    if config.cache == "memory":
        features = extract_shared(replace(team, device=device), encode, pictures, batch_size, show=show)
        return features, time.perf_counter() - started
    store = open_features(
        encode, pictures, weights, config.features, config.feature_dtype, batch_size=batch_size, device=device,
        show=show, team=team,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if show:
        size = file_size((store.path / "features.bin").stat().st_size)
        print(f"features of {name}: {size} in {store.path}, {seconds:.1f} s (--no-cache does without)")
    if torch.device(device).type != "cpu" and len(store) * store.row_bytes <= DEVICE_BYTES:
        return store.tensor().to(device), seconds
    return store, seconds
