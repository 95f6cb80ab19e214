"""The options of `tools.classify compare`. No heavy import here, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tools.classify_config import ClassData, ClassOptim, Network, Regular
from tools.groups import Machine


@dataclass
class ClassifyCompare:
    """Train several networks alike, with several seeds, and say which is ahead: accuracy, size, time of a step.

    Args:
        run: folder of the comparison; the trainings lie in it.
        resume: go on with a comparison: what is trained is kept.
        overwrite: start anew in a folder that holds one.
        networks: name -> how it differs from the options below, for instance {GAP: {network: {pool: gap}}, iSQRT:
            {network: {pool: isqrt}}}; groups are network, optim and regular. With rates, a list of learning rates, the
            best on the validation pictures is taken, with the first seed; against names what it is compared with.
        against: network that the others are compared with; null: the first.
        seeds: of weights, order and augmentation; each trains all networks once.
        test: pictures to test on, of the classes of the training; null: the validation's.
        select: keep the weights of the last epoch or of the best validation epoch.
        timed_steps: training steps of each network that are timed, in turns; 0 times none.
        data: the pictures
        network: what the networks have in common
        optim: the training
        regular: mixing, smoothing, averaging
        machine: the machine
    """

    run: str = "runs/classify_compare"
    resume: bool = False
    overwrite: bool = False
    networks: dict[str, Any] = field(default_factory=dict)
    against: str | None = None
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    test: str | None = None
    select: Literal["last", "best"] = "last"
    timed_steps: int = 10
    data: ClassData = field(default_factory=ClassData)
    network: Network = field(default_factory=Network)
    optim: ClassOptim = field(default_factory=ClassOptim)
    regular: Regular = field(default_factory=Regular)
    machine: Machine = field(default_factory=Machine)


@dataclass
class ClassifyNetworks:
    """List the published networks, with their parameters, and their multiply-adds beside those of average pooling.

    Args:
        pattern: names to list, with * for anything.
        costs: count multiply-adds too, which builds and runs each network once.
        size: side of the pictures in pixels; null takes each network's own.
        num_classes: classes that they tell apart.
    """

    pattern: str = "*"
    costs: bool = False
    size: int | None = None
    num_classes: int = 1000
