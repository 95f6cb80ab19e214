"""learn2learn's tasks as our episodes: split, padded, served in steps, scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from episodes.errors import UserError
from episodes.evaluate import Evaluation
from episodes.learn2learn.datasets import as_rgb
from episodes.learn2learn.library import own_random
from episodes.loaders import numbered_loader
from episodes.metrics import confusion_matrix


@dataclass(frozen=True)
class Prepare:
    """Turn the images of a task into what a backbone wants: (n, 1 or 3, H, W) -> (n, 3, size, size), normalised.

    mean, std: of the backbone. largest: pixel value of white in the task, 1 or 255.
    """

    size: int
    mean: Sequence[float]
    std: Sequence[float]
    largest: float = 1.0

    def __call__(self, images: Tensor) -> Tensor:
        images = as_rgb(images)
        if (high := float(images.max())) > 1.01 * self.largest:
            raise UserError(
                f"the images of a task go up to {high:g}, above largest={self.largest:g}, the value of white: pass "
                "largest=255?"
            )
        images = images / self.largest
        if images.shape[-2:] != (self.size, self.size):
            images = nn.functional.interpolate(
                images, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        mean, std = (torch.tensor(value).view(3, 1, 1).to(images) for value in (self.mean, self.std))
        return (images - mean) / std


def split_task(images: Tensor, labels: Tensor, k_shot: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split a task into support and query: the first `k_shot` of each class, in the order given, are its support.

    images: (n, ...). labels: (n,) integers; classes are numbered 0.. in their order.
    Returns images (n, ...) with the support first, class by class, support labels (S,) and query labels (Q,).
    Raises UserError when a class has fewer than k_shot images, or none has more.
    """
    labels = torch.as_tensor(labels)
    names, own, counts = labels.unique(return_inverse=True, return_counts=True)
    if len(images) != len(labels) or int(counts.min()) < k_shot or len(labels) == k_shot * len(names):
        sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
        raise UserError(
            f"a task of {len(images)} images with classes of sizes {sizes} cannot be split at k_shot={k_shot}: every "
            "class needs k_shot images and some class one more for a query"
        )
    order = own.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(labels), device=labels.device) - starts[own[order]]
    order = torch.cat([order[place < k_shot], order[place >= k_shot]])
    own, n_support = own[order], k_shot * len(names)
    return images[order.to(images.device)], own[:n_support], own[n_support:]


class TaskEpisodes(Dataset):
    """The tasks of a learn2learn TaskDataset as steps of episodes, in the form of `episodes.loaders.EpisodeImages`.

    tasks: `learn2learn.data.Taskset`; task i is (images (n, ...), labels (n,)).
    k_shot: images of each class that are support, see `split_task`.
    n_tasks: how many; None takes all, which a set without an end does not allow.
    seed: of tasks that are drawn here for the first time; what a task set has drawn and kept already stays.
    prepare: of a task's images, such as `Prepare`.
    rank, world_size: an item is this process's share of a step.
    """

    def __init__(
        self,
        tasks: Any,
        k_shot: int,
        n_tasks: int | None = None,
        tasks_per_step: int = 1,
        seed: int = 0,
        prepare: Callable[[Tensor], Tensor] = as_rgb,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for name, value in (("k_shot", k_shot), ("n_tasks", n_tasks), ("tasks_per_step", tasks_per_step)):
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        endless = getattr(tasks, "num_tasks", 0) == -1
        if n_tasks is None and endless:
            raise UserError("this task set has no end (num_tasks=-1): say n_tasks, how many of its tasks to take")
        if n_tasks is not None and not endless and n_tasks > len(tasks):
            raise UserError(f"n_tasks={n_tasks}, but the task set holds {len(tasks)}: ask for fewer")
        self.tasks, self.k_shot, self.n_tasks = tasks, k_shot, len(tasks) if n_tasks is None else n_tasks
        self.tasks_per_step, self.seed, self.prepare = tasks_per_step, seed, prepare
        self.endless, self.rank, self.world_size = endless, rank, world_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Move on: an endless task set then gives other tasks."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_tasks // self.tasks_per_step)

    def task(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return task `number`, split: images with the support first, support labels and query labels."""
        with own_random(self.seed, self.epoch if self.endless else 0, number):
            images, labels = self.tasks[number]
        return split_task(self.prepare(torch.as_tensor(images)), labels, self.k_shot)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        first = step * self.tasks_per_step
        whole = range(first, min(first + self.tasks_per_step, self.n_tasks))
        numbers = whole[self.rank :: self.world_size]
        weight = len(numbers) * self.world_size / len(whole)
        numbers = numbers or range(1)  # fewer tasks than processes: take part with no weight
        images, support, query = zip(*map(self.task, numbers), strict=True)
        n_support = max(map(len, support))
        return {
            "images": torch.cat(
                [
                    _pad([x[: len(s)] for x, s in zip(images, support, strict=True)], n_support, 0),
                    _pad([x[len(s) :] for x, s in zip(images, support, strict=True)], max(map(len, query)), 0),
                ],
                dim=1,
            ),
            "support_labels": _pad(support, n_support, -1),
            "query_labels": _pad(query, max(map(len, query)), -1),
            "numbers": torch.tensor(numbers),
            "weight": torch.tensor(weight),
        }


def _pad(rows: Sequence[Tensor], length: int, value: int) -> Tensor:
    """Stack tensors (n, ...) of different n: (E, length, ...)."""
    result = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), value)
    for place, row in zip(result, rows, strict=True):
        place[: len(row)] = row
    return result


@torch.no_grad()
def evaluate_tasks(
    encode: Callable[[Tensor], Tensor],
    head: nn.Module,
    tasks: Any,
    k_shot: int,
    n_tasks: int | None = None,
    seed: int = 0,
    prepare: Callable[[Tensor], Tensor] = as_rgb,
    device: torch.device | str = "cpu",
    tasks_per_step: int = 8,
    workers: int = 0,
) -> Evaluation:
    """Score a head on the tasks of a learn2learn TaskDataset.

    encode: images (B, 3, S, S) -> features (B, ...), frozen and in eval mode.
    tasks, k_shot, n_tasks, seed, prepare: see `TaskEpisodes`. tasks_per_step: how many the head gets at a time.
    Returns accuracies, mean and interval as every evaluation here. A task set does not say which class a label stands
    for, so the confusion is between the labels 0.. of the tasks.
    """
    if getattr(head, "adapts", False) and not hasattr(head, "encoder"):
        raise UserError(
            "this head adapts the network to an episode: pass fewshot.maml.with_encoder(head, encoder) as the head and "
            "fewshot.maml.as_they_are as encode"
        )
    head.eval()
    episodes = TaskEpisodes(tasks, k_shot, n_tasks, tasks_per_step, seed, prepare)
    accuracies, pairs, started = [], [], time.perf_counter()
    for batch in numbered_loader(episodes, workers):
        images, labels, truth = (batch[key].to(device) for key in ("images", "support_labels", "query_labels"))
        features = encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        support, query = features[:, : labels.shape[1]], features[:, labels.shape[1] :]
        counted = truth >= 0
        extra = {"query_mask": counted} if getattr(head, "transductive", False) else {}
        said = head(support, labels, query, **extra).argmax(-1)
        accuracies.append(((said == truth) & counted).sum(1).double() / counted.sum(1))
        pairs.append(torch.stack([truth[counted], said[counted]]).cpu())
    seconds = time.perf_counter() - started
    true, predicted = torch.cat(pairs, 1).numpy()
    confusion = confusion_matrix(true, predicted, int(max(true.max(), predicted.max())) + 1)
    return Evaluation(np.arange(episodes.n_tasks), torch.cat(accuracies).cpu().numpy(), confusion, seconds)
