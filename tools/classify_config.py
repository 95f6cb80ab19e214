"""The options of `tools.classify`. No heavy import here, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tools.groups import Machine

Schedule = Literal["step", "exponential", "log", "linear", "cosine", "constant", "LRnorm", "LRfast", "LRadju"]


@dataclass
class ClassData:
    """Pictures to train on and to validate with.

    Args:
        train: data set: a folder of class folders, torchvision:CIFAR100?split=train, shards/train-{0000..1281}.tar, ...
        val: data set of the same classes; null trains without validation.
        size: side of the pictures in pixels; null takes the network's own.
        resize: shorter side before the centre crop of tests; null takes size / 0.875.
        squash: resize to a square, without keeping the aspect.
        interpolation: bilinear, bicubic, or random (either, in training; bicubic in tests).
        augment: imagenet (random resized crop), centre (as in tests), pad (an eighth more on every side, random crop),
            each with flip; standard or light, those of the few-shot scripts, fast for small pictures in memory; none.
        flip: probability of a mirror image.
        scale: smallest and largest share of the area that a random resized crop takes.
        ratio: smallest and largest width over height of it.
        colour: strength of colour jitter.
        randaug: RandAugment in timm's words, for instance rand-m9-mstd0.5-inc1; then there is no colour jitter.
        erasing: probability of a rectangle of noise.
        streams: of shards: how many parts of them are read side by side; null takes the number of processes. Batches
            are the same for any number of processes that divides it.
        window: of shards: pictures that are shuffled at a time, beside the shards' own order.
        in_memory: decode every picture once and keep it, for sets that fit.
        workers: loader processes; they change the speed and nothing else.
        skip_broken: leave out files that cannot be read, with their names in a warning.
        download: let torchvision fetch a data set that is absent.
    """

    train: str = "digits"
    val: str | None = None
    size: int | None = None
    resize: int | None = None
    squash: bool = False
    interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"
    augment: Literal["imagenet", "centre", "pad", "standard", "light", "none"] = "imagenet"
    flip: float = 0.5
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [0.75, 4 / 3])
    colour: float = 0.0
    randaug: str | None = None
    erasing: float = 0.0
    streams: int | None = None
    window: int = 10000
    in_memory: bool = False
    workers: int = 0
    skip_broken: bool = False
    download: bool = False


@dataclass
class Network:
    """What is trained or tested.

    Args:
        name: a published network (mpncov_resnet50, gsop_net2_resnet50, eca_resnet50, so_vit_7, sot_tiny, gcp_resnet18,
            ...), or with pool any backbone (resnet12, timm:resnet50, torchvision:vgg16_bn, ...).
        pool: gap, isqrt, mpn, covariance, gaussian, bilinear, compact_bilinear or bdc; or a head over tokens: so_vit,
            sot or class_token; null: as published.
        options: arguments of the published network or of the backbone, for instance {pretrained: true}.
        pool_options: arguments of the pooling or head, for instance {iterations: 5, order: row}.
        last_stride: 1 keeps the last map twice as large; null as it is.
        reduction: channels after a 1x1 convolution before the pooling, or several, one after the other.
        dropout: before the classifier.
        weights: checkpoint to start from, of covey or as published; its classifier is taken where the classes are the
            same, its pooling where it has it.
        averaged: take the moving average from a checkpoint that holds weights and their average.
        order: of the triangles that the checkpoint's classifier was trained on; null: what it shows.
        iterations: Newton-Schulz steps that the checkpoint was trained with; null: what it shows.
        frozen: backbone, or a number: its first layers with weights do not train.
    """

    name: str = "gcp_resnet18"
    pool: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    pool_options: dict[str, Any] = field(default_factory=dict)
    last_stride: int | None = None
    reduction: int | list[int] | None = None
    dropout: float = 0.0
    weights: str | None = None
    averaged: bool = False
    order: Literal["row", "column"] | None = None
    iterations: int | None = None
    frozen: str | int | None = None


@dataclass
class ClassOptim:
    """How it is trained.

    Args:
        epochs: passes over the pictures.
        batch_size: pictures a step, over all processes.
        name: sgd or adamw.
        lr: learning rate.
        classifier_factor: rate of the classifier over that of the rest.
        weight_decay: of everything trained.
        classifier_decay: of the classifier; null as the rest.
        decay_vectors: false leaves biases, norms and other vectors without decay.
        momentum: of SGD.
        nesterov: of SGD.
        beta2: of AdamW.
        schedule: step (gamma at milestones), exponential (gamma every epoch), log (between powers of ten), linear (to
            0, in every step), cosine, constant, or of the study for a family: LRnorm, LRfast or LRadju.
        milestones: epochs from which on step multiplies the rate by gamma.
        gamma: factor of step and exponential.
        log: exponents of ten of the first and the last rate of log.
        family: resnet, mobilenet or shufflenet, of the study's schedules.
        final_lr: at the end of cosine.
        warmup_epochs: of a linear rise from warmup_lr, in the place of the schedule's first epochs.
        warmup_lr: first rate of it.
        cooldown_epochs: last epochs of cosine, at final_lr.
        clip_norm: largest gradient norm; null does not clip.
        accumulate: steps whose gradients are averaged before the weights move.
        save_steps: also write the resume checkpoint every so many steps; 0 writes it after each epoch only.
    """

    epochs: int = 100
    batch_size: int = 256
    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    classifier_factor: float = 1.0
    weight_decay: float = 1e-4
    classifier_decay: float | None = None
    decay_vectors: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    beta2: float = 0.999
    schedule: Schedule = "step"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    log: list[float] = field(default_factory=list)
    family: Literal["resnet", "mobilenet", "shufflenet"] = "resnet"
    final_lr: float = 0.0
    warmup_epochs: int = 0
    warmup_lr: float = 0.0
    cooldown_epochs: int = 0
    clip_norm: float | None = None
    accumulate: int = 1
    save_steps: int = 0


@dataclass
class Regular:
    """What keeps a network from learning its pictures by heart, besides their augmentation.

    Args:
        mixup: alpha of mixup; 0 leaves it out.
        cutmix: alpha of CutMix; 0 leaves it out.
        mix_share: probability of a step to be mixed.
        cutmix_share: probability of CutMix rather than mixup, where both are on.
        label_smoothing: share of the target that all classes have alike.
        average: decay of a moving average of the weights, which is then validated and kept; null keeps none.
        average_warmup: shorten the memory of the average in the beginning.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    mix_share: float = 1.0
    cutmix_share: float = 0.5
    label_smoothing: float = 0.0
    average: float | None = None
    average_warmup: bool = True


@dataclass
class Probe:
    """Loss landscape and gradient predictiveness, recorded during training without changing it: landscapes.jsonl.

    Args:
        every: steps between probes, counted anew in every epoch; 0 leaves them out. Published: 500 (MobileNetV2: 1000).
        where: last part before the map that is probed: stem, layer1, ... (published: stem).
        low: smallest step along the gradient; null as published, 0.1 (MobileNetV2 0.045).
        high: largest one; null as published, 75 (MobileNetV2 1.5).
        count: steps, evenly spaced.
        batch_norm: train, with the statistics of the batch, as published, or eval.
    """

    every: int = 0
    where: str = "stem"
    low: float | None = None
    high: float | None = None
    count: int = 50
    batch_norm: Literal["train", "eval"] = "train"


@dataclass
class ClassifyTrain:
    """Train a classification network on pictures.

    Args:
        run: folder of this run.
        seed: of the weights, the order and the augmentation.
        resume: go on from the last checkpoint in the run folder.
        overwrite: start anew in a folder that holds a run.
        select: keep the weights of the best validation epoch or of the last.
        validate_from: epochs before the first validation.
        compile: let torch.compile make the network faster, by inductor (needs a C++ compiler) or another backend.
        pictures: draw training pictures and the confusion of the validation.
        data: the pictures
        network: the network
        optim: the training
        regular: mixing, smoothing, averaging
        probe: the study's landscapes
        machine: the machine
    """

    run: str = "runs/classify"
    seed: int = 1
    resume: bool = False
    overwrite: bool = False
    select: Literal["best", "last"] = "best"
    validate_from: int = 0
    compile: Literal["inductor", "aot_eager", "eager"] | None = None
    pictures: bool = True
    data: ClassData = field(default_factory=ClassData)
    network: Network = field(default_factory=Network)
    optim: ClassOptim = field(default_factory=ClassOptim)
    regular: Regular = field(default_factory=Regular)
    probe: Probe = field(default_factory=Probe)
    machine: Machine = field(default_factory=Machine)


@dataclass
class TestData:
    """Pictures to test on; what is null is as in the training of the checkpoint.

    Args:
        test: data set with the classes of the training.
        views: centre, mirror (the crop and its mirror image) or ten (corners, centre and their mirror images), whose
            logits are averaged.
        size: side of the pictures in pixels.
        resize: shorter side before the crop.
        squash: resize to a square, without keeping the aspect.
        interpolation: bilinear or bicubic.
        batch_size: pictures at a time, of each process.
        workers: loader processes; they change the speed and nothing else.
        in_memory: decode every picture once and keep it.
        skip_broken: leave out files that cannot be read, with their names in a warning.
        download: let torchvision fetch a data set that is absent.
    """

    __test__ = False  # it is no test case, whatever its name begins with

    test: str | None = None
    views: Literal["centre", "mirror", "ten"] = "centre"
    size: int | None = None
    resize: int | None = None
    squash: bool | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    batch_size: int = 64
    workers: int = 0
    in_memory: bool = False
    skip_broken: bool = False
    download: bool = False


@dataclass
class ClassifyEval:
    """Test a classification network: top-1 and top-5 with intervals, confusion, and what it said of every picture.

    Args:
        run: folder of this test.
        checkpoint: weights of covey, or a published file, whose network must then be named.
        seed: of random weights, where no checkpoint is given.
        overwrite: replace an earlier test in the folder.
        pictures: draw the confusion.
        data: the pictures
        network: for files without a card
        machine: the machine
    """

    run: str = "runs/classify_eval"
    checkpoint: str | None = None
    seed: int = 1
    overwrite: bool = False
    pictures: bool = True
    data: TestData = field(default_factory=TestData)
    network: Network = field(default_factory=Network)
    machine: Machine = field(default_factory=Machine)


@dataclass
class ClassifyPredict:
    """Name the class of pictures, with a heat map of what spoke for it.

    Args:
        run: folder of the answers.
        checkpoint: weights of covey, or a published file, whose network must then be named.
        query: pictures, or folders of them.
        top: classes that are named for each picture.
        class_names: text file with one class name a line, for files without a card.
        size: side of the pictures in pixels; null as in the training.
        heat: pictures with a heat map at most; 0 draws none.
        batch_size: pictures at a time.
        skip_broken: leave out files that cannot be read, with their names in a warning.
        seed: of random weights, where no checkpoint is given.
        overwrite: replace earlier answers in the folder.
        network: for files without a card
        machine: the machine
    """

    run: str = "runs/classify_predict"
    checkpoint: str | None = None
    query: list[str] = field(default_factory=list)
    top: int = 5
    class_names: str | None = None
    size: int | None = None
    heat: int = 64
    batch_size: int = 32
    skip_broken: bool = False
    seed: int = 1
    overwrite: bool = False
    network: Network = field(default_factory=Network)
    machine: Machine = field(default_factory=Machine)


@dataclass
class ClassifyShards:
    """Pack a data set into WebDataset shards: tar files that hold pictures and their labels one after the other.

    Args:
        data: data set, for instance a folder of class folders.
        out: folder of the shards, which are named NAME-000000.tar and so on.
        name: first part of their names.
        per_shard: pictures in each.
        size: shrink pictures to this shorter side; null copies files as they are.
        quality: of JPEG, where pictures are written anew.
        seed: of the order, in which classes are mixed.
        skip_broken: leave out files that cannot be read, with their names in a warning.
        download: let torchvision fetch a data set that is absent.
        overwrite: replace shards of the same name.
    """

    data: str = "digits"
    out: str = "shards"
    name: str = "train"
    per_shard: int = 1000
    size: int | None = None
    quality: int = 95
    seed: int = 1
    skip_broken: bool = False
    download: bool = False
    overwrite: bool = False
