"""The groups of options of the video scripts. No heavy import here, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Videos:
    """Videos to train on and to validate with, and how clips are cut from them.

    Args:
        train: videos: a list (.json, .txt, .csv; with ?root=FOLDER), a folder of class folders, clips.zip,
            motions:DOMAIN or strokes:FILE.npz, see docs/video_data.md.
        val: videos of the validation; null trains without.
        size: side of a clip in pixels; null takes the backbone's own.
        frames: of a clip; null takes the checkpoint's, without one 16.
        sampling: which frames: segments (spread over the whole video), window (a dense run) or reference (TAMT's code);
            null takes the stage's of video_pretrain, window.
        step: between the frames of a window; in reference the width of its draw; null takes the stage's, 4.
        augment: of training clips: randaug (crop, flip, RandAugment, erasing), crop (crop and flip), multiscale (corner
            crops of four scales, for masked pre-training), reference (whole frames first, as TAMT's code; slow) or
            none; null takes the stage's: multiscale (ssl) or randaug.
        flip: mirror images; null decides by the class names (left, right) and known data sets.
        store: decode every video once and keep its frames at this short side on disk; null decodes anew every time.
        backend: who decodes: auto, pyav, decord or torchcodec.
        workers: loader processes; they change the speed and nothing else.
        limit_s: seconds that reading one video may take, also without loader processes; 0 for no limit.
        skip_broken: decode everything once, and leave out videos that are missing or damaged, with their names in a
            warning.
    """

    train: str = "motions:digits?split=train"
    val: str | None = None
    size: int | None = None
    frames: int | None = None
    sampling: Literal["segments", "window", "reference"] | None = "segments"
    step: int | None = 2
    augment: Literal["randaug", "crop", "multiscale", "reference", "none"] | None = "randaug"
    flip: bool | None = None
    store: int | None = None
    backend: Literal["auto", "pyav", "decord", "torchcodec"] = "auto"
    workers: int = 0
    limit_s: float = 120.0
    skip_broken: bool = False


@dataclass
class View:
    """How test clips are cut from videos; for models of videos alone.

    Args:
        eval_view: center (middle frames, short side, centre crop: nothing random), or reference (TAMT's code, which
            augments test clips at random; no features can be kept).
        sampling: which frames: segments, window or reference; null takes the checkpoint's.
        step: between frames; null takes the checkpoint's.
        frames: of a clip; null takes the checkpoint's.
        store: decode every video once and keep its frames at this short side on disk; null decodes as needed.
        backend: who decodes: auto, pyav, decord or torchcodec.
        source: weights of the frozen backbone that an adapter file belongs to; null looks where the file says.
        options: of what stands between backbone and head, for checkpoints without a card, see VideoModel.options.
        workers: processes that decode test clips; they change the speed and nothing else.
        limit_s: seconds that one video may take; 0 for no limit, and then nobody decodes apart.
    """

    eval_view: Literal["center", "reference"] = "center"
    sampling: Literal["segments", "window", "reference"] | None = None
    step: int | None = None
    frames: int | None = None
    store: int | None = None
    backend: Literal["auto", "pyav", "decord", "torchcodec"] = "auto"
    source: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    workers: int = 2
    limit_s: float = 120.0


@dataclass
class VideoModel:
    """What is tuned.

    Args:
        method: tamt, otam, trx, or any few-shot method of images that takes averages or BDC matrices: protonet,
            good_embed, meta_deepbdc, stl_deepbdc, simpleshot, ...; null takes a tuned checkpoint's, else tamt.
        backbone: video_vit_small, video_vit_base, ..., or frames:NAME for an image network on every frame; null takes
            the checkpoint's, and video_vit_small where none is named.
        backbone_options: arguments of the backbone, for instance {dim: 192, depth: 6}.
        options: of what stands between backbone and head: of create_tamt for tamt (adapt, variant, mix, ...),
            reduce_dim for BDC methods, norm for averages.
        head: arguments of the episode head, for instance {C: 1.0}.
    """

    method: str | None = None
    backbone: str | None = None
    backbone_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)


@dataclass
class SourceOptim:
    """How a source network is trained, by VideoMAE's recipes: rates are stated for 256 videos a step and scaled.

    Args:
        epochs: passes over the videos.
        batch_size: videos a step, over all processes.
        repeats: clips of every video in a step, each augmented by itself (repeated augmentation).
        lr: highest learning rate for 256 videos a step; null takes the stage's: 1.5e-4 (ssl), 5e-4 (supervised).
        final_lr: lowest learning rate, for 256 videos a step; null takes the stage's: 1e-5 (ssl), 1e-6 (supervised).
        warmup_epochs: of a linear rise from 1e-6, for 256 videos a step; null takes a tenth of all epochs, at most the
            published 40 (ssl) or 5 (supervised).
        weight_decay: of matrices; vectors have none.
        beta2: of AdamW; null takes the stage's: 0.95 (ssl), 0.999 (supervised).
        layer_decay: rate of a block over that of the next one; null takes the stage's: 1 (ssl), 0.75 (supervised;
            1 without --weights, where no layer has learned anything yet).
        clip_norm: largest gradient norm; null does not clip.
        accumulate: steps whose gradients are averaged before the weights move.
        save_steps: also write the resume checkpoint every so many steps; 0 writes it after each epoch only.
    """

    epochs: int = 20
    batch_size: int = 32
    repeats: int = 1
    lr: float | None = None
    final_lr: float | None = None
    warmup_epochs: int | None = None
    weight_decay: float = 0.05
    beta2: float | None = None
    layer_decay: float | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    save_steps: int = 0


@dataclass
class TuneOptim:
    """How a network is tuned to a target (TAMT's recipe: Adam, cosine over 80 epochs however many are run).

    Args:
        epochs: passes over the training episodes.
        name: adam, adamw or sgd.
        lr: learning rate.
        weight_decay: on all trained parameters.
        momentum: of SGD.
        nesterov: of SGD.
        schedule: cosine or constant, stepped after every epoch.
        t_max: epochs to the end of the cosine; null ends it with the training.
        eta_min: rate at the end of the cosine.
        clip_norm: largest gradient norm; null does not clip.
        accumulate: steps whose gradients are averaged before the weights move.
        save_steps: also write the resume checkpoint every so many steps; 0 writes it after each epoch only.
    """

    epochs: int = 30
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Literal["cosine", "constant"] = "cosine"
    t_max: int | None = 80
    eta_min: float = 1e-7
    clip_norm: float | None = None
    accumulate: int = 1
    save_steps: int = 0


@dataclass
class VideoGrid:
    """A benchmark of videos: what its trainings and tests share.

    Args:
        splits: folder of the lists; stands for {splits} in the texts of sources and targets.
        videos: folder with a sub-folder for every data set; {videos}/NAME in these texts is its sub-folder NAME.
        roots: NAME: folder of one data set, where it is not that sub-folder of videos.
        backbone: video_vit_small, ...; see VideoModel.backbone.
        backbone_options: arguments of the backbone, for instance {dim: 192, depth: 6}.
        size: side of a clip in pixels; null takes the backbone's own.
        frames: of a clip.
        sampling: which frames tuning and tests take, see Videos.sampling.
        step: between the frames of a window.
        store: decode every video once and keep its frames at this short side on disk; null decodes as needed.
        backend: who decodes: auto, pyav, decord or torchcodec.
        eval_view: of the tests, center or reference, see View.eval_view.
        pretrain: the stages of a source's pre-training in their order, ssl and supervised, each with the options of
            video_pretrain that differ from its defaults, for instance {ssl: {optim: {epochs: 20}}}.
        source_seed: of the pre-training, which then serves all seeds; null pre-trains anew for every seed.
        tune: options of video_tune that differ from its defaults, for instance {optim: {epochs: 5}}; targets.NAME.tune
            wins over them, per_method.METHOD over both.
    """

    splits: str | None = None
    videos: str | None = None
    roots: dict[str, Any] = field(default_factory=dict)
    backbone: str = "video_vit_small"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    frames: int = 16
    sampling: Literal["segments", "window", "reference"] = "segments"
    step: int = 2
    store: int | None = None
    backend: Literal["auto", "pyav", "decord", "torchcodec"] = "auto"
    eval_view: Literal["center", "reference"] = "center"
    pretrain: dict[str, Any] = field(default_factory=lambda: {"ssl": {}, "supervised": {}})
    source_seed: int | None = 1
    tune: dict[str, Any] = field(default_factory=dict)
