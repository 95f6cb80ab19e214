"""Everything that can be wrong with a benchmark, found before its first training."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from backbones.errors import UserError, nearest
from episodes.loaders import Pictures
from fewshot.methods import METHODS, create_head, find_method
from tools import session
from tools.config import Benchmark, MetaTrain
from tools.grid.plan import Job, kinds_of, machine_of, named, plan_jobs, shots_of, target_options, test_options, typed
from tools.grid.stage import file_hash
from tools.grid.training import own, pretrain_options, with_shots
from tools.groups import Data, Optim
from tools.kinds import episode_samplers
from tools.limits import check_numbers

SPECIAL = ("reduce_dim", "dropout", "select", "generations", "episodes_per_step", "pretrain", "meta")


def labels_key(dataset) -> str:
    """Return the hash of the labels and class names of a data set: results on other items must not pass for these."""
    digest = hashlib.sha256(np.ascontiguousarray(dataset.labels, dtype=np.int64))
    digest.update("\n".join(dataset.class_names).encode())
    return digest.hexdigest()


def check(config: Benchmark) -> list[Job]:
    """Open every data set, build every model, head and sampler, and return the jobs; raises UserError."""
    from tools.grid.video_check import check_videos, refuse_other_media

    check_numbers(config)
    refuse_other_media(config)
    _check_engine(config)
    if config.media == "videos":
        return check_videos(config)
    _check_methods(config)
    kinds = kinds_of(config)
    sources = named(config.sources, "sources", ("train", "val"))
    targets = target_options(config)
    data, sets = Data(skip_broken=config.skip_broken, download=config.download), {}
    for text in dict.fromkeys(
        text
        for part in (*sources.values(), *targets.values())
        for key, text in part.items()
        if text is not None and key != "episodes"
    ):
        sets[text] = session.open_set(text, data, config.size)
    plain = {text: Pictures(dataset, config.size, (0.0,) * 3, (1.0,) * 3) for text, dataset in sets.items()}
    for method in config.methods:
        options = pretrain_options(config, config.run, data, method, 0, machine_of(config))
        check_numbers(options)
        session.new_model(options.model, config.size)
        if METHODS[method].episodic:
            _check_steps(config, method)
    _check_training(config, sources, targets, plain)
    keys = {text: labels_key(dataset) for text, dataset in sets.items()}
    for name, target in targets.items():
        for kind_name, kind in kinds.items():
            for k in shots_of(config, kind):
                for seed in config.seeds if target["episodes"] else config.seeds[:1]:
                    with within(f"targets.{name}, kind {kind_name}"):
                        options = test_options(config, target, kind, kind_name, k, seed)
                        episode_samplers(options, plain[target["test"]], k)
                        if options.episode_file:
                            keys[options.episode_file] = file_hash(options.episode_file)
        for source, parts in sources.items():
            seen, new = (sets[text].class_names for text in (parts["train"], target["test"]))
            session.warn_shared(seen, new, f"for the source {source}, the target {name} has", "training")
    return plan_jobs(config, keys)


def _check_steps(config: Benchmark, method: str) -> None:
    """Refuse a meta-training whose numbers are out of range, or whose steps have no episode for every device."""
    count, devices = own(config, method, "episodes_per_step"), str(config.machine.devices)
    check_numbers(MetaTrain(optim=own(config, method, "meta"), episodes_per_step=count))
    if devices.isdigit() and count < int(devices):
        raise UserError(
            f"episodes_per_step of {method} is {count}, but {devices} devices share every step: "
            f"give --episodes_per_step {devices} at least"
        )


def _check_engine(config: Benchmark) -> None:
    """Refuse options of Ray where it is not used, a job on several machines, and a cluster that does not answer."""
    if config.machine.num_nodes > 1:
        raise UserError("a job of the grid runs on one node: spread the jobs over nodes with --engine ray")
    if config.engine == "ray":
        from tools.grid.ray_engine import address_of, import_ray, probe

        import_ray()
        probe(address_of(config.address))
        return
    for name in ("address", "gpus_per_job"):
        if (value := getattr(config, name)) is not None:
            raise UserError(f"{name} {value} is an option of Ray: add --engine ray, or leave it out")


@contextlib.contextmanager
def within(where: str) -> Iterator[None]:
    """Say of which part of the grid a UserError is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _check_methods(config: Benchmark) -> None:
    """Refuse unknown methods, options that no method takes, and a reference that is not compared."""
    for method in config.methods:
        find_method(method)
        for k in config.k_shot:
            create_head(method, k, **config.head.get(method, {}))
    for method in config.head:
        find_method(method)
    for method, options in config.per_method.items():
        find_method(method)
        where = f"per_method.{method}"
        if not isinstance(options, Mapping):
            raise UserError(f"{where} is a group of options, such as dropout, not a value")
        for key, value in options.items():
            if key not in SPECIAL:
                raise UserError(f"{where} has the option '{key}'{nearest(key, SPECIAL)}")
            if key in ("pretrain", "meta"):
                typed(Optim, value, f"{where}.{key}")
            else:
                typed(Benchmark, {key: value}, where)
    if config.reference is not None and config.reference not in config.methods:
        raise UserError(f"reference '{config.reference}' is not compared{nearest(config.reference, config.methods)}")


def _check_training(config: Benchmark, sources, targets, plain: dict[str, Pictures]) -> None:
    """Build the samplers of training and validation episodes."""
    for name, source in sources.items():
        train = plain[source["train"]]
        if len(train.dataset.class_names) < 2:
            raise UserError(f"the source {name} has one class: training needs two at least")
        vals = {source["val"], *(target["val"] for target in targets.values())} - {None}
        for k in config.k_shot if any(METHODS[method].episodic for method in config.methods) else ():
            with within(f"sources.{name}, {k}-shot training episodes"):
                session.make_sampler(train, with_shots(config, config.meta_episodes, k), 0)
            for val in vals:
                with within(f"{k}-shot validation episodes from {val}"):
                    session.make_sampler(plain[val], with_shots(config, config.validation, k), 0)
        for val in vals:
            with within(f"validation episodes from {val}"):
                session.make_sampler(plain[val], config.validation, 0)
