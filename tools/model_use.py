"""The model that `predict` and `export` work with: a checkpoint's, or a library network with its own weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from backbones import UserError
from fewshot.card import Loaded
from tools import session
from tools.groups import Machine

LIBRARY_METHOD = "good_embed"  # needs no training of ours, and does well on features that were trained on many classes


def one_device(machine: Machine, **changes: str) -> Machine:
    """Return the machine options, with changes, for one device; raises UserError where several are asked for."""
    if str(machine.devices) not in ("1", "auto") or machine.num_nodes != 1:
        raise UserError("this script works on one device: leave --machine.devices and --machine.num_nodes at 1")
    return replace(machine, devices=1, **changes)


def read_model(config, say: Callable[[str], None]) -> Loaded:
    """Read the model of a script's options; raises UserError rather than working with random weights unasked."""
    model, method = config.model, config.method
    if config.checkpoint is None and model.weights is None:
        if ":" not in model.backbone:
            raise UserError(
                "no weights are given: name --checkpoint FILE, or a library network with its own, "
                "such as --backbone timm:resnet18"
            )
        method = method or LIBRARY_METHOD
        model = replace(model, method=method, backbone_options={"pretrained": True, **model.backbone_options})
    return session.read_model(config.checkpoint, model, config.size, say, method)
