"""The job `train` of `tools.classify`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from backbones import UserError, read_checkpoint
from backbones.checkpoint import load_state
from classify.average import Averaged, inner
from classify.confusion import draw_confusion
from classify.grid_plot import plot_grid, to_pixels
from classify.groups import freeze_start, make_groups, make_optimizer
from classify.landscape import RANGES, evenly_spaced
from classify.mixing import make_step
from classify.networks import make_card, measure
from classify.probing import LandscapeRecorder
from classify.schedules import follow_rate, make_rate
from classify.scoring import ClassScorer
from classify.shard_order import ShardOrder
from episodes.engine import Plan, fit
from episodes.loaders import BatchImages
from episodes.sources.shards import ShardSet
from tools import classify_session, session
from tools.classify_config import ClassifyTrain, ClassOptim
from tools.report import finish_training


def train(config: ClassifyTrain) -> dict:
    """Train a classification network as configured; returns what `metrics.json` holds."""
    session.check(config)
    fabric = session.open_fabric(config.machine, config.seed)
    say = session.speaker(fabric)
    optim = config.optim
    with session.together(fabric):
        session.check_share(optim.batch_size, "optim.batch_size", fabric)
        rate = rate_of(optim)
        design = classify_session.design_of(config.network, config.data.size)
        probe = design.build(2)  # says how it wants pictures, before they are opened
        measure(probe, design.size)
        pictures, val = classify_session.open_training(config.data, probe, design.size)
        del probe
        names = list(pictures.dataset.class_names)
        torch.manual_seed(torch.initial_seed())  # the weights are those of the seed, however many were drawn before
        network = design.build(len(names))
        if config.network.weights:
            classify_session.load_start(network, config.network, names, say)
        if config.network.frozen is not None:
            freeze_start(network, config.network.frozen)
        costs = classify_session.tell_costs(network, design.size, say) if fabric.is_global_zero else {}
        view = classify_session.test_facts(config.data)
        card = make_card(design, network, names, data=config.data.train, view=view, **costs)
        batches = BatchImages(
            pictures, optim.batch_size, config.seed, 0, fabric.global_rank, fabric.world_size,
            order_of(config, pictures.dataset, fabric.world_size),
        )  # fmt: skip
        model, optimizer, schedule = prepare(config, network, rate, len(batches))
        validate = val and ClassScorer(fabric, val, names, config.data.val, optim.batch_size, config.data.workers)
        watching(config, network, None)  # refuses what cannot be probed before a folder is made
        run = session.open_run(config, fabric)
        watch = watching(config, network, run)
    say(announce(config, design, pictures, val, names, run.path))
    with session.together(fabric):
        if config.pictures and run.main:
            images, labels = classify_session.first_pictures(batches)
            pixels = to_pixels(images, pictures.mean, pictures.std)
            plot_grid(pixels, labels, run.path / "pictures.png", f"training pictures, {config.data.augment}")
    regular = config.regular
    state = fit(
        fabric,
        model,
        make_step(
            len(names), regular.mixup, regular.cutmix, regular.label_smoothing, regular.mix_share, regular.cutmix_share
        ),
        batches,
        session.make_loader(config.data, fabric),
        optimizer,
        schedule,
        Plan(
            optim.epochs, optim.clip_norm, optim.accumulate, config.validate_from, config.select, optim.save_steps,
            config.seed, schedule_steps=True, items="images",
        ),
        run,
        validate,
        card,
        say,
        weights=lambda module: inner(module).state_dict(),
        watch=watch,
    )  # fmt: skip
    facts = dict(costs)
    if validate is not None:
        best = inner(model)
        load_state(best, read_checkpoint(run.best)[0], run.best)
        scores = validate.score(best.eval())
        facts["validation"] = scores.summary()
        with session.together(fabric):
            if config.pictures and run.main:
                draw_confusion(scores, run.path / "confusion.png")
    return finish_training(run, state, f"classification, {describe(config)}", say, facts)


def rate_of(optim: ClassOptim):
    """Return the learning rate of the options."""
    own = ("milestones", "gamma", "log", "final_lr", "warmup_epochs", "warmup_lr", "cooldown_epochs", "family")
    return make_rate(optim.schedule, optim.lr, optim.epochs, **{name: getattr(optim, name) for name in own})


def order_of(config: ClassifyTrain, dataset: Any, world_size: int) -> Callable[[int], Any] | None:
    """Return the order in which shards are read; None for other sets, which are shuffled as a whole."""
    if not isinstance(dataset, ShardSet) or config.data.in_memory:
        return None
    streams = config.data.streams or world_size
    for number, what in ((streams, "data.streams"), (config.optim.batch_size, "optim.batch_size")):
        if number % world_size:
            raise UserError(
                f"{what} is {number}, and {world_size} processes share the shards: give a multiple of {world_size}"
            )
    if config.optim.batch_size % streams:
        raise UserError(
            f"optim.batch_size is {config.optim.batch_size}, and the shards are read in {streams} streams: give a "
            f"multiple of {streams}"
        )
    return ShardOrder(dataset.shards, streams, config.data.window, config.seed)


def prepare(config: ClassifyTrain, network: nn.Module, rate, batches: int):
    """Lay out, compile and average a network as asked; returns model, optimiser and schedule."""
    optim = config.optim
    session.lay_out(network, config.machine)
    if config.machine.sync_batchnorm:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    groups = make_groups(
        network, optim.lr, optim.weight_decay, optim.classifier_factor, optim.classifier_decay, optim.decay_vectors
    )
    optimizer = make_optimizer(optim.name, groups, optim.lr, optim.momentum, optim.nesterov, optim.beta2)
    model = network
    if config.regular.average is not None:
        model = Averaged(network, config.regular.average, config.regular.average_warmup)
        model.follow(optimizer)
    if config.compile:
        network.compile(backend=config.compile)  # in place, so that names of weights stay
    return model, optimizer, follow_rate(optimizer, rate, optim.lr, -(-batches // optim.accumulate))


def watching(config: ClassifyTrain, network: nn.Module, run) -> LandscapeRecorder | None:
    """Return what records landscapes; None where none are asked for. run: None records nothing.

    Raises UserError for step lengths that are no range, and for a network that cannot be cut in two.
    """
    probe = config.probe
    if not probe.every:
        return None
    low, high, _ = RANGES["mobilenet" if "mobilenet" in config.network.name else "resnet"]
    try:
        etas = evenly_spaced(probe.low or low, probe.high or high, probe.count)
    except ValueError as error:
        raise UserError(f"probe.low, probe.high, probe.count: {error}") from error
    path = run.path / "landscapes.jsonl" if run is not None and run.main else None
    return LandscapeRecorder(network, etas, probe.every, path, probe.where, probe.batch_norm)


def describe(config: ClassifyTrain) -> str:
    """Return name and pooling of the network."""
    return config.network.name + (f" + {config.network.pool}" if config.network.pool else "")


def announce(config: ClassifyTrain, design, pictures, val, names: list[str], folder) -> str:
    """Say what is going to run."""
    optim, text = config.optim, "none, the last epoch is kept"
    if val is not None:
        text = f"{len(val.dataset)} pictures of {len(val.dataset.class_names)} of the classes"
    return (
        f"training {describe(config)} on {len(pictures.dataset)} pictures of {len(names)} classes at {design.size} px "
        f"({config.data.augment}), {optim.batch_size * optim.accumulate} a step, {optim.name}, {optim.schedule}; "
        f"validation: {text}; {folder}"
    )
