"""The trainings of `tools.gcp_study`: every network with every schedule, each in a run folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backbones import UserError
from backbones.gcp import BASES
from classify.corruptions import LEAST_SIDE
from classify.networks import measure
from classify.study_schedules import MOMENTUM, StudySchedule, recipe
from tools.classify_config import ClassifyTrain, ClassOptim, Network
from tools.classify_session import design_of
from tools.classify_training import train, watching
from tools.study_config import TRAIN, VAL, GcpStudy, Pair

HEADS = {"GAP": "gap", "GCP": "gcp"}


@dataclass(frozen=True, eq=False)
class Job:
    """One training: network ("GAP" or "GCP"), schedule, seed, its options, and whether it is probed."""

    network: str
    schedule: str
    seed: int
    config: ClassifyTrain

    @property
    def folder(self) -> Path:
        return Path(self.config.run)

    @property
    def weights(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def landscapes(self) -> Path:
        return self.folder / "landscapes.jsonl"


def family_of(config: GcpStudy) -> str:
    """Return whose recipes are used."""
    if config.schedules.family:
        return config.schedules.family
    return next((name for name in ("mobilenet", "shufflenet") if name in config.network.backbone), "resnet")


def make_network(pair: Pair, head: str) -> Network:
    """Return the options of a network of the pair, head "gap" or "gcp"."""
    own = {"reduction": pair.reduction, "iterations": pair.iterations} if head == "gcp" else {}
    if pair.backbone in BASES:
        dropout = {} if pair.dropout is None else {"dropout": pair.dropout}
        return Network(f"{head}_{pair.backbone}", options={**pair.options, **own, **dropout})
    common = {"options": dict(pair.options), "dropout": pair.dropout or 0.0}
    if head == "gap":
        return Network(pair.backbone, "gap", **common)
    steps = {"iterations": pair.iterations}
    return Network(
        pair.backbone, "isqrt", pool_options=steps, reduction=pair.reduction, last_stride=pair.last_stride, **common
    )  # fmt: skip


def make_optim(config: GcpStudy, schedule: str) -> ClassOptim:
    """Return the options of a training with a schedule."""
    options, family = config.schedules, family_of(config)
    published = recipe(family, schedule)
    batch = options.batch_size or published.batch
    # another base rate stands for LRnorm's, and scales the other schedules' by as much
    scale = batch / published.batch if options.lr is None else options.lr / recipe(family, "LRnorm").base_lr
    decay = published.weight_decay if options.weight_decay is None else options.weight_decay
    return ClassOptim(
        StudySchedule(family, schedule, options.stretch).epochs, batch, lr=published.base_lr * scale,
        weight_decay=decay, momentum=MOMENTUM, schedule=schedule, family=family,
    )  # fmt: skip


def make_jobs(config: GcpStudy) -> list[Job]:
    """Return all trainings, those with the first schedule first.

    Raises UserError when schedules, seeds or validation pictures do not make a study.
    """
    options = config.schedules
    for name, values in (("schedules.names", options.names), ("schedules.seeds", options.seeds)):
        if len(set(values)) < len(values):
            raise UserError(f"{name} is {values}: name each once")
    if config.data.val is None or (config.data.val == VAL and config.data.train != TRAIN):
        raise UserError("the study needs validation pictures: name them, --data.val")
    names = options.names if "schedules" in config.parts else options.names[:1]
    seeds = options.seeds if "schedules" in config.parts else options.seeds[:1]
    jobs = []
    for schedule in names:
        for seed in seeds:
            for network, head in HEADS.items():
                first = schedule == names[0] and seed == seeds[0]
                probed = first and "landscape" in config.parts
                settings = ClassifyTrain(
                    str(Path(config.run) / "trainings" / f"{head}_{schedule}_seed{seed}"),
                    seed,
                    resume=config.resume,
                    overwrite=True,
                    select="last",
                    pictures=False,
                    data=config.data,
                    network=make_network(config.network, head),
                    optim=make_optim(config, schedule),
                    probe=config.probe if probed else replace(config.probe, every=0),
                    machine=config.machine,
                )
                jobs.append(Job(network, schedule, seed, settings))
    if "landscape" in config.parts and config.probe.every == 0:
        raise UserError("probe.every is 0, so that there are no landscapes: raise it, or leave them out of parts")
    return jobs


def check_jobs(jobs: list[Job], parts: Sequence[str]) -> None:
    """Build both networks, and refuse before any training what would stop one of them, or the tests, after hours.

    Raises UserError.
    """
    for network in HEADS:
        job = next(job for job in jobs if job.network == network)
        design = design_of(job.config.network, job.config.data.size)
        built = design.build(2)
        measure(built, design.size)
        watching(job.config, built, None)
        if "robustness" in parts and design.size < LEAST_SIDE:
            raise UserError(
                f"corruptions need pictures of at least {LEAST_SIDE} pixels, and these have {design.size}: raise "
                "data.size, or leave robustness out of parts"
            )


def run_jobs(jobs: list[Job], say: Callable[[str], None]) -> dict[Job, dict]:
    """Train what is not trained yet; returns the metrics of every job."""
    found = {}
    for number, job in enumerate(jobs, 1):
        done = job.folder / "metrics.json"
        if job.config.resume and done.is_file():
            say(f"training {number} of {len(jobs)}: {job.folder.name} is done")
            found[job] = json.loads(done.read_text(encoding="utf-8"))
            continue
        say(f"training {number} of {len(jobs)}: {job.network}, {job.schedule}, seed {job.seed}")
        found[job] = train(job.config)
    return found


def trained_weights(jobs: list[Job], schedule: str) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """Return the weights that a schedule gave, and which of them are one network: "GAP" -> "GAP", "GAP seed 2", ..."""
    weights: dict[str, Path] = {}
    groups: dict[str, list[str]] = {network: [] for network in HEADS}
    for job in jobs:
        if job.schedule == schedule:
            group = groups[job.network]
            group.append(f"{job.network} seed {job.seed}" if group else job.network)
            weights[group[-1]] = job.weights
    return weights, groups
