"""The two stages of source pre-training: what they are by default, their models, starts, optimisers and schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from backbones import UserError, read_checkpoint
from backbones.checkpoint import LoadReport, load_state
from backbones.video_layouts import load_source, read_source
from backbones.video_mae import MaskedAutoencoder, tube_mask
from backbones.video_vit import Grid, VideoViT
from tools.video.models import VideoArchitecture, measure_grid
from tools.video.peek import peek
from tools.video_config import VideoPretrain
from video import VideoClassifier
from video.schedules import scaled_rate, source_groups, source_learning_rates

Say = Callable[[str], None]
PER = 256  # videos a step for which rates are stated
WARMUP_START = 1e-6


@dataclass(frozen=True)
class Stage:
    """Published settings of a stage (VideoMAE); rates for 256 videos a step.

    warmup: epochs, of trainings ten times as long at least. final_norm: whether its network ends in one.
    """

    title: str
    lr: float
    final_lr: float
    warmup: int
    beta2: float
    layer_decay: float
    augment: str
    final_norm: bool
    step: int = 4


STAGES = {
    "ssl": Stage("masked reconstruction", 1.5e-4, 1e-5, 40, 0.95, 1.0, "multiscale", True),
    "supervised": Stage("classification", 5e-4, 1e-6, 5, 0.999, 0.75, "randaug", False),
}


def resolve(config: VideoPretrain) -> VideoPretrain:
    """Fill in what the options leave to the stage, so that what is written beside the weights is what was run."""
    stage, optim, data = STAGES[config.stage], config.optim, config.data

    def given(value: Any, default: Any) -> Any:
        return default if value is None else value

    # rates that fall towards the input keep what was learned there; without weights there is nothing to keep
    decay = stage.layer_decay if config.weights and not config.backbone.startswith("frames:") else 1.0
    optim = replace(
        optim,
        lr=given(optim.lr, stage.lr),
        final_lr=given(optim.final_lr, stage.final_lr),
        warmup_epochs=given(optim.warmup_epochs, min(stage.warmup, round(optim.epochs / 10))),
        beta2=given(optim.beta2, stage.beta2),
        layer_decay=given(optim.layer_decay, decay),
    )
    data = replace(
        data,
        frames=given(data.frames, config.backbone_options.get("frames", 16)),
        sampling=given(data.sampling, "window"),
        step=given(data.step, stage.step),
        augment=given(data.augment, stage.augment),
    )
    return replace(config, optim=optim, data=data)


def design(config: VideoPretrain) -> tuple[VideoArchitecture, nn.Module, Grid]:
    """Build the network of a stage; returns its plan, the network and the (t, h, w) of its map.

    Raises UserError for a network that the stage cannot train, and for clips that it does not take.
    """
    options = dict(config.backbone_options)
    transformer = not config.backbone.startswith("frames:")
    if config.stage == "ssl" and not transformer:
        raise UserError(
            f"{config.backbone} can't be trained by masked reconstruction, which hides tokens of a video transformer: "
            "name a video_vit_* backbone, or --stage supervised"
        )
    if transformer:
        options |= {"final_norm": True} if config.stage == "ssl" else {"drop_path": config.drop_path}
    data = config.data
    plan = VideoArchitecture("protonet", config.backbone, options, {}, data.size, data.frames, data.sampling, data.step)
    network = plan.network()
    grid = measure_grid(network, plan.frames, plan.size)
    if config.stage == "ssl":
        try:
            tube_mask(grid, config.mask_ratio)
        except ValueError as error:
            raise UserError(f"a frame of {grid[1]} x {grid[2]} tokens can't be masked: {error}") from error
    plan.backbone_options = dict(config.backbone_options)
    return plan, network, grid


def card_of(plan: VideoArchitecture, stage: str, **facts: object) -> dict[str, object]:
    """Return the card of source weights: a network alone, of no few-shot method."""
    left_out = ("method", "options", "pool")
    own = {key: value for key, value in plan.card(f"video_{stage}").items() if key not in left_out}
    return {**own, **{key: value for key, value in facts.items() if value is not None}}


def build_model(config: VideoPretrain, network: nn.Module, class_names: Sequence[str]) -> nn.Module:
    """Build what a stage trains around the network; raises UserError for a decoder that does not fit."""
    if config.stage == "supervised":
        # normalised features need no start near the uniform guess
        return VideoClassifier(network, len(class_names), init_scale=1.0 if config.batch_norm else 0.001)
    try:
        return MaskedAutoencoder(network, **config.decoder, mean=network.mean, std=network.std)
    except (TypeError, ValueError) as error:
        raise UserError(f"the decoder can't be built like this: {error}") from error


def load_start(model: nn.Module, path: str, class_names: Sequence[str], say: Say) -> None:
    """Load the weights to start from, and say what matched, was missing and was left out.

    A decoder is taken from files of masked pre-training, a classifier from files of the very same classes.
    Raises UserError for files that do not fit.
    """
    if isinstance(model, MaskedAutoencoder):
        load_source(model, path, say=say, flag="--backbone")
        _load_decoder(model, path, say)
        return
    file, _, card = peek(Path(path))
    same = list(card.get("class_names", [])) == list(class_names)
    if isinstance(model.backbone, VideoViT):
        _say_fresh(load_source(model, path, classifier=same, say=say, flag="--backbone"), say)
        return
    state, _ = read_checkpoint(file)
    if card.get("domain") == "video":  # of this stage
        drop = () if same else ("head.",)
        say(str(load_state(model, state, file, drop=drop, allow_missing=drop)))
        return
    report = load_state(model.backbone.backbone, state, file, drop=("classifier.", "head.", "pool.", "fc_norm."))
    say(f"{report}; the network of every frame")


def _say_fresh(report: LoadReport, say: Say, most: int = 6) -> None:
    """Name the parts of the model that a file says nothing about."""
    fresh = list(dict.fromkeys(key.rpartition(".")[0] or key for key in report.missing))
    if fresh:
        say(f"starting fresh: {', '.join(fresh[:most])}{f' and {len(fresh) - most} more' if len(fresh) > most else ''}")


def _load_decoder(model: MaskedAutoencoder, path: str, say: Say) -> None:
    own = {key: value for key, value in model.state_dict().items() if not key.startswith("encoder.")}
    found = {key: value for key, value in read_source(path).rest.items() if key in own}
    if found.keys() == own.keys() and all(found[key].shape == own[key].shape for key in own):
        model.load_state_dict(found, strict=False)
        say(f"the decoder goes on from {path} too: {len(found)} tensors")
    else:
        say(f"the decoder starts fresh: {path} has none of this shape")


def make_optimizer(
    config: VideoPretrain, model: nn.Module, steps: int, depth: int | None
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Build AdamW and the schedule that moves with every step of it.

    config: resolved. steps: of the optimiser in an epoch. depth: number of blocks, None where there are none.
    Raises UserError for a warm-up that is longer than the training, and layers where the network has none.
    """
    optim = config.optim
    if depth is None and optim.layer_decay != 1.0:
        raise UserError(f"optim.layer_decay needs a network of blocks, which {config.backbone} is not: leave it out")
    try:
        rates = source_learning_rates(
            *(scaled_rate(rate, videos_a_step(config), PER) for rate in (optim.lr, optim.final_lr)),
            optim.epochs,
            steps,
            optim.warmup_epochs,
            scaled_rate(WARMUP_START, videos_a_step(config), PER),
        )
    except ValueError as error:
        raise UserError(f"{error}: lower optim.warmup_epochs") from error
    groups = source_groups(model, optim.weight_decay, optim.layer_decay, depth)
    groups.sort(key=lambda group: -group["lr_scale"])  # the log tells the rate of the first one
    for group in groups:
        group["lr"] = group["lr_scale"]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, optim.beta2))
    return optimizer, LambdaLR(optimizer, lambda step: float(rates[min(step, len(rates) - 1)]))


def videos_a_step(config: VideoPretrain) -> int:
    """Return how many videos move the weights once."""
    return config.optim.batch_size * config.optim.accumulate
