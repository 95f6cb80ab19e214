"""The jobs of a benchmark of videos: every source is pre-trained once, tuned to every target, and tested there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

from backbones.errors import UserError
from tools.config import Benchmark, Evaluate
from tools.grid.methods import TUNED, method_of, split_method, title_of, tuned_part
from tools.grid.plan import Cell, Job, Jobs, file_name, test_options
from tools.grid.video_grid import Target, pretrain_options, sources_of, targets_of, tune_options
from tools.groups import Kind, Model
from tools.video_groups import View

POOL_TITLES = {"gap": "averages", "bdc": "BDC", "map": "maps", "frames": "frame by frame"}
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
        options = video_test_options(config, cell, target, kind)
        pool = method_of(cell.method).pool + (f"_{cell.method}" if options.video.options else "")
        name = f"test/{file_name(cell.target)}/{before.name.partition('/')[2].replace('/', '_')}_{pool}"
        title = f"test on {cell.target}: {before.title}"
        if before.kind != "video_tune":
            title += f", {POOL_TITLES[method_of(cell.method).pool]}"
        job = self.jobs.setdefault(name, Job(name, "test", title, {}, [before.name]))
        job.data |= self.hashes(target.test, options.base, options.episode_file)
        tuned_part_only = before.kind == "video_tune" and before.options["tune"] != "all"
        video = {"source": self.place(self.jobs[before.needs[0]])} if tuned_part_only else {}
        head = config.head.get(cell.method, {})
        entry = {"cell": asdict(cell), "options": asdict(options), "head": head, "in_memory": False, "video": video}
        job.cells.append(json.loads(json.dumps(entry)))

    @staticmethod
    def place(job: Job) -> dict[str, str]:
        """Say where the frozen network of an adapter file is: a path, or the job that trains it."""
        return {"path": job.options["checkpoint"]} if job.kind == "given" else {"job": job.name}


def video_test_options(config: Benchmark, cell: Cell, target: Target, kind: Kind) -> Evaluate:
    """Return the options of a test: all sources and methods of a seed get the same episodes, every seed gets others."""
    parts, grid = {"test": target.test, "episodes": target.episodes}, config.video
    options = test_options(config, parts, kind, cell.kind, cell.k_shot, cell.seed)
    view = View(grid.eval_view, grid.sampling, grid.step, grid.frames, grid.store, grid.backend)
    method, part, head = split_method(cell.method)[0], tuned_part(cell.method), config.head.get(cell.method, {})
    if part == "frozen":  # nobody has built what stands behind the network yet
        tune = tune_options(config, cell.target, target, cell.method, part, cell.k_shot, cell.seed)
        view = replace(view, options=tune.model.options)
    if method == "simpleshot" and head.get("variant") == "CL2N" and head.get("centre") is None:
        options.base = target.base
    if grid.eval_view == "reference":  # its clips change with every look
        options.cache = "none"
    model = Model(method, grid.backbone, dict(grid.backbone_options))  # for weights that do not say what they are of
    size = {"n_way": target.n_way, "n_query": target.n_query, "size": grid.size}
    return replace(options, **size, video=view, model=model)
