"""learn2learn, both ways: our data sets as its meta data sets and tasks, its tasks as our episodes.

learn2learn is an extra: it is imported where it is used, and its absence is one sentence with the working recipe. Its
transforms draw from Python's global random numbers; here every task is drawn under a seed of its own, and the global
state is afterwards what it was.
"""

from episodes.learn2learn.benchmarks import BENCHMARKS, Tasksets, l2l_tasksets
from episodes.learn2learn.datasets import MetaSet, as_rgb, from_meta_dataset, to_meta_dataset, to_task_dataset
from episodes.learn2learn.library import import_learn2learn, own_random
from episodes.learn2learn.tasks import Prepare, TaskEpisodes, evaluate_tasks, split_task

__all__ = [
    "BENCHMARKS",
    "MetaSet",
    "Prepare",
    "TaskEpisodes",
    "Tasksets",
    "as_rgb",
    "evaluate_tasks",
    "from_meta_dataset",
    "import_learn2learn",
    "l2l_tasksets",
    "own_random",
    "split_task",
    "to_meta_dataset",
    "to_task_dataset",
]
