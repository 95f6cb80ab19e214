"""The options of the video scripts: one dataclass a script; flags, --help and recipe files come from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tools.groups import Episodes, Machine, Validation
from tools.video_groups import SourceOptim, TuneOptim, VideoModel, Videos


@dataclass
class VideoPretrain:
    """Pre-train a video network on a source: by reconstructing masked clips, or by classifying clips.

    Args:
        run: folder of this run.
        stage: ssl (masked reconstruction, needs no labels) or supervised (classification, from the weights of ssl).
        weights: source weights to start from, of any layout that covey reads; null starts from random weights.
        seed: of the weights, the order and the augmentation.
        resume: go on from the last checkpoint in the run folder.
        overwrite: start anew in a folder that holds a run.
        select: keep the weights of the best validation epoch or of the last (ssl keeps the last).
        validate_from: epochs before the first validation.
        backbone: video_vit_small, ...; see VideoModel.backbone.
        backbone_options: arguments of the backbone, for instance {dim: 192, depth: 6}.
        mask_ratio: share of the tubes that ssl hides.
        decoder: arguments of the decoder of ssl: decoder_dim, decoder_depth, decoder_heads.
        mixup: alpha of mixup in the supervised stage; 0 is none.
        cutmix: alpha of cutmix in the supervised stage; 0 is none.
        label_smoothing: of the supervised stage.
        drop_path: largest drop rate of the supervised stage's blocks.
        batch_norm: normalise features over the batch in front of the classifier while it is trained, folded into its
            norm in the file; short trainings of small networks learn little without it.
        pictures: draw training clips, reconstructions (ssl) and the confusion of classes (supervised).
        data: the videos
        optim: the training
        validation: the episodes of the supervised stage, where the validation videos are of new classes
        machine: the machine
    """

    run: str = "runs/video_pretrain"
    stage: Literal["ssl", "supervised"] = "ssl"
    weights: str | None = None
    seed: int = 1
    resume: bool = False
    overwrite: bool = False
    select: Literal["best", "last"] = "best"
    validate_from: int = 0
    backbone: str = "video_vit_small"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    mask_ratio: float = 0.9
    decoder: dict[str, Any] = field(default_factory=dict)
    mixup: float = 0.8
    cutmix: float = 1.0
    label_smoothing: float = 0.1
    drop_path: float = 0.1
    batch_norm: bool = False
    pictures: bool = True
    data: Videos = field(default_factory=lambda: Videos(sampling=None, step=None, augment=None))
    optim: SourceOptim = field(default_factory=SourceOptim)
    validation: Episodes = field(default_factory=lambda: Episodes(n_query=12, episodes=300))
    machine: Machine = field(default_factory=Machine)


@dataclass
class VideoTune:
    """Tune a pre-trained video network to a target, on episodes of the target's base classes.

    Args:
        run: folder of this run.
        checkpoint: source weights (of video_pretrain, VideoMAE, transformers or TAMT) or a tuned file to go on from.
        source: weights of the frozen backbone that an adapter file to go on from belongs to; null looks where the file
            says.
        tune: adapters (the network is frozen, TAMT's adapters and head are trained), head (frozen, what is behind the
            network is trained) or all (full fine-tuning).
        seed: of the weights, the episodes and the augmentation.
        resume: go on from the last checkpoint in the run folder.
        overwrite: start anew in a folder that holds a run.
        select: keep the weights of the best validation epoch or of the last.
        episodes_per_step: episodes whose gradients are averaged in one step, over all processes.
        cache: keep what the frozen part computes of every video, on disk or in memory, so that tuning runs the rest
            alone; needs data.augment none. auto: disk where it is possible.
        features: folder of what is kept on disk; null takes features/ in the cache folder (~/.cache/covey).
        feature_dtype: of what is kept; float16 needs half the room and rounds to three digits.
        drop_path: largest drop rate of the network's blocks while it is tuned, those of the frozen blocks included (as
            published), unless what these compute is kept.
        reference_file: also write the tuned model here as TAMT's released code names its tensors.
        pictures: draw the clips of the first training episode as film strips.
        data: the videos
        model: the model
        optim: the training
        episodes: the training episodes
        validation: the validation episodes
        machine: the machine
    """

    run: str = "runs/video_tune"
    checkpoint: str | None = None
    source: str | None = None
    tune: Literal["adapters", "head", "all"] = "adapters"
    seed: int = 1
    resume: bool = False
    overwrite: bool = False
    select: Literal["best", "last"] = "best"
    episodes_per_step: int = 1
    cache: Literal["auto", "disk", "memory", "none"] = "auto"
    features: str | None = None
    feature_dtype: Literal["float32", "float16"] = "float32"
    drop_path: float = 0.1
    reference_file: str | None = None
    pictures: bool = True
    data: Videos = field(default_factory=Videos)
    model: VideoModel = field(default_factory=VideoModel)
    optim: TuneOptim = field(default_factory=TuneOptim)
    episodes: Episodes = field(default_factory=lambda: Episodes(k_shot=5, n_query=12, episodes=600))
    validation: Validation = field(default_factory=lambda: Validation(episodes=300))
    machine: Machine = field(default_factory=Machine)
