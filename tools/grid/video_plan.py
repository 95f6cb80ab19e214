"""The jobs of a benchmark of videos: every source is pre-trained once, tuned to every target, and tested there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

from backbones.errors import UserError
from tools.config import Benchmark, Evaluate
from tools.grid.methods import TUNED, method_of, split_method, title_of, tuned_part
from tools.grid.plan import Cell, Job, Jobs, file_name, test_options
from tools.grid.video_grid import Target, filled, pretrain_options, sources_of, targets_of, tune_options
from tools.groups import Kind
from tools.video_config import VideoTune
from tools.video_groups import View

STAGE_TITLES = {"ssl": "masked pre-training", "supervised": "supervised pre-training"}


class VideoPlan(Jobs):
    """The jobs of a grid of videos."""

    def __init__(self, config: Benchmark, keys: Mapping[str, str]) -> None:
        super().__init__(keys)
        self.config = config
        self.sources, self.targets = sources_of(config), targets_of(config)

    def source(self, name: str, seed: int) -> Job:
        """Return the job whose weights a target is tuned or tested from."""
        source, fixed = self.sources[name], self.config.video.source_seed
        before = None
        if source.checkpoint is not None:
            path = f"source/{file_name(name)}/given"
            title = f"weights of {name}, ready"
            before = self.jobs.setdefault(path, Job(path, "given", title, {"checkpoint": source.checkpoint}))
        folder = f"source/{file_name(name)}" + ("" if fixed is not None else f"/seed{seed}")
        of = name + ("" if fixed is not None else f", seed {seed}")
        for stage in source.pretrain:
            options = pretrain_options(self.config, source, name, stage, seed if fixed is None else fixed)
            needs = [before.name] if before else []
            before = self.add("video_pretrain", folder, stage, f"{STAGE_TITLES[stage]}, {of}", options, needs)
        return before

    def weights(self, cell: Cell) -> Job:
        """Return the job whose weights a cell tests: the tuned ones, or those of the source for frozen methods."""
        before, part = self.source(cell.source, cell.seed), tuned_part(cell.method)
        if part == "frozen":
            return before
        target = self.targets[cell.target]
        if target.base is None:
            raise UserError(
                f"targets.{cell.target} has no base, videos to tune {cell.method} on: name them, or compare methods "
                "that are not tuned"
            )
        options = tune_options(self.config, cell.target, target, cell.method, part, cell.k_shot, cell.seed)
        folder = f"tune/{file_name(cell.source)}/{file_name(cell.target)}/seed{cell.seed}"
        named = title_of(cell.method) if "+" in cell.method else f"{title_of(cell.method)} ({TUNED[part]})"
        title = f"tuning to {cell.target}, {named}, {cell.k_shot}-shot, {cell.source}, seed {cell.seed}"
        return self.add("video_tune", folder, f"{cell.method}_{cell.k_shot}shot", title, options, [before.name])

    def test(self, cell: Cell, kind: Kind) -> None:
        """Add a cell to the test of its weights, pooling and target: these share features."""
        before, target, config = self.weights(cell), self.targets[cell.target], self.config
        model = model_of(config, cell, target)
        pool = method_of(cell.method).pool + (f"_{cell.method}" if model["options"] else "")
        name = f"test/{file_name(cell.target)}/{before.name.partition('/')[2].replace('/', '_')}_{pool}"
        job = self.jobs.setdefault(name, Job(name, "test", f"test on {cell.target}: {before.title}", {}, [before.name]))
        options = video_test_options(config, target, kind, cell.kind, cell.k_shot, cell.seed)
        method, head = split_method(cell.method)[0], config.head.get(cell.method, {})
        if method == "simpleshot" and head.get("variant") == "CL2N" and head.get("centre") is None:
            options.base = target.base  # the mean of features that the network was not trained on
        job.data |= self.hashes(target.test, options.base, options.episode_file)
        video = {"model": model, "size": config.video.size, "frames": config.video.frames}
        if before.kind == "video_tune" and before.options["tune"] != "all":
            video["source"] = self.place(self.jobs[before.needs[0]])
        entry = {"cell": asdict(cell), "options": asdict(options), "head": head, "in_memory": False, "video": video}
        job.cells.append(json.loads(json.dumps(entry)))

    @staticmethod
    def place(job: Job) -> dict[str, str]:
        """Say where the frozen network of an adapter file is: a path, or the job that trains it."""
        return {"path": job.options["checkpoint"]} if job.kind == "given" else {"job": job.name}


def model_of(config: Benchmark, cell: Cell, target: Target) -> dict:
    """Return the options of the network and of what stands behind it, for files that do not say them themselves."""
    grid, options = config.video, VideoTune()
    for changes in (grid.tune, target.tune, config.per_method.get(cell.method, {})):
        options = filled(options, changes, "tune")
    part = tuned_part(cell.method)
    own = {"backbone": grid.backbone, "backbone_options": dict(grid.backbone_options)}
    return {**own, "method": split_method(cell.method)[0], "options": options.model.options if part == "frozen" else {}}


def video_test_options(config: Benchmark, target: Target, kind: Kind, name: str, k_shot: int, seed: int) -> Evaluate:
    """Return the options of a test: all sources and methods of a seed get the same episodes, every seed gets others."""
    options = test_options(config, {"test": target.test, "episodes": target.episodes}, kind, name, k_shot, seed)
    grid = config.video
    view = View(grid.eval_view, grid.sampling, grid.step, grid.store, grid.backend)
    cache = "none" if grid.eval_view == "reference" else options.cache  # its clips change with every look
    return replace(options, n_way=target.n_way, n_query=target.n_query, size=grid.size, cache=cache, video=view)
