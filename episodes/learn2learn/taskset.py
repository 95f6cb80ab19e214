"""The task set that hands our episodes to learn2learn; a file of its own, since its base class must be imported first.

`to_task_dataset` imports it where learn2learn is there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from learn2learn.data import DataDescription, TaskDataset
from torch import Tensor

from episodes.loaders import Pictures
from episodes.sampler import EpisodeSampler


class EpisodeTasks(TaskDataset):
    """A learn2learn TaskDataset whose task i is episode i of a sampler: (images (n, 3, S, S), labels (n,)).

    Images of a task are loaded together, as `episodes.loaders.EpisodeImages` loads them: the same numbers.
    """

    def __init__(self, meta: Any, pictures: Pictures, sampler: EpisodeSampler) -> None:
        # past TaskDataset, which only warns that learn2learn now calls it Taskset
        super(TaskDataset, self).__init__(meta, [], num_tasks=sampler.n_episodes)
        self.pictures, self.sampler = pictures, sampler

    def __reduce__(self):
        return type(self), (self.dataset, self.pictures, self.sampler)

    def description(self, number: int) -> list[DataDescription]:
        """Return which items of the meta data set task `number` is made of, the support first."""
        return [DataDescription(index) for index in self._items(number).tolist()]

    def _items(self, number: int) -> np.ndarray:
        episode = self.sampler[number]
        return np.concatenate([episode.support, episode.query])

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        episode = self.sampler[number]  # an IndexError beyond the last, which ends a plain loop
        images = self.pictures.load(self._items(number), self.sampler.seed, self.sampler.epoch, number)
        return images, torch.from_numpy(np.concatenate([episode.support_labels, episode.query_labels]))
