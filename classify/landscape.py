"""Loss landscape, gradient predictiveness and smoothness along the gradient of a feature map.

The variable is the map y that enters the second part of a network, neither weights nor images: from y one goes along
its loss gradient g, y + eta g, and looks at loss and gradient there (Wang et al., CVPR 2020, after Santurkar et al.,
NeurIPS 2018). The sign is as published: uphill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Steps of the study: lower end, upper end, number.
RANGES = {"resnet": (0.1, 75.0, 50), "mobilenet": (0.045, 1.5, 50)}


@dataclass(frozen=True)
class Landscape:
    """What one probe saw.

    step: of the training, counted from 0. loss, gradient_norm: at y itself. etas: the step lengths.
    losses: at y + eta g. distances: L2 distance of the gradient there from g, over the whole batch.
    """

    step: int
    loss: float
    gradient_norm: float
    etas: tuple[float, ...]
    losses: tuple[float, ...]
    distances: tuple[float, ...]

    @property
    def loss_band(self) -> tuple[float, float]:
        """Return the smallest and the largest loss ("loss landscape")."""
        return min(self.losses), max(self.losses)

    @property
    def distance_band(self) -> tuple[float, float]:
        """Return the smallest and the largest distance ("gradient predictiveness")."""
        return min(self.distances), max(self.distances)

    @property
    def smoothness(self) -> float:
        """Return the effective beta-smoothness: max over eta of distance / (eta |g|); 0 where g is zero."""
        if self.gradient_norm == 0:
            return 0.0
        return max(d / (eta * self.gradient_norm) for d, eta in zip(self.distances, self.etas, strict=True))

    def record(self) -> dict:
        """Return everything as plain values, for a line of JSON."""
        low, high = self.loss_band, self.distance_band
        return {**asdict(self), "loss_band": list(low), "distance_band": list(high), "smoothness": self.smoothness}


def evenly_spaced(low: float, high: float, count: int) -> list[float]:
    """Return `count` step lengths from low to high.

    Raises ValueError unless 0 < low <= high and count is at least 2 (1 where low = high).
    """
    if not 0 < low <= high or count < 1 or (count == 1 and low != high):
        raise ValueError(f"step lengths [{low}, {high}, {count}] are no range: give 0 < low < high, and at least 2")
    return [low + i * (high - low) / max(count - 1, 1) for i in range(count)]


def probe(
    tail: Callable[[Tensor], Tensor], y: Tensor, targets: Tensor, etas: Sequence[float], step: int = 0
) -> Landscape:
    """Walk from y along its loss gradient.

    tail: map y -> logits (B, K), in the mode that it is to be measured in. targets: (B,) classes.
    The loss is the cross entropy averaged over the batch, so g has the factor 1/B. Gradients of parameters are neither
    made nor touched; batch statistics move as in any pass: see `undisturbed`.
    """

    def look(point: Tensor) -> tuple[Tensor, Tensor]:
        point = point.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(tail(point).to(torch.promote_types(y.dtype, torch.float32)), targets)
            (gradient,) = torch.autograd.grad(loss, point)
        return loss.detach(), gradient

    y = y.detach()
    loss, g = look(y)
    losses, distances = [], []
    for eta in etas:
        there, gradient = look(torch.add(y, g, alpha=eta))
        losses.append(there)
        distances.append(torch.linalg.vector_norm(gradient - g))
    numbers = torch.stack([loss, torch.linalg.vector_norm(g).to(loss), *losses, *(d.to(loss) for d in distances)])
    found = numbers.double().tolist()  # one wait for the device, not a hundred
    n = len(losses)
    return Landscape(step, found[0], found[1], tuple(etas), tuple(found[2 : 2 + n]), tuple(found[2 + n :]))


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Put everything back that passes through the modules change: buffers, modes and all random states."""
    kept = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    devices = {buffer.device for module in modules for buffer in (*module.parameters(), *module.buffers())}
    cards = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(devices=cards):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)
            for part, training in modes:
                part.training = training


def probe_network(
    stem: Callable[[Tensor], Tensor],
    tail: Callable[[Tensor], Tensor],
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    etas: Sequence[float],
    step: int = 0,
    batch_norm: str = "train",
) -> Landscape:
    """Probe a network in training on one batch and leave it, and the random states, as they were.

    stem, tail: the two parts of the network, from `backbones.parts.split`.
    batch_norm: "train", statistics of the batch as in the study, or "eval", the running ones. Dropout is off.
    Raises ValueError for another mode.
    """
    if batch_norm not in ("train", "eval"):
        raise ValueError(f"batch_norm is '{batch_norm}': use 'train' or 'eval'")
    with undisturbed(network):
        network.eval()
        if batch_norm == "train":
            for part in network.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.train()
        with torch.no_grad():
            y = stem(images)
        return probe(tail, y, targets, etas, step)
