"""Video models from options and from files: source weights, tuned files, adapter files with the network they belong to.

A file of ours says by its card what it is of. Source weights of other programs say it by the names of their tensors;
what network they are of is then named in the options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from backbones import UserError
from backbones.encoder import Encoder
from backbones.video_vit import Grid, VideoViT
from backbones.video_zoo import FRAMEWISE, VIDEO_VITS, create_video_backbone
from fewshot.card import Loaded, measure_map
from tools.video.methods import create_pooled, create_video_head, find_video_method
from tools.video_groups import VideoModel
from video.clips import Clips, ClipSet
from video.clips_views import ClipView
from video.frames import FrameSampling
from video.pools import TokenBDC
from video.tamt import TamtModel, create_tamt

METHOD, BACKBONE = "tamt", "video_vit_small"  # where neither the options nor a card name any
VideoEncoder = TamtModel | Encoder
Say = Callable[[str], None]


@dataclass
class VideoArchitecture:
    """Everything needed to rebuild an encoder of clips.

    method: see `find_video_method`. backbone, backbone_options: see `create_video_backbone`.
    options: of what stands between backbone and head, see `VideoModel`.
    size, frames: of a clip, pixels and number; null takes the backbone's. sampling, step: see `FrameSampling`.
    pool: where it is not the method's: heads on averages also take the vectors of 'tamt'.
    """

    method: str
    backbone: str
    backbone_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    frames: int | None = None
    sampling: str = "segments"
    step: int = 2
    pool: str | None = None

    def network(self) -> nn.Module:
        """Build the backbone with random weights, and fill in the size and frames that are not named."""
        named = self.backbone_options.get("frames")
        if self.frames and named and named != self.frames:
            raise UserError(f"the clips have {self.frames} frames, but backbone_options has frames: {named}: leave it")
        options = {key: value for key, value in self.backbone_options.items() if key != "frames"}
        kind, _, inner = self.backbone.partition(":")
        if self.backbone not in VIDEO_VITS and not (kind == FRAMEWISE and inner):
            names = ", ".join(VIDEO_VITS)
            raise UserError(f"'{self.backbone}' is no video backbone: name one of {names}, or frames:NAME")
        self.frames = self.frames or named or 16
        network = create_video_backbone(self.backbone, **options, frames=self.frames)
        self.size = self.size or network.input_size
        return network

    def build(self, freeze: bool = True) -> VideoEncoder:
        """Build the encoder with random weights (or those that the backbone brings itself).

        freeze: stop gradients of TAMT's network. Raises UserError for options and sizes that do not fit.
        """
        find_video_method(self.method)  # before the network is built
        network = self.network()
        grid, pool = measure_grid(network, self.frames, self.size), self.pooling
        if pool != "tamt":
            return create_pooled(pool, network, grid, self.options)
        if not isinstance(network, VideoViT):
            raise UserError(
                f"TAMT adapts the blocks of a video transformer, and {self.backbone} has none: name a video_vit_* "
                "backbone or another method"
            )
        try:
            return create_tamt(network, **{"freeze": freeze, **self.options})
        except TypeError as error:
            raise UserError(f"TAMT does not take these options: {error}") from error

    @property
    def pooling(self) -> str:
        """What represents a clip: tamt, gap, bdc, map or frames."""
        return self.pool or find_video_method(self.method).pool

    def card(self, stage: str, **facts: object) -> dict[str, object]:
        """Return the card of weights of this architecture; stage is 'video_ssl', 'video_supervised' or 'video_tune'."""
        return {"domain": "video", "stage": stage, **vars(self), **facts}


@torch.no_grad()
def measure_grid(network: nn.Module, frames: int, size: int) -> Grid:
    """Return (t, h, w) of a backbone's map; raises UserError for clips that it does not take."""
    if isinstance(network, VideoViT):
        try:
            return network.grid(torch.empty(1, 3, frames, size, size, device="meta"))
        except ValueError as error:
            raise UserError(f"the backbone takes no clips of {frames} frames of {size} pixels: {error}") from error
    return (frames, *measure_map(network.backbone, size))


def design_video(
    model: VideoModel,
    size: int | None = None,
    frames: int | None = None,
    sampling: str = "segments",
    step: int = 2,
    freeze: bool = True,
) -> tuple[VideoArchitecture, VideoEncoder]:
    """Design an encoder with fresh weights from the model options; null size and frames take the backbone's."""
    plan = new_plan(model)
    plan.size, plan.frames, plan.sampling, plan.step = size, frames, sampling, step
    return plan, plan.build(freeze)


def new_plan(model: VideoModel, method: str | None = None) -> VideoArchitecture:
    """Return the architecture that the options name. method: where they name none, default `METHOD`."""
    method = model.method or method or METHOD
    return VideoArchitecture(method, model.backbone or BACKBONE, dict(model.backbone_options), dict(model.options))


@dataclass
class LoadedVideo(Loaded):
    """A video model read from disk; `state` holds the weights of its episode head, where it was tuned with one.

    source: file of the frozen network's weights, for the card of an adapter file; None where there is none.
    seen: names of all classes that it was trained on.
    fresh: parts of the encoder that start from random weights beside a trained network; empty where none do.
    """

    trainer: ClassVar[str] = "tools.video_tune"
    source: str | None = None
    seen: list[str] = field(default_factory=list)
    fresh: str = ""

    @property
    def out_dim(self) -> int:
        """Length of a representation, or of its rows."""
        return self.encoder.out_dim

    def clips(self, dataset: ClipSet, view: str = "center", readers: int = 1) -> Clips:
        """Return the clips of videos as this model takes them: its size, frames and sampling. readers: processes."""
        plan, network = self.architecture, self.encoder.backbone
        cut = ClipView(plan.size, view, flip=dataset.flip, mean=network.mean, std=network.std)
        return Clips(dataset, cut, FrameSampling(plan.sampling, plan.frames, plan.step), readers=readers)

    def head(self, k_shot: int, **options: Any) -> nn.Module:
        """Return the episode head of its method for `k_shot` supports per class, with the weights that it was given."""
        options = {**self.head_options(), **options}
        return self.load_head(create_video_head(self.architecture.method, k_shot, self.out_dim, **options))

    def load_head(self, head: nn.Module, training: bool = False) -> nn.Module:
        """Do what `Loaded.load_head` does; raises UserError for a head that needs more frames than a clip has left.

        The encoder's parts must have been trained as well, unless they are about to be.
        """
        least, plan = getattr(head, "least_frames", 1), self.architecture
        there = measure_grid(self.encoder.backbone, plan.frames, plan.size)[0] if least > 1 else 1
        if there < least:
            raise UserError(
                f"{find_video_method(plan.method).title} needs {least} frames, and the network makes {there} of "
                f"the {plan.frames} of a clip: give clips more frames, or the head other options"
            )
        if self.fresh and not training:
            raise UserError(
                f"there are no trained weights of {self.fresh}, and random ones tell nothing: train them with "
                f"{self.trainer} first, or name a method without such parts, such as protonet"
            )
        return super().load_head(head, training)

    @property
    def source_key(self) -> str:
        """Hash of the network without what is tuned around it."""
        return source_key(self.encoder)


def source_key(encoder: VideoEncoder) -> str:
    """Return the hash of the weights of an encoder's network, which adapters are tuned around."""
    from episodes.fingerprint import tensors_key

    network = encoder.backbone.vit if isinstance(encoder, TamtModel) else encoder.backbone
    return tensors_key(network.state_dict().items())


def read_video_model(
    checkpoint: str | Path | None,
    model: VideoModel | None = None,
    size: int | None = None,
    say: Say = print,
    method: str | None = None,
    source: str | None = None,
    *,
    untuned: str = METHOD,
    frames: int | None = None,
    sampling: str | None = None,
    step: int | None = None,
    freeze: bool = True,
) -> LoadedVideo:
    """Read a video checkpoint of any kind; without one, design the model from its options.

    checkpoint: source weights of any layout that `backbones.video_layouts` knows (a folder of transformers too), source
        or tuned weights of ours, an adapter file of ours, or a tuned file of the released TAMT code.
    model: what it names must agree with a card; the backbone_options and options of *source* weights may be others.
    method: wins over the model's, and both over that of a tuned file's card, where its representations allow it.
    untuned: method of source weights and of new networks where none is named.
    source: weights of the network that an adapter file belongs to; None looks where its card says.
    size, frames, sampling, step: of clips; None takes the card's. freeze: see `create_tamt`.
    Raises UserError, with one sentence, for files that do not fit.
    """
    from tools.video.files import Clip, read_any

    model, clip = model or VideoModel(), Clip(size, frames, sampling, step)
    model = replace(model, method=method or model.method)
    if model.method is not None:
        find_video_method(model.method)
    if checkpoint is None:
        if source is not None:
            raise UserError("source is the network of an adapter file: name that file as the checkpoint")
        plan = clip.on(new_plan(model, untuned))
        encoder = plan.build(freeze)
        if not model.backbone_options.get("pretrained"):
            say(f"no checkpoint given: {plan.backbone} starts from random weights")
        return LoadedVideo(plan, encoder, {}, {}, fresh=random_parts(encoder))
    return read_any(Path(checkpoint), model, clip, say, untuned, source, freeze)


def random_parts(encoder: VideoEncoder) -> str:
    """Say what of an encoder around a trained network starts from random weights; empty where nothing does.

    A BDC pool's temperature starts at a value that means something, its reduction at random.
    """
    if not isinstance(encoder, TamtModel):
        reduced = isinstance(encoder.pool, TokenBDC) and encoder.pool.bdc.reduce is not None
        return "the reduction of the BDC pooling" if reduced else ""
    parts = ["adapters"] if len(encoder.backbone.adapters) else []
    parts += ["moment head"] if encoder.pool.second_moment != "none" else []
    return f"TAMT's {' and '.join(parts)}" if parts else ""


def architecture_of(card: dict[str, Any]) -> VideoArchitecture:
    """Return the architecture that a card names; null where it names no method (source weights)."""
    known = {one.name: card[one.name] for one in fields(VideoArchitecture) if one.name in card}
    return VideoArchitecture(**{"method": "protonet", **known})
