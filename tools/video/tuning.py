"""Parts of target tuning: what is trained, how, and what the weights file holds and says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from backbones import UserError, read_checkpoint
from backbones.video_zoo import FrameByFrame
from backbones.wording import file_size
from episodes.engine import Progressed
from episodes.optim import build_optimizer, build_schedule
from fewshot.encoder import EpisodeModel
from tools.groups import Machine
from tools.video.methods import create_video_head, find_video_method
from tools.video.models import LoadedVideo, VideoArchitecture, read_video_model
from tools.video_config import VideoTune
from tools.video_groups import TuneOptim, Videos
from video.encoders import freeze_for
from video.schedules import tuning_schedule
from video.stored import set_drop_path
from video.tamt import TamtModel, count_parameters, trainable_state
from video.tamt_layout import reference_slots, save_tuned

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tuning:
    """What is tuned.

    tune: adapters, head or all; what is trained in the end. head: of episodes, built with `head_options`.
    source: file of the frozen network; None where there is none (tune all, networks of libraries).
    """

    loaded: LoadedVideo
    tune: str
    head: nn.Module
    head_options: dict[str, Any]
    source: str | None

    @property
    def model(self) -> EpisodeModel:
        """The whole model, on clips."""
        return EpisodeModel(self.loaded.encoder, self.head)

    def card(self, config: VideoTune, class_names: list[str]) -> dict[str, object]:
        """Return the card of the weights file; without the network it says where that is and how it is known."""
        card, before = self.loaded.card, self.loaded.seen if self.tune == "all" else []
        if card.get("stage") == "video_tune":  # the classes of the target before this one are not new either
            before = list(card.get("class_names", []))
        own = self.loaded.architecture.card(
            "video_tune",
            tune=self.tune,
            k_shot=config.episodes.k_shot,
            n_way=config.episodes.n_way,
            data=config.data.train,
            head=self.head_options,
            class_names=list(dict.fromkeys([*class_names, *before])),
        )
        return own if self.tune == "all" else {**own, "source": self.source, "source_key": self.loaded.source_key}


def check_start(config: VideoTune) -> None:
    """Refuse a tuning around nothing: a network of random weights that stays as it is."""
    if config.checkpoint is None and config.tune != "all" and not config.model.backbone_options.get("pretrained"):
        raise UserError(
            f"there is no pre-trained network to tune (--tune {config.tune} leaves it as it is): name its weights with "
            "--checkpoint, or train all of it with --tune all"
        )


def prepare(config: VideoTune, say: Say) -> Tuning:
    """Read the model, freeze what stays, and build the head; raises UserError where nothing would be trained."""
    data, model = config.data, config.model
    loaded = read_video_model(
        config.checkpoint, model, data.size, say, None, config.source,
        frames=data.frames, sampling=data.sampling, step=data.step,
    )  # fmt: skip
    plan = loaded.architecture
    method = find_video_method(plan.method)
    if (config.episodes.unlabelled or config.episodes.distractor_ways) and not method.semi_supervised:
        raise UserError(f"{method.title} does not learn from unlabelled videos: use semi_soft_kmeans")
    tune = freeze_as_asked(loaded, config.tune, say)
    set_drop_path(loaded.encoder, config.drop_path)
    options = config.model.head or loaded.head_options()
    head = create_video_head(plan.method, config.episodes.k_shot, loaded.out_dim, **options)
    tuning = Tuning(loaded, tune, loaded.load_head(head, training=True), options, loaded.source or config.checkpoint)
    if not any(parameter.requires_grad for parameter in tuning.model.parameters()):
        raise UserError(
            f"{method.title} has nothing to train with --tune {tune}: test the source weights with "
            f"tools.evaluate --method {plan.method}, or --tune all"
        )
    if config.reference_file:
        if not isinstance(loaded.encoder, TamtModel):
            raise UserError(f"reference_file is a layout of TAMT alone, not of {method.title}: leave it out")
        reference_slots(loaded.encoder)  # refuses options that the layout cannot say
    return tuning


def freeze_as_asked(loaded: LoadedVideo, tune: str, say: Say) -> str:
    """Freeze what is not to be trained; returns what is: 'adapters', 'head' or 'all'.

    A method without adapters has nothing that 'adapters' could mean but what stands behind the network, so that one
    command line compares methods. Raises UserError for methods that are not trained on episodes, and for adapters that
    would stay at their random start.
    """
    name, encoder = loaded.architecture.method, loaded.encoder
    method = find_video_method(name)
    if not method.episodic:
        raise UserError(
            f"{method.title} is not trained on episodes: test the source weights with tools.evaluate --method {name}"
        )
    adapted = isinstance(encoder, TamtModel) and len(encoder.backbone.adapters) > 0
    if tune == "head" and adapted and loaded.fresh:
        raise UserError(
            "--tune head leaves the adapters as they are, which is at random here: build the network without them, "
            "--model.options '{adapt: 0}', or --tune adapters"
        )
    if tune == "adapters" and not adapted:
        say(f"{method.title} has no adapters here: what stands behind the frozen network is trained, as by --tune head")
        tune = "head"
    freeze_for(encoder, tune)
    return tune


def resolve(data: Videos, plan: VideoArchitecture) -> Videos:
    """Fill in what the options leave to the checkpoint."""
    facts = {"size": plan.size, "frames": plan.frames, "sampling": plan.sampling, "step": plan.step}
    return replace(data, **facts, augment=data.augment or "randaug")


def make_training(model: nn.Module, optim: TuneOptim, machine: Machine) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Build optimiser and schedule of the parameters that are trained."""
    if machine.channels_last:  # layers on clips have five dimensions, for which this layout is another one
        for network in (module for module in model.modules() if isinstance(module, FrameByFrame)):
            network.backbone.to(memory_format=torch.channels_last)
    if machine.sync_batchnorm:
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place below the top; names of weights stay
    optimizer = build_optimizer(model, optim.lr, optim.weight_decay, optim.momentum, optim.nesterov, name=optim.name)
    if optim.schedule == "constant":
        return optimizer, build_schedule(optimizer, "constant")
    return optimizer, tuning_schedule(optimizer, optim.t_max or optim.epochs, optim.eta_min)


def kept_weights(tuning: Tuning) -> Callable[[nn.Module], dict[str, Tensor]]:
    """Return what names the tensors of the weights file: all, or everything but the frozen network.

    Adapters that are not trained this time are kept too: the network's own file has none.
    """
    encoder, head = tuning.loaded.encoder, tuning.head
    names = encoder.state_dict().keys()
    if tuning.tune != "all":
        freeze_for(encoder, "adapters")
        names = trainable_state(encoder).keys()
        freeze_for(encoder, tuning.tune)

    def weights(model: nn.Module) -> dict[str, Tensor]:
        state = {key: value for key, value in encoder.state_dict().items() if key in names}
        return {**state, **{f"head.{key}": value for key, value in head.state_dict().items()}}

    return weights


def facts_of(tuning: Tuning, config: VideoTune, state: Progressed) -> dict[str, Any]:
    """Return what the metrics say of a tuning beyond its accuracies: what was trained, and how long it took.

    seconds_per_episode: of training alone, on every process together.
    """
    total, trained = count_parameters(tuning.model)
    seconds = sum(row["seconds"] for row in state.history)
    waited = sum(row["seconds"] * row["wait_share"] for row in state.history)
    return {
        "method": tuning.loaded.architecture.method,
        "tune": tuning.tune,
        "source": tuning.source if tuning.tune != "all" else None,
        "parameters": total,
        "trained_parameters": trained,
        "frozen_parameters": total - trained,
        "seconds_per_episode": round(seconds / max(len(state.history) * config.episodes.episodes, 1), 4),
        "wait_share": round(waited / max(seconds, 1e-9), 4),
    }


def describe(config: VideoTune, tuning: Tuning, classes: int, run: Path) -> str:
    """Say what is about to be trained."""
    rules, (total, trained) = config.episodes, count_parameters(tuning.model)
    text = (
        f"tuning {tuning.loaded.architecture.method} ({tuning.tune}): {rules.n_way}-way {rules.k_shot}-shot, "
        f"{rules.episodes} episodes an epoch from {classes} classes; {trained:,} of {total:,} parameters are trained; "
        f"{run}"
    )
    optim = config.optim
    if optim.schedule == "cosine" and optim.t_max and optim.epochs > optim.t_max:
        text += (
            f"\nnote: after optim.t_max, {optim.t_max} of {optim.epochs} epochs, the rate rises again: "
            "--optim.t_max null ends the cosine with the training"
        )
    if note := getattr(tuning.head.train(), "note", None):  # a solver that is not the one of tests, say
        text += f"\nhead: {note}"
    return text


def describe_end(tuning: Tuning, weights: Path, facts: dict[str, Any]) -> str:
    """Say how long it took, and how large the weights file is beside the network that it belongs to."""
    text = (
        f"{facts['seconds_per_episode']:.3f} s an episode, {100 * facts['wait_share']:.0f} % of it waiting for data; "
    )
    size, source = file_size(weights.stat().st_size), tuning.source
    if tuning.tune == "all":
        return f"{text}the file holds the whole network, {size}"
    beside = f", {file_size(os.path.getsize(source))}" if source and os.path.isfile(source) else ""
    return f"{text}what was tuned takes {size} beside a network{beside} that serves any number of targets"


def write_reference(tuning: Tuning, path: str | None, weights: Path, epoch: int, say: Say) -> None:
    """Write the kept weights as TAMT's released code names its tensors, where a path is given."""
    if path is None:
        return
    encoder, (state, _) = tuning.loaded.encoder, read_checkpoint(weights)
    encoder.load_state_dict({key: value for key, value in state.items() if not key.startswith("head.")}, strict=False)
    save_tuned(encoder, path, epoch)
    say(f"in the layout of the released TAMT code: {path}")
