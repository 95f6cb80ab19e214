"""The sources and targets of a benchmark of videos, and the options of its trainings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from backbones.errors import UserError, nearest
from tools.config import Benchmark
from tools.grid.methods import split_method
from tools.grid.plan import machine_of, refuse_alike, typed
from tools.groups import Validation
from tools.video_config import VideoPretrain, VideoTune
from tools.video_groups import VideoGrid, VideoModel, Videos

STAGES = ("ssl", "supervised")
PARTS = {"base": "train", "val": "val", "test": "test"}
# Options of a training that the grid sets.
SET = {"run", "checkpoint", "weights", "source", "seed", "resume", "overwrite", "stage", "tune", "machine"}
SET |= {"data.train", "data.val", "episodes.k_shot", "validation.k_shot", "model.method"}


@dataclass(frozen=True)
class Source:
    """Where a network comes from.

    train, val: videos of the pre-training. checkpoint: weights that are ready, or that pre-training starts from.
    pretrain: options of `VideoPretrain` by stage; empty with a checkpoint alone. without: targets that are not tested.
    """

    train: str | None = None
    val: str | None = None
    checkpoint: str | None = None
    pretrain: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """Where a network is tuned and tested.

    base, val, test: videos of classes that share none; without base only what is frozen is tested. episodes: folder of
    episode files. n_way, n_query: of training and test episodes. tune: options of `VideoTune`.
    """

    test: str
    base: str | None = None
    val: str | None = None
    episodes: str | None = None
    n_way: int = 5
    n_query: int = 15
    tune: Mapping[str, Any] = field(default_factory=dict)


def sources_of(config: Benchmark) -> dict[str, Source]:
    """Return the sources by name; raises UserError for what they cannot be."""
    found = {}
    for name, value in config.sources.items():
        where = f"sources.{name}"
        entry = _entry(value, "train", Source, where)
        source = Source(**entry, **({} if "pretrain" in entry else {"pretrain": config.video.pretrain}))
        if source.train is None and source.checkpoint is None:
            raise UserError(
                f"{where} has neither train, videos to pre-train on, nor checkpoint, weights that are ready"
            )
        if source.train is None:
            source = replace(source, pretrain={})
        elif not source.pretrain:
            raise UserError(
                f"{where} has videos to train on and no stage of pre-training: give ssl, supervised or both"
            )
        for stage in source.pretrain:
            if stage not in STAGES:
                raise UserError(f"{where}: there is no stage '{stage}'{nearest(stage, STAGES)}")
        for target in source.without:
            if target not in map(str, config.targets):
                raise UserError(f"{where}.without names '{target}'{nearest(target, map(str, config.targets))}")
        found[str(name)] = _placed(source, ("train", "val"), config.video, where)
    refuse_alike(found, "sources")
    return found


def targets_of(config: Benchmark) -> dict[str, Target]:
    """Return the targets by name; a text is a data set whose splits train, val and test are base, val and test."""
    found = {}
    for name, value in config.targets.items():
        where = f"targets.{name}"
        if isinstance(value, str) and "split=" not in value:
            value = {part: f"{value}{'&' if '?' in value else '?'}split={split}" for part, split in PARTS.items()}
        entry = {"n_way": config.n_way, "n_query": config.n_query} | _entry(value, "test", Target, where)
        if not entry.get("test"):
            raise UserError(f"{where} has no test: name the videos of the novel classes")
        found[str(name)] = _placed(Target(**entry), ("base", "val", "test"), config.video, where)
    refuse_alike(found, "targets")
    return found


def _entry(value: Any, first: str, group: type, where: str) -> dict[str, Any]:
    """Read TEXT or {KEY: ...} with the keys of a dataclass; `first` is what a text stands for."""
    entry = {first: value} if isinstance(value, str) else value
    names = [part.name for part in fields(group)]
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} must be the text of a data set, or a group with {', '.join(names)}, not {value}")
    for key, part in entry.items():
        if key not in names:
            raise UserError(f"{where} has the option '{key}'{nearest(str(key), names)}")
        if key in ("pretrain", "tune"):
            good = isinstance(part, Mapping)
        elif key in ("n_way", "n_query"):
            good = isinstance(part, int) and not isinstance(part, bool) and part >= (2 if key == "n_way" else 1)
        elif key == "without":
            good = isinstance(part, list | tuple) and all(isinstance(one, str) for one in part)
        else:
            good = part is None or (isinstance(part, str) and part)
        if not good:
            wanted = {"pretrain": "a group of options", "tune": "a group of options", "without": "a list of names",
                      "n_way": "a whole number from 2 on", "n_query": "a whole number from 1 on"}  # fmt: skip
            raise UserError(f"{where}.{key} must be {wanted.get(key, 'text')}, not {part}")
    return {key: tuple(part) if key == "without" else part for key, part in entry.items()}


def _placed(part: Source | Target, names: tuple[str, ...], grid: VideoGrid, where: str) -> Any:
    """Replace {splits} and {videos}/NAME in the texts of a source or target."""
    texts = {name: place(text, grid, f"{where}.{name}") for name in names if (text := getattr(part, name))}
    return replace(part, **texts)


def place(text: str, grid: VideoGrid, where: str) -> str:
    """Put folders for {splits} and {videos}/NAME in a text; raises UserError where they are not given."""

    def folder(found: re.Match) -> str:
        if (name := found[1]) in grid.roots:
            return str(grid.roots[name])
        if grid.videos is None:
            raise UserError(
                f"{where} is '{text}': say where the videos lie, with --videos FOLDER or roots: {{{name}: ...}}"
            )
        return f"{grid.videos.rstrip('/')}/{name}"

    if "{splits}" in text:
        if grid.splits is None:
            raise UserError(f"{where} is '{text}': say where the lists lie, with --splits FOLDER")
        text = text.replace("{splits}", grid.splits.rstrip("/"))
    text = re.sub(r"\{videos\}/([^/?&]+)", folder, text)
    if unknown := re.search(r"\{(\w*)\}", text):
        raise UserError(f"{where} has {unknown[0]}: there are {{splits}} and {{videos}}/NAME")
    return text


def filled(options: Any, changes: Any, where: str, prefix: str = "") -> Any:
    """Return a dataclass of options with some of them changed, group by group.

    Raises UserError for unknown names, values of another type, and options that the grid sets.
    """
    if not isinstance(changes, Mapping):
        raise UserError(f"{where} is a group of options, such as {fields(options)[0].name}, not a value")
    values = {}
    for key, value in changes.items():
        current = getattr(options, str(key), None)
        if f"{prefix}{key}" in SET:
            raise UserError(f"{where}.{key} is set by the grid: leave it out")
        if is_dataclass(current):
            values[key] = filled(current, value, f"{where}.{key}", f"{prefix}{key}.")
        else:
            values[key] = getattr(typed(type(options), {key: value}, where), key)
    return replace(options, **values)


def clips_of(config: Benchmark, clips: Videos) -> Videos:
    """Return how a training reads clips, before its own options. clips: its defaults."""
    grid = config.video
    return replace(clips, size=grid.size, frames=grid.frames, store=grid.store, backend=grid.backend,
                   workers=config.workers, skip_broken=config.skip_broken)  # fmt: skip


def pretrain_options(config: Benchmark, source: Source, name: str, stage: str, seed: int) -> VideoPretrain:
    """Return the options of one stage of a source's pre-training."""
    grid = config.video
    options = VideoPretrain(
        "", stage, seed=seed, backbone=grid.backbone, backbone_options=dict(grid.backbone_options), pictures=False,
        data=clips_of(config, VideoPretrain().data), machine=machine_of(config),
    )  # fmt: skip
    options = filled(options, source.pretrain[stage] or {}, f"sources.{name}, pretrain.{stage}")
    val = source.val if stage == "supervised" else None  # masked reconstruction has nothing to validate on classes
    return replace(options, data=replace(options.data, train=source.train, val=val))


def tune_options(
    config: Benchmark, name: str, target: Target, method: str, part: str, k_shot: int, seed: int
) -> VideoTune:
    """Return the options of tuning a method to a target at one shot.

    part: what is tuned, a key of `methods.TUNED` other than frozen.
    """
    grid = config.video
    model = VideoModel(split_method(method)[0], grid.backbone, dict(grid.backbone_options),
                       head=dict(config.head.get(method, {})))  # fmt: skip
    options = VideoTune(
        "", tune=part, seed=seed, select=config.select, episodes_per_step=config.episodes_per_step,
        data=replace(clips_of(config, VideoTune().data), sampling=grid.sampling, step=grid.step),
        model=model, machine=machine_of(config),
    )  # fmt: skip
    options.episodes.n_way = target.n_way
    for changes, where in (
        (grid.tune, "video.tune"), (target.tune, f"targets.{name}.tune"),
        (config.per_method.get(method, {}), f"per_method.{method}"),
    ):  # fmt: skip
        options = filled(options, changes, where)
    episodes = replace(options.episodes, k_shot=k_shot)
    valid: Validation = replace(options.validation, k_shot=k_shot)
    data = replace(options.data, train=target.base or "", val=target.val)
    return replace(options, data=data, episodes=episodes, validation=valid)
