"""ECA: one function per kind of `eca.json`, built from the arguments in the entry."""

from __future__ import annotations

from functools import partial

from timm.layers import EcaModule

from backbones import create_backbone
from backbones.classifier import ImageClassifier
from backbones.eca import eca_inverted_residual
from moments.eca import ECA, eca_kernel_size
from tests.reference.adapters.networks import block_key, network_key, residual_block, run_module
from tests.reference.case import Case, Result


def kernel_size(case: Case) -> Result:
    args = case.args
    channels = case.inputs["channels"].flatten().tolist()
    return Result({"kernel": [eca_kernel_size(int(c), args.get("gamma", 2), args.get("b", 1)) for c in channels]})


def eca_layer(case: Case, shared: bool = True) -> Result:
    return run_module(ECA(case.args["channels"], case.args["k_size"], shared=shared), case)


def block(case: Case, bottleneck: bool) -> Result:
    module = residual_block(case, bottleneck)
    module.se = EcaModule(kernel_size=case.args["k_size"])
    return run_module(module, case, block_key("eca_resnet"))


def inverted_residual(case: Case) -> Result:
    args = case.args
    return run_module(
        eca_inverted_residual(args["inp"], args["oup"], args["stride"], args["expand_ratio"], args["k_size"]), case
    )


def whole_network(case: Case) -> Result:
    args = case.args
    options = {
        name: args[key]
        for name, key in (("k_size", "k_size"), ("width_mult", "width_mult"))
        if args.get(key) is not None
    }
    model = ImageClassifier(create_backbone(args["arch"], **options), num_classes=args["num_classes"])
    layout = "eca_mobilenet_v2" if args["arch"] == "eca_mobilenet_v2" else "eca_resnet"
    return run_module(model, case, network_key(layout))


KINDS = {
    "kernel_size": kernel_size,
    "eca_layer": eca_layer,
    "eca_ns_layer": partial(eca_layer, shared=False),
    "basic_block": partial(block, bottleneck=False),
    "bottleneck_block": partial(block, bottleneck=True),
    "inverted_residual": inverted_residual,
    "whole_network": whole_network,
}
