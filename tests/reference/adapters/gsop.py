"""GSoP: one function per kind of `gsop.json`, built from the arguments in the entry."""

from __future__ import annotations

from torch import nn

from backbones import create_backbone
from backbones.classifier import ImageClassifier
from moments import isqrt_pool, upper_triangle
from moments.gsop import ChannelScale, GSoP, PositionMap, position_covariance
from tests.reference.adapters.networks import block_key, network_key, residual_block, run_module
from tests.reference.case import Case, Result

LAYOUT = "gsop_net1"


def part_key(part: str):
    """Return the renaming of a lone part of the attention: `conv_for_DR.weight` -> `reduce.weight`."""
    return lambda key: block_key(LAYOUT)(key).removeprefix(f"se.{part}.")


def attention_part(case: Case, part: nn.Module, name: str) -> Result:
    """The part's input passes the ReLU that stands in front of it in a block."""
    return run_module(part, case, part_key(name), lambda x: {"out": part(x.relu())})


def channel_attention(case: Case) -> Result:
    args = case.args
    part = ChannelScale(args["channels"], args["att_dim"], args["reduction_stride"])
    return attention_part(case, part, "channel")


def position_attention(case: Case) -> Result:
    return attention_part(case, PositionMap(case.args["channels"], case.args["att_dim"]), "position")


def spatial_covariance(case: Case) -> Result:
    x = case.inputs["x"].requires_grad_()
    return Result({"out": position_covariance(x, case.args.get("centre", "reference"))}, {"grad_x": x})


def gsop_block(case: Case) -> Result:
    args, module = case.args, residual_block(case, bottleneck=True)
    if args["attention"] != "none":
        stride = 2 if args["planes"] <= 64 else 1
        module.se = GSoP(4 * args["planes"], args["attention"], args["att_dim"], stride)
    return run_module(module, case, block_key(LAYOUT))


def triangle(case: Case) -> Result:
    x = case.inputs["x"].requires_grad_()
    return Result({"out": upper_triangle(x, order=case.args.get("order", "row"))}, {"grad_x": x})


def whole_network(case: Case) -> Result:
    args = case.args
    name = f"gsop_net{args['net']}_{args['arch']}"
    backbone = create_backbone(name, attention=args["attention"], att_dim=args.get("att_dim", 128))
    pool = isqrt_pool(backbone.out_channels, 3, reduction=256, order="column") if args["net"] == 2 else None
    model = ImageClassifier(backbone, pool, num_classes=args["num_classes"])
    return run_module(model, case, network_key(f"gsop_net{args['net']}"))


KINDS = {
    "channel_attention": channel_attention,
    "spatial_covariance": spatial_covariance,
    "position_attention": position_attention,
    "gsop_block": gsop_block,
    "triangle": triangle,
    "whole_network": whole_network,
}
