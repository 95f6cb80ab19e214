"""MPN-COV: one function per kind of `mpncov.json`, built from the arguments in the entry."""

from __future__ import annotations

import torch
from torch import nn

from backbones import create_backbone
from backbones.classifier import ImageClassifier
from backbones.pooled import POOLED_NETWORKS, create_pool, vgg_classifier, with_classifier
from backbones.strides import set_last_stride
from moments import (
    CompactBilinearPool,
    GlobalAveragePool,
    covariance,
    gaussian_pool,
    mpn_pool,
    newton_schulz_root,
    upper_triangle,
)
from tests.reference.adapters.networks import network_key, run_module
from tests.reference.case import Case, Result

OWN_NETWORKS = {
    "mpncovresnet50": "mpncov_resnet50",
    "mpncovresnet101": "mpncov_resnet101",
    "mpncovvgg16_bn": "mpncov_vgg16_bn",
}


def covariance_kind(case: Case) -> Result:
    x = case.inputs["x"].requires_grad_()
    return Result({"out": covariance(x)}, {"grad_x": x})


def isqrt(case: Case) -> Result:
    x = case.inputs["x"].requires_grad_()
    return Result({"out": newton_schulz_root(x, case.args["iterations"])}, {"grad_x": x})


def isqrt_degenerate(case: Case) -> Result:
    args, x = case.args, case.inputs["x"].requires_grad_()
    out = upper_triangle(newton_schulz_root(covariance(x), args["iterations"]), args.get("order", "row"))
    dead = args.get("dead_samples") or []
    (grad,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    largest = {name: value[dead].abs().max() for name, value in (("output", out), ("grad", grad)) if dead}
    return Result({"out": out, **{f"dead_{name}_max": value.item() for name, value in largest.items()}}, {"grad_x": x})


def triangle(case: Case) -> Result:
    x = case.inputs["x"].requires_grad_()
    return Result({"out": upper_triangle(x, case.args.get("order", "row"))}, {"grad_x": x})


def representation(args: dict, channels: int, name: str = "MPNCOV") -> nn.Module:
    """Build a pooling layer from the reference's arguments; absent ones take the reference's defaults."""

    def given(key: str, default: object) -> object:
        return default if args.get(key) is None else args[key]

    if name == "MPNCOV":
        options = {"reduction": args.get("dimension_reduction"), "vectorize": given("is_vec", True)}
        if given("is_sqrt", True):
            return create_pool("isqrt", channels, iterations=given("iterNum", 3), **options)
        return create_pool("covariance", channels, **options)
    if name == "BCNN":
        options = {"eps": given("thresh", 1e-8), "vectorize": given("is_vec", True)}
        return create_pool("bilinear", channels, **options)
    if name == "CBP":
        return create_pool("compact_bilinear", channels, out_dim=given("projDim", 8192), eps=given("thresh", 1e-8))
    return {"GAvP": GlobalAveragePool}[name](channels)


def set_hashes(pool: CompactBilinearPool, case: Case) -> None:
    """Give the sketch the stored hashes and signs."""
    for name in ("hash1", "hash2", "sign1", "sign2"):
        getattr(pool, name).copy_(torch.as_tensor(case.inputs[name]).long())


def mpncov_head(case: Case) -> Result:
    pool = representation(case.args, case.args.get("input_dim", 2048))
    matrices = {"forward": lambda x: {"out": pool.matrices(x)}} if case.args.get("is_vec") is False else {}
    return run_module(pool, case, lambda key: key.replace("conv_dr_block.", "reduce."), **matrices)


def bilinear_pool(case: Case) -> Result:
    return run_module(representation(case.args, case.args["input_dim"], "BCNN"), case)


def average_pool(case: Case) -> Result:
    return run_module(representation(case.args, case.args["input_dim"], "GAvP"), case)


def compact_bilinear_pool(case: Case) -> Result:
    pool = representation(case.args, case.args["input_dim"], "CBP")
    set_hashes(pool, case)
    x = case.inputs["x"].requires_grad_()
    return Result({"out": pool(x)}, {"grad_x": x})


def mpn_eig(case: Case) -> Result:
    args, x = case.args, case.inputs["x"].requires_grad_()
    options = {"eps": args.get("epsilon", 0.0), "order": args.get("order", "column")}
    return Result({"out": mpn_pool(x.shape[1], args.get("alpha", 0.5), **options)(x)}, {"grad_x": x})


def gaussian_embedding(case: Case) -> Result:
    args, x = case.args, case.inputs["x"].requires_grad_()
    options = {"eps": args.get("epsilon", 1e-3), "threshold": args.get("threshold", 1e-10)}
    pool = gaussian_pool(x.shape[1], args.get("alpha", 0.5), vectorize=False, **options)
    return Result({"out": pool.matrices(x)}, {"grad_x": x})


def pooled_network(case: Case) -> tuple[ImageClassifier, str]:
    """Build a network from the reference's arguments; returns it and its released layout."""
    args, arch = case.args, case.args["arch"]
    classes, kind = args["num_classes"], args.get("representation") or "MPNCOV"
    plain = arch.startswith(("vgg", "alexnet")) or arch == "mpncovvgg16_bn"
    if arch in OWN_NETWORKS:
        network = POOLED_NETWORKS[OWN_NETWORKS[arch]](classes)
    else:  # strides stay, but the last max pool of a plain network goes
        backbone = create_backbone(f"torchvision:{arch}")
        if plain:
            set_last_stride(backbone, 1)
        network = ImageClassifier(backbone, None, classes)
    network.pool = representation(args, network.backbone.out_channels, kind)
    with_classifier(network, nn.Linear(network.pool.out_dim, classes))
    if plain:
        with_classifier(network, plain_classifier(arch, network.pool.out_dim, classes))
    if kind == "CBP":
        set_hashes(network.pool, case)
    named = plain or arch.startswith("densenet")  # these keep torchvision's names
    return network, "mpncov" if args["layout"] == "standalone" else "mpncov_plain" if named else "mpncov_parts"


def plain_classifier(arch: str, features: int, classes: int) -> nn.Sequential:
    """Build torchvision's classifier of AlexNet or VGG for another number of features."""
    layers = vgg_classifier(features, classes)
    if arch == "alexnet":  # dropout comes first there
        layers = nn.Sequential(layers[2], layers[0], layers[1], layers[5], layers[3], layers[4], layers[6])
    return layers


def whole_network(case: Case) -> Result:
    network, layout = pooled_network(case)

    def forward(x: torch.Tensor) -> dict[str, torch.Tensor]:
        if case.args["layout"] != "standalone":
            return {"out": network(x)}
        reduced = network.pool.reduce(network.backbone(x))
        second = covariance(reduced)
        root = network.pool.power(second)
        vector = upper_triangle(root, network.pool.order) if network.pool.vectorize else root.flatten(1)
        logits = network.classifier(network.dropout(vector))
        return {"out": logits, "reduced": reduced, "covariance": second, "sqrt": root}

    hashes = {f"pool.{name}" for name, _ in network.pool.named_buffers()} if case.args.get("projDim") else set()
    return run_module(network, case, network_key(layout), forward, keep=hashes)


KINDS = {
    "covariance": covariance_kind,
    "isqrt": isqrt,
    "isqrt_degenerate": isqrt_degenerate,
    "triangle": triangle,
    "mpncov_head": mpncov_head,
    "bilinear_pool": bilinear_pool,
    "average_pool": average_pool,
    "compact_bilinear_pool": compact_bilinear_pool,
    "mpn_eig": mpn_eig,
    "gaussian_embedding": gaussian_embedding,
    "whole_network": whole_network,
}
