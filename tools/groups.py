"""The groups of options that several scripts share. No heavy import here, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Data:
    """Pictures to train on and to validate with.

    Args:
        train: data set, for instance path/to/folder, glyphs:latin or pack.zip?by=mod5&split=train.
        val: data set of the validation episodes; null trains without validation.
        size: side of the pictures in pixels; null takes the backbone's own.
        augment: standard (crop, flip, colour), light (small turns and shifts, for characters) or none.
        in_memory: decode every picture once and keep it, for sets that fit.
        workers: loader processes; they change the speed and nothing else.
        skip_broken: leave out files that cannot be read, with their names in a warning.
        download: let torchvision fetch a data set that is absent.
    """

    train: str = "glyphs:latin"
    val: str | None = None
    size: int | None = None
    augment: Literal["standard", "light", "none"] = "standard"
    in_memory: bool = False
    workers: int = 0
    skip_broken: bool = False
    download: bool = False


@dataclass
class Model:
    """What is trained.

    Args:
        method: protonet, good_embed, meta_deepbdc, stl_deepbdc, meta_baseline, covnet, adm, frn, deepemd, covamnet,
            matching_net, relation_net, maml, maml_bdc, maml_transductive, anil, anil_bdc, simpleshot, baseline,
            baseline_pp, soft_kmeans, semi_soft_kmeans, semi_soft_kmeans_transductive, bd_cspn or tim.
        backbone: conv4, resnet12, resnet18, ... or timm:NAME or torchvision:NAME.
        backbone_options: arguments of the backbone, for instance {width: 32, pooled_stages: 3}.
        reduce_dim: channels that enter the BDC matrix; null keeps the backbone's.
        activation: after the reduction, relu or leaky_relu.
        dropout: before the linear classifier.
        weights: checkpoint to start from; null starts from random weights.
        frozen: keep the backbone as it is and train the rest.
        head: arguments of the episode head, for instance {C: 1.0}.
    """

    method: str = "meta_deepbdc"
    backbone: str = "resnet12"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    reduce_dim: int | None = None
    activation: Literal["relu", "leaky_relu"] = "relu"
    dropout: float = 0.0
    weights: str | None = None
    frozen: bool = False
    head: dict[str, Any] = field(default_factory=dict)


@dataclass
class Optim:
    """How it is trained.

    Args:
        epochs: passes over the data (or over the training episodes).
        batch_size: pictures a step in pre-training, over all processes.
        name: sgd, adam or adamw.
        lr: learning rate.
        temperature_lr: rate of the BDC temperature; null trains it like the rest.
        weight_decay: on all parameters.
        momentum: of SGD.
        nesterov: of SGD.
        schedule: multistep, cosine or constant, stepped after every epoch.
        milestones: epochs after which multistep multiplies the rate by gamma.
        gamma: factor of multistep.
        clip_norm: largest gradient norm; null does not clip.
        accumulate: steps whose gradients are averaged before the weights move.
        save_steps: also write the resume checkpoint every so many steps; 0 writes it after each epoch only.
    """

    epochs: int = 100
    batch_size: int = 64
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.05
    temperature_lr: float | None = None
    weight_decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    clip_norm: float | None = None
    accumulate: int = 1
    save_steps: int = 0


@dataclass
class Episodes:
    """Size and number of episodes.

    Args:
        n_way: classes in an episode.
        k_shot: support pictures of each class.
        n_query: query pictures of each class.
        episodes: number of episodes, in training per epoch.
        drop_small: leave out classes with too few pictures instead of refusing them.
        unlabelled: unlabelled pictures of each class, for semi-supervised methods.
        distractor_ways: further classes that unlabelled pictures are of.
        distractors: unlabelled pictures of each of those.
    """

    n_way: int = 5
    k_shot: int = 1
    n_query: int = 15
    episodes: int = 600
    drop_small: bool = False
    unlabelled: int = 0
    distractor_ways: int = 0
    distractors: int = 0


@dataclass
class Validation:
    """Size and number of validation episodes; what is not named is as in the training episodes.

    Args:
        n_way: classes in an episode; null takes the training's.
        k_shot: support pictures of each class; null takes the training's.
        n_query: query pictures of each class; null takes the training's.
        episodes: number of episodes; the same ones every epoch.
        drop_small: leave out classes with too few pictures instead of refusing them.
    """

    n_way: int | None = None
    k_shot: int | None = None
    n_query: int | None = None
    episodes: int = 600
    drop_small: bool = False


def like_training(validation: Validation | Episodes, training: Episodes) -> Episodes:
    """Give validation episodes the sizes of the training episodes where they name none."""
    return Episodes(
        validation.n_way or training.n_way,
        validation.k_shot or training.k_shot,
        validation.n_query or training.n_query,
        validation.episodes,
        validation.drop_small,
        training.unlabelled,
        training.distractor_ways,
        training.distractors,
    )


@dataclass
class Kind:
    """What test episodes are like beyond n_way, k_shot and n_query; the defaults change nothing.

    Args:
        sizes: fixed (n_way, k_shot, n_query), meta_dataset (way, shots and queries drawn anew for every episode by the
            published rule) or imbalanced (shots, queries or both differ between the classes). Where the shots vary, a
            head that depends on the shot is built for the largest k_shot.
        shots: fewest and most supports of a class in imbalanced episodes; null gives each class k_shot.
        query_alpha: concentration of the Dirichlet law that shares the n_way * n_query queries of an imbalanced episode
            among its classes (2 in the paper); null gives each class n_query.
        max_way: classes in a meta_dataset episode, at most; unknown and distractor classes come on top of them.
        unknown_ways: open-set episodes: classes whose queries belong to none of the episode's classes.
        unknown_queries: queries of each of them; null takes n_query.
        open_score: by which a head tells known from unknown queries: probability (the largest) or logit.
        unlabelled: semi-supervised episodes: unlabelled pictures of each class; a class that an episode of variable
            sizes has nearly used up gives what is left.
        distractor_ways: further classes that unlabelled pictures are of.
        distractors: unlabelled pictures of each of those; null takes unlabelled.
    """

    sizes: Literal["fixed", "meta_dataset", "imbalanced"] = "fixed"
    shots: list[int] | None = None
    query_alpha: float | None = None
    max_way: int = 50
    unknown_ways: int = 0
    unknown_queries: int | None = None
    open_score: Literal["probability", "logit"] = "probability"
    unlabelled: int = 0
    distractor_ways: int = 0
    distractors: int | None = None


@dataclass
class Machine:
    """Where it runs.

    Args:
        accelerator: auto, cpu, cuda or mps.
        devices: number of devices on each node, or auto; one process a device. torchrun and srun name it themselves.
        num_nodes: nodes of the job; torchrun and srun name it themselves.
        precision: 32-true, bf16-mixed or 16-mixed; second-order statistics stay in 32 bit.
        threads: CPU threads of each process; null shares the cores out (torchrun: OMP_NUM_THREADS, else one).
        timeout_minutes: how long processes wait for each other before the run ends.
        sync_batchnorm: batch statistics over all processes instead of each one's own (GPUs alone).
        channels_last: keep maps in the layout that convolutions are fastest in.
        deterministic: ask the GPU libraries for repeatable algorithms.
    """

    accelerator: str = "auto"
    devices: str | int = 1
    num_nodes: int = 1
    precision: str = "32-true"
    threads: int | None = None
    timeout_minutes: float = 10.0
    sync_batchnorm: bool = False
    channels_last: bool = True
    deterministic: bool = True
