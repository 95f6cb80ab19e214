"""learn2learn's benchmarks by name: train, validation and test tasks.

Most of them lie in pickle files, and opening a pickle runs whatever code is in it; learn2learn opens what it finds in
the folder, its own bookkeeping included. Nothing here lets it do so unless the caller says that the files are trusted.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from episodes.errors import UserError, nearest
from episodes.learn2learn.library import import_learn2learn, own_random


@dataclass(frozen=True)
class Layout:
    """Where a benchmark lies in its folder.

    files: what must be there. pickles: which of its files are opened as pickles.
    bookkeeping: pickles that learn2learn writes there itself, so that it opens all images in the first run only.
    """

    files: tuple[str, ...]
    pickles: bool
    bookkeeping: tuple[str, ...]


def _each(pattern: str, modes: tuple[str, ...] = ("train", "validation", "test")) -> tuple[str, ...]:
    return tuple(pattern.format(mode) for mode in modes)


SHORT = ("train", "val", "test")
BENCHMARKS = {
    "omniglot": Layout(
        _each("omniglot-py/images_{}", ("background", "evaluation")), False, ("omniglot-bookkeeping.pkl",)
    ),
    "cifarfs": Layout(_each("cifarfs/processed/{}", SHORT), False, _each("cifarfs-{}-bookkeeping.pkl", SHORT)),
    "mini-imagenet": Layout(_each("mini-imagenet-cache-{}.pkl"), True, _each("mini-imagenet-bookkeeping-{}.pkl")),
    "tiered-imagenet": Layout(
        (*_each("tiered-imagenet/{}_images_png.pkl", SHORT), *_each("tiered-imagenet/{}_labels.pkl", SHORT)),
        True,
        _each("tiered-imagenet-bookkeeping-{}.pkl"),
    ),
    "fc100": Layout(_each("FC100_{}.pickle", SHORT), True, _each("fc100-bookkeeping-{}.pkl")),
}


@dataclass(frozen=True)
class Tasksets:
    """The task sets of a benchmark; give them to `TaskEpisodes` or `evaluate_tasks`, or their `.dataset` (a meta data
    set) to `from_meta_dataset`, which makes a data set of this toolkit of it."""

    train: Any
    val: Any
    test: Any


def l2l_tasksets(
    name: str,
    root: str | Path,
    n_way: int = 5,
    k_shot: int = 1,
    n_query: int = 15,
    num_tasks: int = -1,
    seed: int = 0,
    download: bool = False,
    trust_pickles: bool = False,
    **options: Any,
) -> Tasksets:
    """Return the tasks of one of learn2learn's benchmarks: omniglot, cifarfs, mini-imagenet, tiered-imagenet or fc100.

    root: folder that the files lie in, or go to.
    n_way, k_shot, n_query: of all tasks; each holds k_shot + n_query images of a class.
    num_tasks: of each part; -1 is without an end.
    seed: of the class split of omniglot, which learn2learn draws anew every time.
    download: let learn2learn fetch what is absent.
    trust_pickles: let it open the pickle files in `root`, which may run any code; needed by mini-imagenet,
        tiered-imagenet and fc100. For omniglot and cifarfs it keeps the bookkeeping of a first run, which opens all
        images; without it every run is a first one.
    options: of the benchmark in learn2learn, for instance data_augmentation="normalize" of mini-imagenet.
    Raises UserError for an unknown name, absent files, a download that fails, and pickles that are not trusted.
    """
    if name not in BENCHMARKS:
        raise UserError(f"learn2learn has no benchmark '{name}'{nearest(name, BENCHMARKS)}")
    layout, folder = BENCHMARKS[name], Path(root).expanduser()
    absent = [file for file in layout.files if not (folder / file).exists()]
    if absent and not download:
        raise UserError(
            f"{name} is not in {folder}: {', '.join(absent)} missing; put them there, or pass download=True"
        )
    found = [file for file in layout.bookkeeping if (folder / file).exists()]
    if (layout.pickles or found) and not trust_pickles:
        what = f"{name} consists of pickle files" if layout.pickles else f"{folder} holds the pickle {found[0]}"
        mend = "" if layout.pickles else f", or delete {', '.join(found)}"
        raise UserError(
            f"{what}, and learn2learn would run any code in them: pass trust_pickles=True if you trust where they come "
            f"from{mend}"
        )
    l2l = import_learn2learn()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with own_random(seed), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = l2l.vision.benchmarks.get_tasksets(
                name, n_way, k_shot + n_query, n_way, k_shot + n_query, num_tasks, str(folder), **options
            )
    except Exception as error:  # learn2learn lets through whatever a download or a damaged file ends in
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"learn2learn cannot make {name} from {folder} ({type(error).__name__}: {reason}): check the network, or "
            f"put {', '.join(layout.files)} there whole"
        ) from error
    finally:
        if not trust_pickles:
            for file in layout.bookkeeping:
                (folder / file).unlink(missing_ok=True)
    if name == "omniglot":
        warnings.warn(
            "learn2learn 0.2 draws the train, validation and test tasks of omniglot from all of its 1,623 classes: for "
            "tests on new classes use from_meta_dataset(tasks.test.dataset) with an EpisodeSampler",
            stacklevel=2,
        )
    return Tasksets(made.train, made.validation, made.test)
