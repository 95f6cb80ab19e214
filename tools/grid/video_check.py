"""Everything that can be wrong with a benchmark of videos, found before its first training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from backbones.errors import UserError
from tools import session
from tools.config import Benchmark
from tools.grid.check import labels_key, within
from tools.grid.methods import known, split_method, tuned_part
from tools.grid.plan import Cell, Job, kinds_of, machine_of, plan_jobs, shots_of
from tools.grid.stage import file_hash
from tools.grid.video_grid import Source, Target, pretrain_options, sources_of, targets_of, tune_options
from tools.grid.video_plan import video_test_options
from tools.groups import like_training
from tools.kinds import episode_samplers
from tools.limits import check_numbers
from tools.video.methods import create_video_head
from tools.video.models import design_video, read_video_model
from tools.video.session import open_clip_set, warn_seen
from tools.video_groups import VideoGrid, VideoModel
from video.clips_views import ClipView

# Options of a benchmark of pictures alone -> where videos have theirs.
PICTURES = {
    "backbone": "video.backbone",
    "backbone_options": "video.backbone_options",
    "size": "video.size",
    "augment": "video.tune.data.augment",
    "in_memory": "video.store",
    "download": "",
    "reduce_dim": "per_method.METHOD.model.options",
    "dropout": "",
    "generations": "",
    "pretrain": "video.pretrain",
    "meta": "video.tune.optim",
    "meta_episodes": "video.tune.episodes",
    "validation": "video.tune.validation",
}


def refuse_other_media(config: Benchmark) -> None:
    """Refuse options of pictures in a grid of videos, and the other way round: they would do nothing."""
    plain = Benchmark()
    if config.media == "pictures":
        given = next((one.name for one in fields(VideoGrid)
                      if getattr(config.video, one.name) != getattr(plain.video, one.name)), None)  # fmt: skip
        if given:
            raise UserError(f"video.{given} is of a benchmark of videos: add --media videos, or leave it out")
        return
    for name, instead in PICTURES.items():
        if getattr(config, name) != getattr(plain, name):
            mend = f"videos have {instead}" if instead else "leave it out"
            raise UserError(f"{name} is an option of a benchmark of pictures: {mend}")


def check_videos(config: Benchmark) -> list[Job]:
    """Open every set of videos, build every model, head and sampler, and return the jobs; raises UserError."""
    _check_methods(config)
    sources, targets = sources_of(config), targets_of(config)
    texts = [text for part in (*sources.values(), *targets.values())
             for key in ("train", "base", "val", "test") if (text := getattr(part, key, None))]  # fmt: skip
    sets = {text: open_clip_set(text, config.video.backend, skip_broken=config.skip_broken)
            for text in dict.fromkeys(texts)}  # fmt: skip
    keys = {text: labels_key(dataset) for text, dataset in sets.items()}
    for name, source in sources.items():
        _check_source(config, name, source, sets)
    for name, target in targets.items():
        _check_training(config, name, target, sets)
        keys |= _check_tests(config, name, target, sets)
        novel = sets[target.test].class_names
        if target.base:
            warn_seen(sets[target.base].class_names, novel, f"the target {name} has in test")
        for source_name, source in sources.items():
            if source.train and name not in source.without:
                warn_seen(sets[source.train].class_names, novel, f"for the source {source_name}, the target {name} has")
    return plan_jobs(config, keys)


def _check_methods(config: Benchmark) -> None:
    """Refuse unknown methods, options that they do not take, and networks that do not fit together."""
    grid, methods = config.video, list(config.methods)
    for name in methods:
        tuned_part(name)
    for group in ("head", "per_method"):
        for name in getattr(config, group):
            with within(f"{group}.{name}"):
                tuned_part(name)
    if config.reference is not None:
        with within("reference"):
            known(config.reference, methods)
    for name in methods:
        method, head = split_method(name)[0], config.head.get(name, {})
        options = tune_options(config, "", Target(""), name, tuned_part(name), config.k_shot[0], 0)
        model = VideoModel(method, grid.backbone, dict(grid.backbone_options), options.model.options)
        with within(f"methods, {name}"):
            plan, encoder = design_video(model, grid.size, grid.frames)
            least = ClipView(plan.size).short
            if grid.store is not None and grid.store < least:
                raise UserError(
                    f"video.store is {grid.store}, below the {least} pixels that clips are cut from: raise it"
                )
            for k in config.k_shot:
                create_video_head(method, k, encoder.out_dim, **head)


def _check_source(config: Benchmark, name: str, source: Source, sets: Mapping[str, Any]) -> None:
    """Refuse options of a pre-training that do not fit, and weights that are absent or of another network."""
    for stage in source.pretrain:
        options = pretrain_options(config, source, name, stage, 1)
        with within(f"sources.{name}, {stage}"):
            check_numbers(options)
            train = sets[source.train].class_names
            if stage == "supervised" and len(train) < 2:
                raise UserError("the source has one class: classification needs two at least")
            if options.data.val and not set(sets[source.val].class_names) <= set(train):  # episodes of new classes
                session.make_sampler(items(sets[source.val]), options.validation, 0)
    if source.checkpoint is None:
        return
    if not Path(source.checkpoint).is_file():
        what = "is a folder: name the file of weights in it" if Path(source.checkpoint).is_dir() else "does not exist"
        raise UserError(f"sources.{name}.checkpoint '{source.checkpoint}' {what}")
    grid = config.video
    with within(f"sources.{name}"):
        model = VideoModel("protonet", grid.backbone, dict(grid.backbone_options))
        read_video_model(source.checkpoint, model, grid.size, lambda text: None, frames=grid.frames)


def _check_training(config: Benchmark, name: str, target: Target, sets: Mapping[str, Any]) -> None:
    """Build the samplers of a target's training and validation episodes for every method that is tuned."""
    devices = str(machine_of(config).devices)
    for method in config.methods:
        part = tuned_part(method)
        for k in config.k_shot if part != "frozen" else ():
            options = tune_options(config, name, target, method, part, k, 0)
            with within(f"targets.{name}, {k}-shot training episodes of {method}"):
                check_numbers(options)
                if devices.isdigit() and options.episodes_per_step < int(devices):
                    raise UserError(
                        f"episodes_per_step is {options.episodes_per_step}, but {devices} devices share every step: "
                        f"give {devices} at least"
                    )
                if target.base is None:
                    raise UserError("it has no base, videos to tune on: name them, or compare frozen methods alone")
                session.make_sampler(items(sets[target.base]), options.episodes, 0)
            if target.val:
                with within(f"targets.{name}, {k}-shot validation episodes"):
                    session.make_sampler(
                        items(sets[target.val]), like_training(options.validation, options.episodes), 0
                    )


def _check_tests(config: Benchmark, name: str, target: Target, sets: Mapping[str, Any]) -> dict[str, str]:
    """Build the samplers of a target's test episodes; returns the hashes of its episode files."""
    keys = {}
    for kind_name, kind in kinds_of(config).items():
        for k in shots_of(config, kind):
            for seed in config.seeds if target.episodes else config.seeds[:1]:
                cell = Cell("", name, config.methods[0], k, kind_name, seed)
                options = video_test_options(config, cell, target, kind)
                with within(f"targets.{name}, kind {kind_name}"):
                    episode_samplers(options, items(sets[target.test]), k)
                if options.episode_file:
                    keys[options.episode_file] = file_hash(options.episode_file)
    return keys


def items(dataset: Any) -> Any:
    """Return what samplers ask for: a data set's labels and names, without a way to load it."""
    return SimpleNamespace(dataset=dataset)
