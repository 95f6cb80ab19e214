"""The options of the scripts: one dataclass a script; flags, --help and recipe files come from them.

No heavy import here, so that --help answers at once. Groups that several scripts share are in `tools.groups`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tools.groups import Data, Episodes, Kind, Machine, Model, Optim, Validation
from tools.video_groups import VideoGrid, View


@dataclass
class Pretrain:
    """Train backbone, pooling and a linear classifier on the base classes.

    Args:
        run: folder of this run.
        seed: of the weights, the order and the augmentation.
        resume: go on from the last checkpoint in the run folder.
        overwrite: start anew in a folder that holds a run.
        select: keep the weights of the best validation epoch or of the last.
        validate_from: epochs before the first validation.
        data: the pictures
        model: the model
        optim: the training
        validation: the validation episodes, scored with a prototype head
        machine: the machine
    """

    run: str = "runs/pretrain"
    seed: int = 1
    resume: bool = False
    overwrite: bool = False
    select: Literal["best", "last"] = "best"
    validate_from: int = 0
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=lambda: Optim(milestones=[60, 80]))
    validation: Episodes = field(default_factory=Episodes)
    machine: Machine = field(default_factory=Machine)


@dataclass
class MetaTrain:
    """Train a pre-trained encoder on episodes.

    Args:
        run: folder of this run.
        checkpoint: pre-trained weights to start from; the architecture comes from the file's card.
        method: episode head; null takes the method that the checkpoint was trained for.
        seed: of the episodes and the augmentation.
        resume: go on from the last checkpoint in the run folder.
        overwrite: start anew in a folder that holds a run.
        select: keep the weights of the best validation epoch or of the last.
        episodes_per_step: episodes whose gradients are averaged in one step, over all processes.
        data: the pictures
        model: for checkpoints without a card, and to train from random weights
        optim: the training
        episodes: the training episodes
        validation: the validation episodes
        machine: the machine
    """

    run: str = "runs/meta"
    checkpoint: str | None = None
    method: str | None = None
    seed: int = 1
    resume: bool = False
    overwrite: bool = False
    select: Literal["best", "last"] = "best"
    episodes_per_step: int = 1
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-4, milestones=[40, 80]))
    episodes: Episodes = field(default_factory=lambda: Episodes(n_query=16, episodes=1000))
    validation: Validation = field(default_factory=Validation)
    machine: Machine = field(default_factory=Machine)


@dataclass
class SelfDistill:
    """Train generations of students, each taught by the one before (born-again distillation).

    Args:
        run: folder of this run; generation g goes into its sub-folder born<g>.
        checkpoint: pre-trained weights, the teacher of the first generation.
        generations: number of students.
        teacher_classes: outputs of the teacher to learn from; even for the released CUB files, which have 200 outputs
            of which only the even ones were trained.
        teacher_mode: eval, or train as the official script leaves it (dropout on, batch statistics).
        distill_temperature: T of the softened predictions.
        ce_weight: weight of the cross-entropy with the labels.
        kd_weight: weight of the divergence from the teacher.
        seed: of the weights, the order and the augmentation.
        resume: go on from the last checkpoint in the run folder.
        overwrite: start anew in a folder that holds a run.
        data: the pictures
        model: for checkpoints without a card
        optim: the training
        validation: the validation episodes, for the log
        machine: the machine
    """

    run: str = "runs/distill"
    checkpoint: str | None = None
    generations: int = 1
    teacher_classes: Literal["all", "even"] = "all"
    teacher_mode: Literal["eval", "train"] = "eval"
    distill_temperature: float = 4.0
    ce_weight: float = 0.5
    kd_weight: float = 0.5
    seed: int = 1
    resume: bool = False
    overwrite: bool = False
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=lambda: Optim(milestones=[60, 80]))
    validation: Episodes = field(default_factory=Episodes)
    machine: Machine = field(default_factory=Machine)


@dataclass
class Evaluate:
    """Score a checkpoint, or a library network as it is, on test episodes.

    Args:
        run: folder of the results.
        checkpoint: weights to test; null tests the backbone named in model (timm:NAME with its own weights, say).
        method: episode head; null takes the method of the checkpoint.
        solver: of the head: newton or sklearn for logistic regression, exact or sinkhorn for DeepEMD; null takes the
            head's own.
        base: data set of the base classes, whose mean feature SimpleShot takes off (its variant CL2N).
        test: data sets to test on.
        n_way: classes in an episode.
        k_shot: shots to test, one table column each.
        n_query: query pictures of each class.
        episodes: episodes of each test.
        repeats: independent sets of that many episodes.
        drop_small: leave out classes with too few pictures instead of refusing them.
        episode_file: take the episodes of this file, which another test wrote; they win over n_way, k_shot, n_query,
            episodes, seed and kind.
        write_episodes: write the test episodes into episodes/ in the run folder, one file a data set, shot and repeat.
        seed: of the episodes; the same seed gives every method the same episodes.
        size: side of the pictures in pixels; null takes the checkpoint's.
        cache: compute the features of every picture once and keep them on disk, for later tests of these weights too,
            or in memory; none (--no-cache) encodes each episode's pictures again. Accuracies are the same.
        features: folder of the features on disk; null takes features/ in the cache folder (~/.cache/covey).
        feature_dtype: of the features on disk; float16 needs half the room and rounds to three digits.
        pictures: draw episodes, confusion, per-class accuracy and an embedding map.
        skip_broken: leave out files that cannot be read, with their names in a warning.
        download: let torchvision fetch a data set that is absent.
        overwrite: replace results in the folder.
        kind: what the episodes are like beyond their way, shot and queries
        video: how clips are cut, where the checkpoint is of videos; test then names videos, see docs/video_data.md
        model: for checkpoints without a card, and the arguments of the head
        machine: the machine
    """

    run: str = "runs/evaluate"
    checkpoint: str | None = None
    method: str | None = None
    solver: str | None = None
    base: str | None = None
    test: list[str] = field(default_factory=lambda: ["glyphs:greek"])
    n_way: int = 5
    k_shot: list[int] = field(default_factory=lambda: [1, 5])
    n_query: int = 15
    episodes: int = 2000
    repeats: int = 1
    drop_small: bool = False
    episode_file: str | None = None
    write_episodes: bool = False
    seed: int = 0
    size: int | None = None
    cache: Literal["disk", "memory", "none"] = "disk"
    features: str | None = None
    feature_dtype: Literal["float32", "float16"] = "float32"
    pictures: bool = True
    skip_broken: bool = False
    download: bool = False
    overwrite: bool = False
    kind: Kind = field(default_factory=Kind)
    video: View = field(default_factory=View)
    model: Model = field(default_factory=Model)
    machine: Machine = field(default_factory=Machine)


@dataclass
class Compare:
    """Train and test several methods on equal terms: same pictures, same pre-training, same episodes.

    Args:
        run: folder of all results; finished parts in it are kept, so that a killed run goes on where it stood.
        methods: methods to compare, see Model.method.
        seeds: one whole comparison for each; the table pools their episodes.
        train: data set of the base classes.
        val: data set of the validation episodes.
        test: data sets to test on, as NAME=DATASET.
        size: side of the pictures in pixels.
        augment: of the training pictures.
        in_memory: decode every picture once and keep it.
        backbone: see Model.backbone.
        backbone_options: arguments of the backbone.
        reduce_dim: channels that enter the BDC matrix; null keeps the backbone's.
        dropout: before the linear classifier of second-order models.
        n_way: classes in an episode.
        k_shot: shots to train for and to test.
        n_query: query pictures of each class in tests.
        episodes: test episodes of each data set, shot and seed.
        generations: self-distillation generations of the methods without meta-training.
        head: arguments of the heads by method, for instance {stl_deepbdc: {C: 1.0}}.
        pretrain: the pre-training
        meta: the meta-training
        meta_episodes: training episodes per epoch
        validation: the validation episodes
        machine: the machine
    """

    run: str = "runs/demo"
    methods: list[str] = field(default_factory=lambda: ["protonet", "good_embed", "meta_deepbdc", "stl_deepbdc"])
    seeds: list[int] = field(default_factory=lambda: [1])
    train: str = "glyphs:latin?variants=2"
    val: str | None = "glyphs:armenian"
    test: list[str] = field(
        default_factory=lambda: ["Greek=glyphs:greek", "Georgian=glyphs:georgian", "digits=digits?size=32"]
    )
    size: int = 32
    augment: Literal["standard", "light", "none"] = "light"
    in_memory: bool = False
    backbone: str = "conv4"
    backbone_options: dict[str, Any] = field(default_factory=lambda: {"pooled_stages": 3, "input_size": 32})
    reduce_dim: int | None = None
    dropout: float = 0.3
    n_way: int = 5
    k_shot: list[int] = field(default_factory=lambda: [1, 5])
    n_query: int = 15
    episodes: int = 600
    generations: int = 0
    head: dict[str, Any] = field(default_factory=dict)
    pretrain: Optim = field(
        default_factory=lambda: Optim(epochs=3, batch_size=64, temperature_lr=1e-3, schedule="cosine")
    )
    meta: Optim = field(default_factory=lambda: Optim(epochs=2, lr=1e-4, schedule="cosine"))
    meta_episodes: Episodes = field(default_factory=lambda: Episodes(n_query=8, episodes=100))
    validation: Episodes = field(default_factory=lambda: Episodes(episodes=200))
    machine: Machine = field(default_factory=Machine)


@dataclass
class Benchmark:
    """Train on every source, test on every target: a grid of sources, targets, methods, shots, kinds and seeds.

    Args:
        run: folder of all results; what is finished in it is kept, so that a killed run goes on where it stood.
        media: pictures, or videos: sources are pre-trained once and tuned to every target, see docs/benchmark.md.
        sources: NAME: training data set, or NAME: {train: DATASET, val: DATASET}. Of videos also checkpoint: weights
            that are ready.
        targets: NAME: test data set, or NAME: {test: DATASET, val: DATASET, episodes: FOLDER}; where the target has a
            val, its episodes choose the epoch, and the target's models are trained for it alone; episodes are files
            that another benchmark wrote.
        methods: methods to compare, see Model.method.
        k_shot: shots to train for and to test.
        seeds: of weights and episodes; the tables pool their episodes.
        kinds: NAME: options of Kind, see evaluate; every kind is tested for itself. One whose shots vary is tested with
            the models of the largest shot.
        reference: method that the others are compared with, episode by episode; null takes the first.
        n_way: classes in an episode.
        n_query: query pictures of each class in tests.
        episodes: test episodes of each target, shot, kind and seed; the same for every source and method.
        write_episodes: write the test episodes into episodes/TARGET in the run folder, for other papers and programs.
        drop_small: leave out classes with too few pictures instead of refusing them.
        size: side of the pictures in pixels.
        augment: of the training pictures.
        in_memory: decode every picture once and keep it.
        workers: loader processes of a training.
        skip_broken: leave out files that cannot be read, with their names in a warning.
        download: let torchvision fetch a data set that is absent.
        backbone: see Model.backbone.
        backbone_options: arguments of the backbone.
        reduce_dim: channels that enter the BDC matrix; null keeps the backbone's.
        dropout: before the linear classifier of second-order models.
        select: keep the weights of the best validation epoch or of the last.
        generations: self-distillation generations of the methods without meta-training.
        episodes_per_step: of the meta-training, see meta_train; at least as many as machine.devices.
        head: arguments of the heads by method, for instance {stl_deepbdc: {C: 1.0}}.
        per_method: options that differ for a method: reduce_dim, dropout, select, generations, episodes_per_step,
            pretrain, meta, for instance {stl_deepbdc: {reduce_dim: 128, pretrain: {epochs: 90}}}. Methods of the same
            pooling and options share a pre-training.
        pretrain: the pre-training
        meta: the meta-training
        meta_episodes: training episodes per epoch
        validation: the validation episodes
        cache: features of a target in memory, or on disk in the run folder.
        feature_dtype: of the features on disk.
        engine: local (one process, one job after the other) or ray (jobs on a Ray cluster, with the same results).
        address: of a running Ray cluster: HOST:PORT, ray://HOST:PORT, or auto for the one that was started last on this
            machine; null starts one.
        cpus_per_job: CPU threads of every process of a job, in both engines, unless machine.threads says otherwise.
        gpus_per_job: GPUs that Ray gives a job; null takes machine.devices where the cluster has GPUs.
        dry_run: print what would run, and stop.
        video: of a benchmark of videos
        machine: the machine of one job
    """

    run: str = "runs/benchmark"
    media: Literal["pictures", "videos"] = "pictures"
    sources: dict[str, Any] = field(
        default_factory=lambda: {
            "Cyrillic": {"train": "glyphs:cyrillic", "val": "glyphs:armenian"},
            "Georgian": {"train": "glyphs:georgian", "val": "glyphs:armenian"},
        }
    )
    targets: dict[str, Any] = field(
        default_factory=lambda: {
            "Greek": "glyphs:greek",
            "Latin": "glyphs:latin?by=mod5&split=test",
            "Digits": "digits?size=32",
        }
    )
    methods: list[str] = field(default_factory=lambda: ["protonet", "good_embed", "meta_deepbdc", "stl_deepbdc"])
    k_shot: list[int] = field(default_factory=lambda: [1, 5])
    seeds: list[int] = field(default_factory=lambda: [1])
    kinds: dict[str, Any] = field(default_factory=lambda: {"standard": {}})
    reference: str | None = None
    n_way: int = 5
    n_query: int = 15
    episodes: int = 600
    write_episodes: bool = False
    drop_small: bool = False
    size: int = 32
    augment: Literal["standard", "light", "none"] = "light"
    in_memory: bool = False
    workers: int = 0
    skip_broken: bool = False
    download: bool = False
    backbone: str = "conv4"
    backbone_options: dict[str, Any] = field(default_factory=lambda: {"pooled_stages": 3, "input_size": 32})
    reduce_dim: int | None = None
    dropout: float = 0.3
    select: Literal["best", "last"] = "best"
    generations: int = 0
    episodes_per_step: int = 1
    head: dict[str, Any] = field(default_factory=dict)
    per_method: dict[str, Any] = field(default_factory=dict)
    pretrain: Optim = field(
        default_factory=lambda: Optim(epochs=4, batch_size=64, temperature_lr=1e-3, schedule="cosine")
    )
    meta: Optim = field(default_factory=lambda: Optim(epochs=1, lr=1e-4, schedule="cosine"))
    meta_episodes: Episodes = field(default_factory=lambda: Episodes(n_query=8, episodes=60))
    validation: Episodes = field(default_factory=lambda: Episodes(episodes=200))
    cache: Literal["memory", "disk"] = "memory"
    feature_dtype: Literal["float32", "float16"] = "float32"
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    cpus_per_job: int = 1
    gpus_per_job: float | None = None
    dry_run: bool = False
    video: VideoGrid = field(default_factory=VideoGrid)
    machine: Machine = field(default_factory=Machine)
