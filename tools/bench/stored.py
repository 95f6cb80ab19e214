"""Features as a frozen network leaves them, in a store on disk, and the plain loop over the episodes of a test."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from episodes.blocks import create, write_block
from episodes.features import FeatureStore
from episodes.sampler import EpisodeSampler

FACTORS = 48  # dimensions that the classes differ in


def class_features(n_classes: int, n_items: int, length: int) -> tuple[Tensor, np.ndarray]:
    """Return rectified features (N, D) of classes with noise around their centres, and their labels (N,).

    Centres and noise lie in 48 dimensions, embedded in `length`, as the reference vectors are made.
    """
    generator = torch.Generator().manual_seed(0)
    labels = np.repeat(np.arange(n_classes), n_items)
    centres = 0.6 * torch.randn(n_classes, FACTORS, generator=generator)
    rows = centres[torch.from_numpy(labels)] + torch.randn(len(labels), FACTORS, generator=generator)
    embedding = torch.randn(FACTORS, length, generator=generator) / FACTORS**0.5
    return (rows @ embedding).relu_(), labels


def store_of(features: Tensor) -> tuple[FeatureStore, tempfile.TemporaryDirectory]:
    """Write features to a store; its folder goes when the second result does."""
    folder = tempfile.TemporaryDirectory(prefix="covey-bench-")
    path = Path(folder.name) / "store"
    header = create(path, {"dtype": "float32"}, list(features.shape), block_rows=1024)
    for block in header.missing():
        first, last = header.span(block)
        write_block(path, header, block, features[first:last].numpy())
    return FeatureStore(path, header), folder


def plain_loop(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor], features: Tensor, sampler: EpisodeSampler
) -> list[float]:
    """Score a test as it is commonly written: one episode after the other, on features in memory.

    predict: support (S, D), labels (S,), query (Q, D) -> predicted labels (Q,).
    """
    accuracies = []
    for episode in sampler:
        support, query, support_labels, query_labels = (
            torch.from_numpy(np.array(x))
            for x in (episode.support, episode.query, episode.support_labels, episode.query_labels)
        )
        predicted = predict(features[support], support_labels, features[query])
        accuracies.append((predicted == query_labels).float().mean().item())
    return accuracies
