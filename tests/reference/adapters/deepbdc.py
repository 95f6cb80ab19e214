"""DeepBDC: one function per kind of `deepbdc.json`, built from the arguments in the entry."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from backbones import create_backbone
from backbones.dropblock import block_mask, drop_blocks
from episodes.metrics import mean_and_interval
from episodes.transforms import eval_transform
from moments import BDC
from tests.reference.adapters.deepbdc_heads import HEAD_KINDS
from tests.reference.adapters.deepbdc_models import (
    BACKBONES,
    MODEL_KINDS,
    load_reference,
    parameter_leaves,
    state_values,
)
from tests.reference.case import Case, Result

FLATTENED = ("ResNet10", "ResNet34", "ResNet50", "ResNet101")  # reference default of `flatten`

# The layer in float32 (specification, checklist 1).
FLOAT32_TOLERANCE = {
    "bdc_pool": {"rtol": 2e-4, "atol": 1e-6, "relative_to": "max"},
}


def bdc_pool(case: Case) -> Result:
    args = case.args
    channels, height, width = args["input_dim"]
    layer = BDC(
        channels,
        reduce_dim=args.get("reduce_dim", 640),
        map_size=(height, width),
        vectorize=args.get("is_vec", True),
        activation=args.get("activation", "relu"),
    )
    load_reference(layer, case.weights(), case)
    x = case.inputs["x"].requires_grad_()
    return Result(
        {"out": layer(x), **state_values(layer, "after")},
        {"grad_x": x, **parameter_leaves(layer)},
    )


def reference_backbone(arch: str, use_se: bool = False, flatten: bool | None = None) -> nn.Module:
    """Build a backbone from the reference's arguments; absent ones take the reference's defaults."""
    if arch in ("ResNet12", "ResNet34s"):
        if flatten:
            raise ValueError(f"{arch} has no flatten option")
        return create_backbone(BACKBONES[arch], se=use_se)
    if use_se:
        raise ValueError(f"{arch} has no squeeze-excitation option")
    return create_backbone(BACKBONES[arch], flatten=arch in FLATTENED if flatten is None else flatten)


def backbone(case: Case) -> Result:
    args = case.args
    network = reference_backbone(args["arch"], args.get("use_se") or False, args.get("flatten"))
    load_reference(network, case.weights(), case)
    x = case.inputs["x"]
    if case.wants_gradients:
        x.requires_grad_()
    with torch.set_grad_enabled(case.wants_gradients):
        out = network(x)
        gap = out.flatten(2).mean(2) if out.dim() == 4 else out
    leaves = {"grad_x": x, **parameter_leaves(network)} if case.wants_gradients else {}
    return Result({"out": out, "gap": gap, **state_values(network, "after")}, leaves)


def dropblock(case: Case) -> Result:
    x, size = case.inputs["x"].requires_grad_(), case.args["block_size"]
    seeds = case.inputs.get("mask")
    if seeds is None:  # the item names only how its mask was drawn
        shape = (*x.shape[:2], x.shape[2] - size + 1, x.shape[3] - size + 1)
        seeds = torch.from_numpy(np.random.default_rng(case.args["mask_seed"]).random(shape) < case.args["gamma"])
    seeds = seeds.to(x.dtype)
    return Result({"block_mask": block_mask(seeds, size), "out": drop_blocks(x, seeds, size)}, {"grad_x": x})


def image_pipeline(case: Case) -> Result:
    args = case.args
    transform = eval_transform(args["image_size"], args["mean"], args["std"], resize=args["resize_size"])
    return Result({"out": transform(Image.fromarray(case.inputs["image"].numpy()))})


def accuracy_interval(case: Case) -> Result:
    args = case.args
    mean, half_width = mean_and_interval(
        case.inputs["accuracies"].numpy(), z=args.get("z", 1.96), ddof=args.get("ddof", 0)
    )
    return Result({"mean": mean, "ci95": half_width})


KINDS = {
    **HEAD_KINDS,
    **MODEL_KINDS,
    "bdc_pool": bdc_pool,
    "backbone": backbone,
    "dropblock": dropblock,
    "eval_transform": image_pipeline,
    "accuracy_interval": accuracy_interval,
}
