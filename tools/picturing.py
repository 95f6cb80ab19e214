"""Pictures of a test: example episodes, confusion, accuracies per class, open-set curves and embedding maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from episodes.evaluate import ask, sides_of, take
from episodes.features import FeatureStore
from episodes.loaders import Pictures
from episodes.numbered import NumberedEpisodes
from tools.table import EpisodePicture

if TYPE_CHECKING:
    from video.clips import Clips

Features = Tensor | FeatureStore
OTHERS = 2  # unknown queries and unlabelled pictures of each class that are shown


@torch.no_grad()
def picture_of(
    title: str,
    pictures: Pictures,
    sampler: NumberedEpisodes,
    number: int,
    features: dict[str, Features],
    heads: dict[str, nn.Module],
    queries: int = 4,
    device: torch.device | str | None = None,
) -> EpisodePicture:
    """Collect the pictures of one episode and what every method says about its queries.

    features, heads: by method; queries: how many of each class to show. device: of the heads, default the features'.
    """
    episode, batch = sampler[number], sampler.batch([number])
    query = _first_of_each(episode.query_labels, queries)
    unknown = _first_of_each(pictures.dataset.labels[episode.unknown], OTHERS)
    unlabelled = _first_of_each(pictures.dataset.labels[episode.unlabelled], OTHERS)
    said, said_unknown = {}, {}
    for name, head in heads.items():
        # all queries are asked, since a transductive head answers by all of them
        sides = [take(features[name], side) for side in sides_of(head, batch)]
        answers = ask(head, batch, [side.to(device or side.device) for side in sides])[0].argmax(-1).cpu().numpy()
        said[name], said_unknown[name] = answers[query], answers[len(episode.query) + unknown]
    names = [pictures.dataset.class_names[c] for c in episode.classes]
    return EpisodePicture(
        title,
        plain_pixels(pictures, episode.support),
        episode.support_labels,
        plain_pixels(pictures, episode.query[query]),
        episode.query_labels[query],
        names,
        said,
        plain_pixels(pictures, episode.unknown[unknown]) if len(unknown) else None,
        said_unknown,
        plain_pixels(pictures, episode.unlabelled[unlabelled]) if len(unlabelled) else None,
        episode.unlabelled_labels[unlabelled],
    )


def _first_of_each(labels: np.ndarray, most: int) -> np.ndarray:
    """Return the places of the first `most` of every label, label by label."""
    parts = [np.flatnonzero(labels == label)[:most] for label in np.unique(labels)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def plain_pixels(pictures: Pictures | Clips, indices: np.ndarray) -> Tensor:
    """Return what the network sees of some items, without the normalisation: uint8 (N, 3, S, S), or (N, 3, T, S, S).

    Of clips whose view is random, which has no two looks alike, the center view is shown.
    """
    if hasattr(pictures, "view"):
        view = replace(pictures.view, view="center", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        plain = type(pictures)(pictures.dataset, view, pictures.sampling)
        if not len(indices):
            return torch.empty(0, 3, plain.sampling.frames, plain.size, plain.size, dtype=torch.uint8)
        return torch.cat([as_bytes(plain.load([index])) for index in indices])  # one at a time: clips are large
    plain = Pictures(pictures.dataset, pictures.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return as_bytes(plain.load(indices))


def as_bytes(pixels: Tensor) -> Tensor:
    """Return pixels of 0 to 1 as uint8."""
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


def video_strips(path: Path, clips: Clips, count: int = 8, seed: int = 0, title: str = "") -> None:
    """Draw some clips as the network gets them, augmented where they are, as film strips with their classes.

    count: clips, of as many classes as possible. seed: of the choice and the augmentation.
    """
    from episodes.strips import plot_strips

    labels = np.asarray(clips.dataset.labels)
    order = np.random.default_rng(np.random.SeedSequence([seed, 1])).permutation(len(labels))
    firsts = np.unique(labels[order], return_index=True)[1]
    chosen = order[np.concatenate([np.sort(firsts), np.setdiff1d(np.arange(len(order)), firsts)])[:count]]
    mean, std = (torch.tensor(list(values)).view(-1, 1, 1, 1) for values in (clips.mean, clips.std))
    shown = torch.cat([as_bytes(clips.load([index], seed, places=[place]) * std + mean)
                       for place, index in enumerate(chosen.tolist())])  # fmt: skip
    plot_strips(shown, [clips.dataset.class_names[labels[index]] for index in chosen], path, title)


def draw_tests(folder: Path, config, pictures: Pictures | Clips, scores, features, heads, device) -> None:
    """Draw all pictures of one data set into a folder, clips as film strips; features are None where they weren't kept.

    config: options of the test. scores: `tools.scoring.Score`s of the data set. heads: by shot.
    """
    from episodes.episode_plot import plot_episode
    from episodes.open_set_plot import plot_open_set
    from episodes.plots import plot_confusion, plot_embedding, plot_per_class
    from tools.kinds import episode_samplers

    names = pictures.dataset.class_names
    folder.mkdir(parents=True, exist_ok=True)
    for score in scores:
        shots = score.column.replace("-", "") if score.column else f"{score.k_shot}shot"
        np.save(folder / f"confusion_{shots}.npy", score.confusion)
        plot_confusion(score.confusion, names, folder / f"confusion_{shots}.png")
        plot_per_class(score.evaluations[0].per_class, names, folder / f"per_class_{shots}.png")
        if score.open_set is not None:
            plot_open_set(score.open_set, folder / f"open_set_{shots}.png", config.kind.open_score)
        if features is not None:
            sampler = episode_samplers(config, pictures, score.k_shot)[0]
            shown = picture_of("", pictures, sampler, 0, {"": features}, {"": heads[score.k_shot]}, device=device)
            plot_episode(
                shown.support_images, shown.support_labels, shown.query_images, shown.query_labels,
                shown.predictions[""], shown.class_names, folder / f"episode_{shots}.png",
                unknown_images=shown.unknown_images, unknown_predictions=shown.unknown_predictions[""],
                unlabelled_images=shown.unlabelled_images, unlabelled_labels=shown.unlabelled_labels,
            )  # fmt: skip
    if features is not None and len(features.shape) == 2:
        chosen = np.flatnonzero(pictures.dataset.labels < 10)
        shown = take(features, chosen).cpu().numpy()
        plot_embedding(shown, pictures.dataset.labels[chosen], names[:10], folder / "map.png")
