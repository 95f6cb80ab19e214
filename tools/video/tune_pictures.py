"""The clips of the first training episode as film strips, as the network sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from episodes.sampler import EpisodeSampler
from video.clips import Clips

EACH = 2  # supports and queries of a class that are shown


def seen_pixels(clips: Clips, loaded: Tensor) -> Tensor:
    """Return loaded clips (N, 3, T, S, S) without their normalisation, uint8; noise of erased boxes is clipped."""
    mean, std = (torch.tensor(list(values)).view(3, 1, 1, 1) for values in (clips.mean, clips.std))
    return ((loaded * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def draw_first_episode(clips: Clips, sampler: EpisodeSampler, folder: Path) -> Figure:
    """Draw some supports and queries of each class of the first episode, a row a class, augmented as in training."""
    from episodes.strips import plot_strips

    episode, place = sampler[0], np.arange
    items = np.concatenate([episode.support, episode.query])
    labels = np.concatenate([episode.support_labels, episode.query_labels])
    is_query = place(len(items)) >= len(episode.support)
    chosen = [
        spot
        for label in np.unique(episode.support_labels)
        for side in (False, True)
        for spot in np.flatnonzero((labels == label) & (is_query == side))[:EACH]
    ]
    # the places of the whole episode, by which clips are augmented as the training will see them
    seed = (sampler.seed, sampler.epoch, episode.number)
    shown = seen_pixels(clips, clips.load(items[chosen], *seed, places=chosen))
    names = [clips.dataset.class_names[episode.classes[label]] for label in labels[chosen]]
    sides = ["query" if is_query[spot] else "support" for spot in chosen]
    folder.mkdir(parents=True, exist_ok=True)
    title = f"First training episode, {len(episode.classes)}-way"
    return plot_strips(
        shown, names, folder / "first_episode.png", title, columns=len(chosen) // len(episode.classes), said=sides
    )
