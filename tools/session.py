"""From options to objects: device, data sets, models, run folders. Everything is checked here, before long work."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import filelock
import torch
from torch import nn

from backbones import UserError
from episodes import processes
from episodes.check import refuse_broken
from episodes.dataset import FileSet, to_memory
from episodes.engine import Plan
from episodes.extras import Extras
from episodes.loaders import Pictures, numbered_loader
from episodes.opening import open_dataset
from episodes.optim import build_optimizer, build_schedule
from episodes.processes import team_of
from episodes.run import RunFolder, check_run
from episodes.sampler import EpisodeSampler
from episodes.shards import evaluate_shared
from episodes.sources.cache import cache_folder
from episodes.sources.folder import read_file
from episodes.transforms import resize_for
from fewshot.card import Architecture, Loaded, design, load_encoder, measure_map
from fewshot.encoder import Encoder
from fewshot.maml import as_they_are, with_encoder
from fewshot.methods import find_method
from tools.groups import Data, Episodes, Machine, Model, Optim
from tools.launch import open_fabric as open_fabric
from tools.limits import check_numbers


def check(config) -> None:
    """Refuse, before anything is opened, options out of their range and a run folder that cannot be used."""
    check_numbers(config)
    check_run(config.run, getattr(config, "resume", False), config.overwrite, hasattr(config, "resume"))


def together(fabric) -> contextlib.AbstractContextManager[None]:
    """Prepare something on every process: bad input on any of them stops all, and is told once."""
    return processes.together(team_of(fabric))


def open_set(spec: str, data: Data, size: int):
    """Open one data set by its text, decoded once into memory where asked.

    Arrays larger than the network's pictures are shrunk as well, once and with antialias: the augmentation of whole
    batches samples without it, which breaks the thin strokes of characters that the test pictures keep.
    """
    with _in_turn() if data.download else contextlib.nullcontext():
        dataset = open_dataset(spec, skip_broken=data.skip_broken, download=data.download)
    if isinstance(dataset, FileSet) and dataset.read is read_file and not data.skip_broken:
        refuse_broken(dataset)
    side = resize_for(size)
    if data.in_memory and (not hasattr(dataset, "batch") or min(dataset.images.shape[-2:]) > side):
        dataset = to_memory(dataset, side, side)
    return dataset


def _in_turn() -> filelock.BaseFileLock:
    """Return the lock under which data sets are fetched, so that of several processes the first one does."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / "download.lock")


def open_pictures(data: Data, backbone: nn.Module, size: int) -> tuple[Pictures, Pictures | None]:
    """Open the training and the validation pictures."""
    mean, std = backbone.mean, backbone.std
    train = Pictures(open_set(data.train, data, size), size, mean, std, data.augment)
    val = Pictures(open_set(data.val, data, size), size, mean, std) if data.val else None
    if len(train.dataset.class_names) < 2:
        raise UserError(f"{data.train} has one class: training needs two at least")
    if val is not None:
        warn_shared(train.dataset.class_names, val.dataset.class_names, f"{data.val} has", "training")
    return train, val


def warn_shared(known: Sequence[str], new: Sequence[str], what: str, where: str) -> None:
    """Warn when classes that should be new were seen before: accuracies on them say nothing about new classes."""
    shared = sorted(set(known) & set(new))
    if shared:
        some = ", ".join(f"'{name}'" for name in shared[:3]) + (", ..." if len(shared) > 3 else "")
        warnings.warn(f"{what} {len(shared)} classes of the {where} data ({some}): they are not new", stacklevel=2)


def new_model(model: Model, size: int | None) -> tuple[Architecture, nn.Module]:
    """Design an encoder with fresh weights from the model options."""
    return design(model.method, model.backbone, model.backbone_options, model.reduce_dim, model.activation, size)


def read_model(
    checkpoint: str | None, model: Model, size: int | None, say: Callable[[str], None], method: str | None = None
) -> Loaded:
    """Read a checkpoint (or `model.weights`); without one, design the model from its options.

    method: wins over the method that the checkpoint is of.
    Raises UserError for a checkpoint that does not fit, weights that cannot be fetched, and a size that the backbone
    does not take.
    """
    if method is not None:
        find_method(method)
    checkpoint = checkpoint or model.weights
    if checkpoint is None:
        plan, encoder = new_model(replace(model, method=method or model.method), size)
        if not model.backbone_options.get("pretrained"):
            say(f"no checkpoint given: {model.backbone} starts from random weights")
        return Loaded(plan, encoder, {}, {})
    loaded = load_encoder(checkpoint, lambda: new_model(model, size)[0], say, method)
    if size:
        loaded.architecture.size = size
        loaded.architecture.map_size = measure_map(loaded.encoder.backbone, size)
    return loaded


def make_sampler(pictures: Pictures, episodes: Episodes, seed: int, epoch: int = 0, fabric=None) -> EpisodeSampler:
    """Build the sampler of a data set; raises UserError when classes are too few or too small."""
    return EpisodeSampler(
        pictures.dataset.labels,
        episodes.n_way,
        episodes.k_shot,
        episodes.n_query,
        episodes.episodes,
        seed,
        epoch,
        extras=Extras(0, 0, episodes.unlabelled, episodes.distractor_ways, episodes.distractors),
        drop_small=episodes.drop_small,
        class_names=pictures.dataset.class_names,
        rank=fabric.global_rank if fabric else 0,
        world_size=fabric.world_size if fabric else 1,
    )


def validation_sampler(pictures: Pictures, episodes: Episodes, seed: int, fabric=None) -> EpisodeSampler:
    """Build the sampler of the validation; what is wrong with it is said to be of that, not of the training."""
    try:
        return make_sampler(pictures, episodes, seed, fabric=fabric)
    except UserError as error:
        raise UserError(f"validation: {error}") from error


def make_validator(
    fabric, pictures: Pictures | None, episodes: Episodes, head: nn.Module, seed: int
) -> Callable[[nn.Module], dict[str, float]] | None:
    """Return a function that scores a model on the fixed validation episodes; None without validation pictures.

    All processes call it together: each encodes its share of the pictures and scores its share of the episodes.
    """
    if pictures is None:
        return None
    sampler, team = validation_sampler(pictures, episodes, seed, fabric), team_of(fabric)

    def validate(model: nn.Module) -> dict[str, float]:
        def encode(images: torch.Tensor) -> torch.Tensor:
            with fabric.autocast():
                return model.features(images)

        own = with_encoder(getattr(model, "head", head), Encoder(model.backbone, model.pool), fabric.autocast)
        represent = as_they_are if getattr(own, "adapts", False) else encode
        result = evaluate_shared(team, represent, own, pictures, sampler)
        return {"val_accuracy": result.mean, "val_interval": result.interval}

    return validate


def make_training(
    model: nn.Module, optim: Optim, machine: Machine
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Lay the weights out for speed, and build optimiser and schedule from the options."""
    lay_out(model, machine)
    if machine.sync_batchnorm:
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place below the top; names of weights stay
    optimizer = build_optimizer(
        model, optim.lr, optim.weight_decay, optim.momentum, optim.nesterov, optim.temperature_lr, optim.name
    )
    return optimizer, build_schedule(optimizer, optim.schedule, optim.epochs, optim.milestones, optim.gamma)


def lay_out(model: nn.Module, machine: Machine) -> None:
    """Put the weights of convolutions into the layout that they are fastest in; numbers stay what they are."""
    if machine.channels_last:
        for value in (*model.parameters(), *model.buffers()):
            if value.dim() == 4:  # the convolutions of clips have five axes, which have no such layout
                value.data = value.data.contiguous(memory_format=torch.channels_last)


def make_plan(optim: Optim, seed: int, select: str, validate_from: int = 0) -> Plan:
    """Collect what the training loop needs to know."""
    return Plan(
        epochs=optim.epochs,
        clip_norm=optim.clip_norm,
        accumulate=optim.accumulate,
        validate_from=validate_from,
        select=select,
        save_steps=optim.save_steps,
        seed=seed,
    )


def open_run(config, fabric, path: str | None = None) -> RunFolder:
    """Open the run folder of a script's options."""
    run = path or config.run
    resume = getattr(config, "resume", False)
    return RunFolder(run, asdict(config), resume, config.overwrite, fabric.is_global_zero)


def make_loader(data: Data, fabric) -> Callable:
    """Return the function that serves the batches of an epoch from a given step on."""
    pin = fabric.device.type == "cuda"
    return lambda batches, start: numbered_loader(batches, data.workers, start, pin)


def check_share(count: int, option: str, fabric) -> None:
    """Refuse steps that leave a process without work in every one of them."""
    if count < fabric.world_size:
        raise UserError(
            f"{option} is {count}, but {fabric.world_size} processes share every step: "
            f"give --{option} {fabric.world_size} at least"
        )


def speaker(fabric) -> Callable[[str], None]:
    """Return print on the first process and silence on the others."""
    return print if fabric.is_global_zero else lambda text: None
