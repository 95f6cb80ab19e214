"""What an optimiser trains, in groups with rates and decays of their own, and what stays frozen."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from backbones.errors import UserError

CLASSIFIER = ("classifier.", "head.")


def freeze_start(network: nn.Module, count: int | str) -> None:
    """Stop training of the backbone, or of the first `count` of its layers that have weights.

    Gradients go; running statistics of batch norms still move, as in the published fine-tuning (MPN-COV, section 11).
    Raises UserError where the backbone has no such number of layers.
    """
    layers = [module for module in network.backbone.modules() if any(True for _ in module.parameters(recurse=False))]
    if count != "backbone" and not str(count).isdecimal():
        raise UserError(f"network.frozen is {count!r}: give backbone, or how many of its first layers do not train")
    wanted = len(layers) if count == "backbone" else int(count)
    if wanted > len(layers):
        raise UserError(f"network.frozen is {count}, but the backbone has {len(layers)} layers with weights")
    for layer in layers[:wanted]:
        layer.requires_grad_(False)


def make_groups(
    network: nn.Module,
    lr: float,
    weight_decay: float,
    classifier_factor: float = 1.0,
    classifier_decay: float | None = None,
    decay_vectors: bool = True,
) -> list[dict]:
    """Return optimiser groups of a network: backbone and representation, classifier, and those without decay.

    classifier_factor: rate of the classifier over that of the rest. classifier_decay: None: as the rest.
    decay_vectors: False leaves biases, norms and all other vectors without decay (timm's rule).
    Raises UserError where nothing is left to train.
    """
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in trained(network):
        last = name.startswith(CLASSIFIER)
        decay = classifier_decay if last and classifier_decay is not None else weight_decay
        if not decay_vectors and parameter.dim() <= 1:
            decay = 0.0
        factor = classifier_factor if last else 1.0
        group = groups.setdefault((factor, decay), {"params": [], "lr": lr * factor, "weight_decay": decay})
        group["params"].append(parameter)
    if not groups:
        raise UserError("nothing to train: every parameter of the network is frozen")
    return sorted(groups.values(), key=lambda group: group["lr"])  # the log tells the rate of the first one


def trained(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that are trained, with their names."""
    return ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)


def make_optimizer(
    name: str, groups: list[dict], lr: float, momentum: float = 0.9, nesterov: bool = False, beta2: float = 0.999
) -> torch.optim.Optimizer:
    """Build sgd or adamw over groups; raises UserError for another name."""
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, beta2))
    raise UserError(f"optimizer '{name}' is unknown: use sgd or adamw")
