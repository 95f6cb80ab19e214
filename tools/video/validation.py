"""What a source network is worth while it is trained: its reconstructions, or accuracy on known or new classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones.video_vit import Grid
from episodes.evaluate import evaluate_features
from episodes.loaders import numbered_loader
from episodes.processes import Team, collect, sum_up, team_of, together
from episodes.sampler import EpisodeSampler
from episodes.shards import score_shared
from fewshot.methods import create_head
from tools.groups import Episodes
from video.clips import Clips
from video.pretraining import OrderedClips

BATCH = 16  # clips: on a CPU more are no faster and take more memory
Validator = Callable[[nn.Module], dict[str, float]]


def reconstruction_validator(fabric, clips: Clips, grid: Grid, mask_ratio: float, workers: int) -> Validator:
    """Return what gives `val_loss`: of every clip under a mask that stays the same."""
    batches = _ordered(fabric, clips, grid, mask_ratio)

    def validate(model: nn.Module) -> dict[str, float]:
        def losses(batch: dict[str, Tensor]) -> Tensor:
            predicted, target = model.predict(batch["images"], batch["mask"])
            return (predicted.float() - target.float()).square().mean((1, 2))

        values = np.concatenate([np.zeros(0), *(value for _, value in _run(fabric, batches, losses, workers))])
        sums = sum_up(team_of(fabric), {"loss": float(values.sum()), "clips": len(values)})
        return {"val_loss": sums["loss"] / sums["clips"]}

    return validate


class ClassValidator:
    """Gives `val_accuracy` (top-1, with its interval) and `val_top5` on other videos of the classes of the training.

    class_names: K of the training, which have all of the videos' classes among them.
    `confusion` (K, K), row = true class, is that of the last call.
    """

    def __init__(self, fabric, clips: Clips, class_names: list[str], workers: int) -> None:
        self.fabric, self.batches, self.workers = fabric, _ordered(fabric, clips), workers
        self.class_names = class_names
        number = {name: place for place, name in enumerate(class_names)}
        self.labels = np.array([number[name] for name in clips.dataset.class_names])[clips.dataset.labels]
        self.confusion = np.zeros((len(class_names), len(class_names)), dtype=np.int64)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Classify every video."""
        classes = len(self.confusion)
        top = min(5, classes)
        confusion, right = np.zeros_like(self.confusion), 0

        def best(batch: dict[str, Tensor]) -> Tensor:
            return model(batch["images"]).float().topk(top).indices

        for items, guesses in _run(self.fabric, self.batches, best, self.workers):
            np.add.at(confusion, (self.labels[items], guesses[:, 0]), 1)
            right += int((guesses == self.labels[items, None]).any(1).sum())
        parts = collect(team_of(self.fabric), (confusion, right))
        self.confusion = np.sum([part for part, _ in parts], axis=0)
        count = self.confusion.sum()
        share = np.trace(self.confusion) / count
        result = {"val_accuracy": float(share), "val_interval": float(1.96 * np.sqrt(share * (1 - share) / count))}
        top5 = {"val_top5": float(sum(part for _, part in parts) / count)} if classes > 5 else {}
        return {**result, **top5, "val_videos": int(count)}


def episode_validator(fabric, clips: Clips, episodes: Episodes, seed: int, workers: int) -> Validator:
    """Return what gives `val_accuracy` of prototypes of averages, with its interval, on fixed episodes of new classes.

    Raises UserError when there are not enough classes or videos.
    """
    team, batches = team_of(fabric), _ordered(fabric, clips)
    sampler = EpisodeSampler(
        clips.dataset.labels, episodes.n_way, episodes.k_shot, episodes.n_query, episodes.episodes, seed,
        drop_small=episodes.drop_small, class_names=clips.dataset.class_names,
        rank=fabric.global_rank, world_size=fabric.world_size,
    )  # fmt: skip
    head, classes = create_head("protonet", episodes.k_shot), len(clips.dataset.class_names)

    def validate(model: nn.Module) -> dict[str, float]:
        parts = list(_run(fabric, batches, lambda batch: model.features(batch["images"]).float(), workers))
        features = _gather(team, parts, len(clips.dataset))
        result = score_shared(team, sampler, lambda: evaluate_features(head, features, sampler, classes, show=False))
        return {"val_accuracy": result.mean, "val_interval": result.interval}

    return validate


def _ordered(fabric, clips: Clips, *masks: Any) -> OrderedClips:
    return OrderedClips(clips, BATCH, fabric.global_rank, fabric.world_size, *masks)


def _run(
    fabric, batches: OrderedClips, encode: Callable[[dict[str, Tensor]], Tensor], workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (items, what `encode` says of them) for this process's batches; bad input on any process ends all."""
    done = []
    with together(team_of(fabric)), torch.no_grad():
        for batch in numbered_loader(batches, workers):
            with fabric.autocast():
                said = encode(fabric.to_device(batch))
            done.append(
                (batch["items"].numpy(), said.float().cpu().numpy() if said.is_floating_point() else said.cpu().numpy())
            )
    yield from done


def _gather(team: Team, parts: list[tuple[np.ndarray, np.ndarray]], count: int) -> Tensor:
    """Put the rows of all processes in the order of the videos."""
    every = [pair for part in collect(team, parts) for pair in part]
    rows = np.empty((count, *every[0][1].shape[1:]), dtype=np.float32)
    for items, values in every:
        rows[items] = values
    return torch.from_numpy(rows)
