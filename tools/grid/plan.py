"""From the options of a benchmark to its jobs: which trainings are needed, what starts from what, and which cells."""

from __future__ import annotations

import copy
import functools
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from backbones.errors import UserError, nearest
from fewshot.methods import METHODS
from tools.cli import describe
from tools.config import Benchmark, Evaluate
from tools.grid.training import POOL_TITLES, adapt_options, base_of, pretrain_options
from tools.groups import Data, Kind, Machine
from tools.kinds import varies


@dataclass(frozen=True)
class Cell:
    """One test: a method trained on a source with a seed, on the episodes of a target, a kind and a shot."""

    source: str
    target: str
    method: str
    k_shot: int
    kind: str
    seed: int

    @property
    def name(self) -> str:
        """Where its results lie below the run folder."""
        parts = ("cells", file_name(self.source), file_name(self.target), file_name(self.kind))
        return "/".join(parts) + f"/{self.method}_{self.k_shot}shot_seed{self.seed}"


@dataclass
class Job:
    """A unit of work of its own, plain values only, so that it can be written down and sent to another process.

    name: also its folder below the run folder. kind: a training of `training.JOBS`, test, or given: weights that are
    there already, the checkpoint in its options.
    options: of the training, as the dictionary of its dataclass; its checkpoint is that of the job in `needs`.
    cells: of a test: dictionaries with cell, options (of Evaluate), head (of its class) and in_memory; of videos also
        video: how its model is read.
    data: what the key of the result says of the pictures: text -> hash of labels and class names.
    """

    name: str
    kind: str
    title: str
    options: dict[str, Any]
    needs: list[str] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)


def file_name(name: str) -> str:
    """Turn the name of a source, target or kind into that of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).strip("._") or "_"


def named(parts: Mapping[str, Any], what: str, known: tuple[str, ...]) -> dict[str, dict[str, str | None]]:
    """Read NAME: TEXT or NAME: {KEY: TEXT}; `known` are the keys, the first of which a text stands for."""
    result: dict[str, dict[str, str | None]] = {}
    for name, value in parts.items():
        entry = {known[0]: value} if isinstance(value, str) else value
        if not isinstance(entry, Mapping) or not entry.get(known[0]):
            raise UserError(f"{what}.{name} must be the text of a data set, or {{{known[0]}: ...}} with such a text")
        for key, text in entry.items():
            if key not in known:
                raise UserError(f"{what}.{name} has the option '{key}'{nearest(key, known)}")
            if text is not None and not isinstance(text, str):
                raise UserError(f"{what}.{name}.{key} must be text, not {text}")
        result[str(name)] = dict.fromkeys(known) | dict(entry)
    refuse_alike(result, what)
    return result


def refuse_alike(names: Mapping[str, Any], what: str) -> None:
    """Raise for two names that would share a folder."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(file_name(name).lower(), name)
        if other != name:
            raise UserError(f"{what} '{other}' and '{name}' would share a folder: rename one")


def typed(group: type, options: Any, where: str) -> Any:
    """Build a group of options from a dictionary; raises UserError for an unknown name or a value of another type."""
    if not isinstance(options, Mapping):
        raise UserError(f"{where} is a group of options, such as {next(iter(group.__dataclass_fields__))}, not a value")
    for key in options:
        if key not in group.__dataclass_fields__:
            raise UserError(f"{where} has the option '{key}'{nearest(str(key), group.__dataclass_fields__)}")
    values = {}
    for key, value in options.items():
        try:
            values[key] = copy.deepcopy(_checked(group, key, _Value(value)))
        except ArgumentError as error:
            kind = typing.get_type_hints(group)[key]
            raise UserError(f"{where}.{key} must be {describe(kind)}, not {value}") from error
    return group(**values)


class _Value:
    """What stands in a recipe, as a key: alike are values that read alike, type included."""

    def __init__(self, value: Any) -> None:
        self.value, self.text = value, repr(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Value) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


@functools.lru_cache(4096)
def _checked(group: type, key: str, value: _Value) -> Any:
    """Return the value of an option; remembered, since a parse takes some ms and a grid asks thousands of times."""
    return _parser(group).parse_object({key: value.value})[key]  # 1e-3 is text in YAML, and a number for the parser


@functools.cache
def _parser(group: type) -> ArgumentParser:
    """Return what checks the options of a dataclass; building one takes longer than using it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(group, as_group=False)
    return parser


def kinds_of(config: Benchmark) -> dict[str, Kind]:
    """Return the kinds of episodes by name; raises UserError for an unknown option."""
    result = {str(name): typed(Kind, options, f"kinds.{name}") for name, options in config.kinds.items()}
    refuse_alike(result, "kinds")
    return result


def shots_of(config: Benchmark, kind: Kind) -> list[int]:
    """Return the shots whose models a kind is tested with: all, or the largest one where the shots vary."""
    return [max(config.k_shot)] if varies(kind) else list(dict.fromkeys(config.k_shot))


def machine_of(config: Benchmark) -> Machine:
    """Return the machine of a job: as many threads in every engine, since their number changes the last digits."""
    return replace(config.machine, threads=config.machine.threads or config.cpus_per_job)


def test_options(
    config: Benchmark, target: Mapping[str, str | None], kind: Kind, name: str, k: int, seed: int
) -> Evaluate:
    """Return the options of a test: all sources and methods of a seed get the same episodes, every seed gets others.

    Episodes that came back with every seed would be counted as new ones in the pooled interval.
    target: see `target_options`; with `episodes`, they come from the file in that folder of this kind, shot and seed.
    """
    file = str(Path(target["episodes"]) / episodes_name(name, k, seed)) if target["episodes"] else None
    return Evaluate(
        test=[target["test"]], n_way=config.n_way, k_shot=[k], n_query=config.n_query, episodes=config.episodes,
        seed=seed, drop_small=config.drop_small, cache=config.cache, feature_dtype=config.feature_dtype,
        pictures=False, skip_broken=config.skip_broken, download=config.download, size=config.size,
        machine=machine_of(config), kind=kind, episode_file=file, write_episodes=config.write_episodes,
    )  # fmt: skip


def episodes_name(kind: str, k_shot: int, seed: int) -> str:
    """Return the name of the file with the episodes of a kind, shot and seed."""
    return f"{file_name(kind)}_{k_shot}shot_seed{seed}.jsonl.gz"


def target_options(config: Benchmark) -> dict[str, dict[str, str | None]]:
    """Return the parts of every target: test, val and episodes."""
    return named(config.targets, "targets", ("test", "val", "episodes"))


def cells_of(config: Benchmark) -> Iterator[Cell]:
    """Yield every cell of the grid, without the targets that a source of videos leaves out."""
    kinds = kinds_of(config)
    for source, parts in config.sources.items():
        without = parts.get("without", ()) if isinstance(parts, Mapping) else ()
        for seed in dict.fromkeys(config.seeds):
            for method in dict.fromkeys(config.methods):
                for kind, options in kinds.items():
                    for k_shot in shots_of(config, options):
                        for target in config.targets:
                            if target not in without:
                                yield Cell(str(source), str(target), method, k_shot, kind, seed)


class Jobs:
    """Collects jobs by name; asking twice for the same training gives the same job.

    keys: text of a data set -> hash of its labels.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self.keys: Mapping[str, str] = keys
        self.jobs: dict[str, Job] = {}

    def add(self, kind: str, folder: str, stem: str, title: str, options: Any, needs: list[str]) -> Job:
        """Return the job of a training with these options; a second one of the same stem gets a number."""
        plain, number = json.loads(json.dumps(asdict(options))), 1
        data = self.hashes(options.data.train, options.data.val)
        while True:
            name = f"{folder}/{stem}" + (f"_{number}" if number > 1 else "")
            job = self.jobs.setdefault(name, Job(name, kind, title, plain, needs, data=data))
            if (job.options, job.needs) == (plain, needs):
                return job
            number += 1

    def hashes(self, *texts: str | None) -> dict[str, str]:
        """Return the hashes of the labels of those data sets that are known."""
        return {text: self.keys[text] for text in texts if text in self.keys}


class _Plan(Jobs):
    """The jobs of a grid of pictures."""

    def __init__(self, config: Benchmark, keys: Mapping[str, str]) -> None:
        super().__init__(keys)
        self.config = config
        self.sources, self.targets = named(config.sources, "sources", ("train", "val")), target_options(config)
        self.machine = machine_of(config)

    def data(self, cell: Cell, chosen: bool) -> tuple[Data, str]:
        """Return training and validation pictures, and the folder of what is trained on them.

        chosen: whether validation decides about the epoch; only then does the target's own matter.
        """
        source, own_val = self.sources[cell.source], self.targets[cell.target]["val"] if chosen else None
        config = self.config
        data = Data(source["train"], own_val or source["val"], config.size, config.augment, config.in_memory,
                    config.workers, skip_broken=config.skip_broken, download=config.download)  # fmt: skip
        place = file_name(cell.source) + (f"@{file_name(cell.target)}" if own_val else "")
        return data, f"train/{place}/seed{cell.seed}"

    def weights(self, cell: Cell) -> Job:
        """Return the job whose weights a cell tests."""
        config, method, pool = self.config, cell.method, base_of(cell.method)
        trial = pretrain_options(config, "", Data(), method, cell.seed, self.machine)
        data, folder = self.data(cell, trial.select == "best")
        of = f"{folder.split('/')[1]}, seed {cell.seed}"
        options = pretrain_options(config, "", data, method, cell.seed, self.machine)
        title = f"pre-training, {POOL_TITLES[pool]}, {of}"
        before = self.add("pretrain", folder, f"pretrain_{pool}", title, options, [])
        adapt = adapt_options(config, "", None, data, method, cell.k_shot, cell.seed, self.machine)
        if adapt is None:
            return before
        if METHODS[method].episodic:
            stem, title = f"{method}_{cell.k_shot}shot", f"{METHODS[method].title}, {cell.k_shot}-shot episodes, {of}"
            return self.add("meta_train", folder, stem, title, adapt, [before.name])
        title = f"self-distillation, {POOL_TITLES[pool]}, {of}"
        return self.add("self_distill", folder, f"distill_{pool}", title, adapt, [before.name])

    def test(self, cell: Cell, kind: Kind) -> None:
        """Add a cell to the test of its weights, pooling and target: these share features."""
        before, pool = self.weights(cell), METHODS[cell.method].pool
        name = f"test/{file_name(cell.target)}/{before.name.removeprefix('train/')}_{pool}"
        place = before.title.partition(", ")
        job = self.jobs.setdefault(
            name, Job(name, "test", f"test on {cell.target}: {place[0]}, {place[2]}", {}, [before.name])
        )
        target, head = self.targets[cell.target], self.config.head.get(cell.method, {})
        options = test_options(self.config, target, kind, cell.kind, cell.k_shot, cell.seed)
        if cell.method == "simpleshot" and head.get("variant") == "CL2N" and head.get("centre") is None:
            options.base = self.sources[cell.source]["train"]  # the paper's centre
        job.data |= self.hashes(target["test"], options.base, options.episode_file)
        entry = {"cell": asdict(cell), "options": asdict(options), "head": head}
        job.cells.append(json.loads(json.dumps({**entry, "in_memory": self.config.in_memory})))


def plan_jobs(config: Benchmark, keys: Mapping[str, str] | None = None) -> list[Job]:
    """Return the jobs of a benchmark, each after those that it needs.

    keys: text of a data set -> hash of its labels, see `tools.grid.check`.
    """
    from tools.grid.video_plan import VideoPlan

    plan = (VideoPlan if config.media == "videos" else _Plan)(config, keys or {})
    kinds = kinds_of(config)
    for cell in cells_of(config):
        plan.test(cell, kinds[cell.kind])
    order = {"given": 0, "pretrain": 0, "video_pretrain": 0, "test": 2}  # everything else is between
    place = {str(target): number for number, target in enumerate(config.targets)}

    def key(job: Job) -> tuple[int, int]:  # tests target by target, so that its pictures can be used again
        return order.get(job.kind, 1), place[job.cells[0]["cell"]["target"]] if job.cells else 0

    return sorted(plan.jobs.values(), key=key)
