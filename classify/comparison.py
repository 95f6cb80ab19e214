"""Networks trained alike and tested on the same pictures: which is ahead, by how much, and what it costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classify.mixing import single
from episodes.metrics import mean_and_interval, paired_difference


@dataclass
class Rival:
    """A network of a comparison and what became of it.

    right (S, N): for each of S seeds, whether each of N test pictures was classified rightly.
    against: name of the network that it is compared with. parameters, multiply_adds: of the whole network.
    rate: learning rate; tried: rate -> validation accuracy of those that it was chosen from.
    seconds: of one training, mean over the seeds. step_s: of one training step, median; None where it was not timed.
    """

    name: str
    right: np.ndarray
    against: str
    parameters: int
    multiply_adds: int
    rate: float
    tried: dict[float, float] = field(default_factory=dict)
    seconds: float = 0.0
    step_s: float | None = None

    @property
    def accuracy(self) -> tuple[float, float]:
        """Mean over seeds and pictures, and the half-width of its 95 % interval over pictures."""
        return mean_and_interval(self.right.mean(0))

    @property
    def by_seed(self) -> list[float]:
        """Accuracy of every seed."""
        return self.right.mean(1).tolist()

    @property
    def spread(self) -> float:
        """Standard deviation of the accuracy over the seeds; 0 for one."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.right) > 1 else 0.0

    def ahead_of(self, other: Rival) -> tuple[float, float, list[float]]:
        """Return the mean difference on the same pictures, its 95 % half-width over pictures, and that of every seed.

        The seeds of a picture are averaged first: they are no further pictures.
        """
        mean, width = paired_difference(self.right.mean(0), other.right.mean(0))
        return mean, width, [a - b for a, b in zip(self.by_seed, other.by_seed, strict=True)]


def train_step(network: nn.Module, images: Tensor, labels: Tensor, lr: float = 1e-6) -> Callable[[], None]:
    """Return a step of training (forward, cross-entropy, backward, SGD) as a call; the rate is too small to matter."""
    optimizer = torch.optim.SGD(network.parameters(), lr, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(single(network(images)), labels).backward()
        optimizer.step()
        if images.is_cuda:
            torch.cuda.synchronize()

    return step


def time_in_turns(
    steps: Mapping[str, Callable[[], None]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the median seconds of each call; all are called in turns, so that other load meets all of them.

    Each is called twice before, to warm up. The order turns round with every repeat.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in (*steps.values(), *steps.values()):
        step()
    for repeat in range(repeats):
        for name in steps if repeat % 2 == 0 else reversed(steps):
            started = clock()
            steps[name]()
            seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def summary(rivals: Sequence[Rival]) -> dict[str, dict]:
    """Return name -> figures for `metrics.json`; accuracies are fractions."""
    by_name, found = {rival.name: rival for rival in rivals}, {}
    for rival in rivals:
        mean, width = rival.accuracy
        found[rival.name] = {
            "accuracy": mean,
            "interval": width,
            "by_seed": rival.by_seed,
            "spread": rival.spread,
            "parameters": rival.parameters,
            "multiply_adds": rival.multiply_adds,
            "rate": rival.rate,
            "tried": {f"{rate:g}": value for rate, value in rival.tried.items()},
            "seconds": rival.seconds,
            "step_seconds": rival.step_s,
        }
        if rival.against != rival.name:
            mean, width, seeds = rival.ahead_of(by_name[rival.against])
            found[rival.name]["ahead"] = {
                "of": rival.against, "mean": mean, "interval": width, "by_seed": seeds
            }  # fmt: skip
    return found
