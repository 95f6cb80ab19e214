"""So-ViT and SoT: one function per kind of `sovit.json`, built from the arguments in the entry."""

from __future__ import annotations

from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import nn

from backbones.so_vit import SoViT, position_table
from backbones.token_embedding import NonLocal, TokenEmbedding
from backbones.token_heads import SoTHead, SoViTHead, TokenClassifier
from moments.cross_covariance import CrossCovariance, Division, MultiHeadCovariance, token_covariance
from moments.svpn import SVPN
from tests.reference.adapters.networks import network_key, run_module
from tests.reference.case import Case, Result

TOKENS = {"ResNet": "resnet", "DenseNet": "densenet", "Inception": "inception", "Non-local": "nonlocal"}
NORMS = {"svPN": "svpn", "sqrt_d": "sqrt_d", "sqrt_t": "sqrt_t", "ePN": "power", "LN": "layer", None: "none"}


def svpn_options(args) -> dict:
    """Return the options of `svpn`; absent ones take the reference's defaults, null values count."""
    return {
        "alpha": args.get("alpha", 0.5),
        "iterations": args.get("iterNum", 1),
        "singular_values": args.get("svNum", 1),
    }


def svpn(case: Case, start_axis: str) -> Result:
    size = case.args["input_dim"]
    layer = SVPN(size[0] if isinstance(size, list) else size, start_axis=start_axis, **svpn_options(case.args))
    result = run_module(layer, case)
    x = case.inputs["x"].detach().clone().requires_grad_()
    gradient = torch.autograd.grad(layer(x).sum(), x)[0]
    result.values["grad_x_finite"] = bool(torch.isfinite(gradient).all())
    return result


def reduction_key(key: str) -> str:
    return key.replace("conv_dr_block.", "reduce.").replace("wr.", "project.")


def branches(args) -> tuple[int, ...] | None:
    """Return the widths of the branches. Without reduction both sides of a covariance are the features themselves."""
    dims = args["dimension_reduction"]
    if dims is not None:
        assert len(dims) == (2 if (args.get("cov_type") or "cross") == "cross" else 1)
    return dims


def cross_covariance(case: Case) -> Result:
    args = case.args
    return run_module(
        CrossCovariance(args["input_dim"], branches(args), centred=args.get("remove_mean", True)), case, reduction_key
    )


def so_vit_head(case: Case) -> Result:
    args = case.args
    options = {"representation": args.get("representation", "second-order"), "dropout": args.get("dropout") or 0.0}
    if options["representation"] == "second-order":
        options |= {"dims": branches(args), "centred": args.get("remove_mean", True), **svpn_options(args)}
    return run_module(SoViTHead(args["input_dim"], args["num_classes"], **options), case, reduction_key)


def as_recorded(module: nn.Module) -> nn.Module:
    """Take a guard out: gradients were recorded with a defect of torch's batch norm, which shows in batches of one."""
    for part in module.modules():
        if isinstance(part, NonLocal):
            part.exact = False
    return module


def token_embedding(case: Case) -> Result:
    args = case.args
    module = TokenEmbedding(
        args["embed_dim"],
        TOKENS[args["type"]],
        args["img_size"],
        args.get("token_dim", 64),
        args.get("large_output", False),
    )
    return run_module(
        as_recorded(module),
        case,
        lambda key: key.removeprefix("tokens."),
        lambda x: {"out": module(x).flatten(2).transpose(1, 2)},
    )


def positions(case: Case) -> Result:
    return Result({"out": position_table(case.args["n_position"], case.args["d_hid"])})


def transformer_block(case: Case) -> Result:
    args = case.args
    norm = partial(nn.LayerNorm, eps=1e-5)
    bias = args.get("qkv_bias", False)
    block = Block(args["embed_dim"], args["num_heads"], args["mlp_ratio"], qkv_bias=bias, norm_layer=norm)
    return run_module(block, case)


def covariance(case: Case) -> Result:
    x, width = case.inputs["x"].requires_grad_(), case.args.get("q_dim")
    q, k = (x, None) if width is None else (x[..., :width], x[..., width:])
    return Result({"out": token_covariance(q, k)}, {"grad_x": x})


def norm_options(norm) -> dict:
    """Return the options of `MultiHeadCovariance` for the normalisation of an entry."""
    kind = NORMS[(norm or {}).get("type")]
    if kind != "svpn":
        return {"norm": kind}
    return {"norm": kind, "dropout": norm.get("regular") or 0.0, **svpn_options(norm)}


def learnt_number(module: nn.Module, case: Case, prefix: str = ""):
    """Return the renaming of keys; the learnt number of `sqrt_t`, the one key left over, takes its recorded shape."""
    names = {key: reduction_key(key) for key in case.vector.keys}
    own = module.state_dict()
    spare = [key for key, name in names.items() if name not in own]
    name = f"{prefix}norm.weight"
    pool = module.get_submodule(prefix.rstrip(".")) if prefix else module
    if isinstance(pool.norm, Division) and pool.norm.weight is not None:
        (key,) = spare or [key for key in names if names[key] == name]
        pool.norm.weight = nn.Parameter(pool.norm.weight.data.reshape(case.vector.keys[key]))
        names[key] = name
    return names.__getitem__


def multihead_pool(case: Case) -> Result:
    args = case.args
    module = MultiHeadCovariance(
        args["dim"], args["num_heads"], args["wr_dim"], **norm_options(args.get("normalization"))
    )
    return run_module(module, case, learnt_number(module, case))


def sot_head(case: Case) -> Result:
    args = case.args
    module = SoTHead(
        args["input_dim"],
        args["num_classes"],
        args.get("class_token", True),
        args.get("fusion") or "sum_fc",
        args["num_heads"],
        args["wr_dim"],
        **norm_options(args.get("normalization")),
    )
    return run_module(module, case, learnt_number(module, case, "representation."))


def backbone(args) -> SoViT:
    network = SoViT(
        args["embed_dim"],
        args["depth"],
        args["num_heads"],
        args["mlp_ratio"],
        TOKENS[args["token_type"]],
        args["img_size"],
        args["token_dim"],
        args.get("large_output", False),
    )
    return as_recorded(network)


def watched(model: TokenClassifier, case: Case, layout: str, parts: dict[str, nn.Module]) -> Result:
    """Run a network and return what its parts give beside the logits."""

    def forward(x):
        grid = model.backbone.embed(x)
        tokens = model.backbone.encode(grid)
        values = {"tokens": grid.flatten(2).transpose(1, 2), "normed_tokens": tokens}
        hooks = [part.register_forward_hook(partial(keep, values, name)) for name, part in parts.items()]
        values["out"] = model.head(tokens)
        for hook in hooks:
            hook.remove()
        return values

    return run_module(model, case, network_key(layout), forward)


def keep(values: dict, name: str, module: nn.Module, inputs, out) -> None:
    values[name] = out


def whole_network(case: Case) -> Result:
    args = case.args
    head = SoViTHead(
        args["embed_dim"],
        args["num_classes"],
        dims=args["dimension_reduction"],
        dropout=args.get("head_dropout") or 0.0,
        **svpn_options(args),
    )
    parts = {"cross_covariance": head.representation, "svpn": head.normalization}
    return watched(TokenClassifier(backbone(args), head), case, "so_vit", parts)


def sot_whole_network(case: Case) -> Result:
    args = case.args
    head = SoTHead(
        args["embed_dim"],
        args["num_classes"],
        fusion=args.get("fusion", "sum_fc"),
        heads=args["pool_heads"],
        width=args["wr_dim"],
        dropout=args.get("head_dropout") or 0.0,
        **svpn_options(args),
    )
    return watched(TokenClassifier(backbone(args), head), case, "sot", {})


KINDS = {
    "svpn": partial(svpn, start_axis="row"),
    "sot_svpn": partial(svpn, start_axis="column"),
    "cross_covariance": cross_covariance,
    "so_vit_head": so_vit_head,
    "token_embedding": token_embedding,
    "position_table": positions,
    "transformer_block": transformer_block,
    "whole_network": whole_network,
    "sot_covariance": covariance,
    "sot_multihead_pool": multihead_pool,
    "sot_head": sot_head,
    "sot_whole_network": sot_whole_network,
}
