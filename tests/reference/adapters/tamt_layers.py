"""TAMT: layers, the moment head and small functions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from backbones.video_vit import Attention, Block, TubeletEmbed, as_map, as_tokens, position_table
from moments import covariance, newton_schulz_root
from tests.reference.case import Case, Result
from video import GTMT, Moments, TemporalAdapter, TokenMix
from video.schedules import source_learning_rates, tuning_schedule
from video.tuning import random_classes

# Released names of the adapter and of the moment head -> ours.
ADAPTER = {"L.0.": "down.", "L.1.": "norm.", "L2.0.": "scale.", "L3.0.": "shift."}
HEAD = {
    "head2.": "project.",
    "layer_reduce1.": "reduce1.",
    "layer_reduce_bn1.": "reduce_norm1.",
    "layer_reduce2.": "reduce2.",
    "layer_reduce_bn2.": "reduce_norm2.",
    "layer_reduce3.": "aggregate1.",
    "layer_reduce_bn3.": "aggregate_norm1.",
    "layer_reduce4.": "aggregate2.",
    "layer_reduce_bn4.": "aggregate_norm2.",
}


def renamed(state: Mapping[str, Tensor], table: Mapping[str, str], unused: tuple[str, ...] = ()) -> dict[str, str]:
    """Return {our name: released name} of all keys, but those that start with a word of `unused`."""
    names = {}
    for key in state:
        if key.startswith(unused) if unused else False:
            continue
        start = next(start for start in table if key.startswith(start))
        names[table[start] + key.removeprefix(start)] = key
    return names


def load(module: nn.Module, case: Case, names: Mapping[str, str] | None = None) -> nn.Module:
    """Load every tensor of a module by its released name; set dtype and mode."""
    state = case.weights()
    names = names if names is not None else {key: key for key in state}
    module.to(case.dtype).train(case.mode == "train")
    module.load_state_dict({own: state[key] for own, key in names.items()})
    return module


def gradient_leaves(module: nn.Module, names: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Return {grad/<released name>: parameter} of all that require a gradient."""
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    return {f"grad/{names[name] if names else name}": value for name, value in parameters.items()}


def clean(mask: Tensor) -> Tensor:
    return mask.to(torch.int64)


def table(case: Case) -> Result:
    return Result({"table": position_table(case.args["n_position"], case.args["dim"])})


def patch_embed(case: Case) -> Result:
    args = case.args
    module = TubeletEmbed(args["embed_dim"], args["patch_size"], args["tubelet_size"], args["in_chans"])
    load(module, case)
    x = case.inputs["x"].requires_grad_()
    assert x.shape[2:] == (args["num_frames"], args["img_size"], args["img_size"])
    out = module(x)
    torch.testing.assert_close(module.embed_tubes(module.tubes(x)), out)
    return Result({"out": out}, {"grad_x": x})


def attention(case: Case) -> Result:
    module = Attention(case.args["dim"], case.args["num_heads"], case.args.get("qkv_bias", True))
    load(module, case)
    x = case.inputs["x"].requires_grad_()
    return Result({"out": module(x)}, {"grad_x": x, **gradient_leaves(module)})


def temporal_adapter(case: Case) -> Result:
    args = case.args
    module = TemporalAdapter(args["channels"], args["reduction"], args["kernel"], beta_scale=args["beta_scale"])
    names = renamed(case.weights(), ADAPTER, unused=("G.",))
    load(module, case, names)
    x = case.inputs["x"].requires_grad_()
    assert x.shape[2] == args["frames"]
    out = module(as_tokens(x), tuple(x.shape[2:]))
    after = {f"after/{names[key]}": value.clone() for key, value in module.state_dict().items()}
    unused = {f"after/{key}": value for key, value in case.weights().items() if key.startswith("G.")}
    return Result({"out": out, **after, **unused}, {"grad_x": x, **gradient_leaves(module, names)})


def transformer_block(case: Case) -> Result:
    args, state = case.args, case.weights()
    block = Block(
        args["dim"], args["num_heads"], args["mlp_ratio"], args["qkv_bias"], args["drop_path"], args["ln_eps"]
    )
    unused = ("norm3.", "temporal_conv.", "tam.")
    load(block, case, {key: key for key in state if not key.startswith(unused)})
    grid = (args["frames"], args["img_size"] // 16, args["img_size"] // 16)
    x = case.inputs["x"].requires_grad_()
    if not args["adapter"]:
        return Result({"out": block(x, grid)}, {"grad_x": x, **gradient_leaves(block)})
    adapter = TemporalAdapter(args["dim"]).to(case.dtype).train(case.mode == "train")
    inside = {key.removeprefix("tam."): value for key, value in state.items() if key.startswith("tam.")}
    names = renamed(inside, ADAPTER, unused=("G.",))
    adapter.load_state_dict({own: inside[key] for own, key in names.items()})
    out = block(x, grid, adapter)
    after = {f"after/tam.{names[key]}": value.clone() for key, value in adapter.state_dict().items()}
    leaves = {f"grad/tam.{key.removeprefix('grad/')}": v for key, v in gradient_leaves(adapter, names).items()}
    return Result({"out": out, **after}, {"grad_x": x, **leaves})


def token_mix(case: Case) -> Result:
    args = case.args
    module = load(TokenMix(args["dim"], args["temporal_mix"], norm_eps=args["ln_eps"]), case)
    x = case.inputs["x"].requires_grad_()
    grid = (args["frames"], args["tokens_per_frame"], 1)
    moments = module(x, grid)
    values = {"pooled": moments.pooled, "tokens": as_tokens(moments.map)}
    values["conv_branch"] = module.convolve(x, grid).flatten(0, 1)
    return Result(values, {"grad_x": x, **gradient_leaves(module)})


def head_of(case: Case) -> tuple[GTMT, dict[str, str]]:
    args = case.args
    head = GTMT(args["dim"], args["frames"], args["groups"], args["iterations"], args["eps"])
    names = renamed(case.weights(), HEAD)
    return load(head, case, names), names


def run_head(head: GTMT, case: Case) -> dict[str, Tensor]:
    """Run the head step by step, batch statistics moving once, and return what happens on the way."""
    args = case.args
    side = args["image_size"] // 16
    assert args["tokens"] == args["frames"] * side * side
    pooled = case.inputs["pooled"]
    video_map = as_map(case.inputs["tokens"], (args["frames"], side, side))
    grouped = head.reduced(video_map)
    cov = covariance(grouped)
    root = head.roots(cov)
    aggregated = head.aggregated(root)
    second = head.project(aggregated.flatten(1))
    steps = {"reduced_grouped": grouped, "cov": cov, "sqrt": root, "aggregated": aggregated, "second_order": second}
    return {"z": pooled + second, **steps}


def gtmt_head(case: Case) -> Result:
    head, names = head_of(case)
    pooled, tokens = (case.inputs[name].requires_grad_() for name in ("pooled", "tokens"))
    values = run_head(head, case)
    after = {f"after/{names[key]}": value.clone() for key, value in head.state_dict().items()}
    side = case.args["image_size"] // 16
    whole = head(Moments(pooled, as_map(tokens, (case.args["frames"], side, side))))
    torch.testing.assert_close(whole, values["z"], rtol=0, atol=0)
    return Result({**values, **after}, {"grad_pooled": pooled, "grad_tokens": tokens, **gradient_leaves(head, names)})


def cov(case: Case) -> Result:
    x = case.inputs["x"].requires_grad_()
    return Result({"cov": covariance(x)}, {"grad_x": x})


def cov_sqrt(case: Case) -> Result:
    x = case.inputs["x"].requires_grad_()
    root = newton_schulz_root(covariance(x), case.args["iterations"], eps=case.args["eps"])
    return Result({"sqrt": root}, {"grad_x": x})


def tuning_lr(case: Case) -> Result:
    args = case.args
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=args["lr"])
    schedule = tuning_schedule(optimizer, args["T_max"], args["eta_min"])
    rates = []
    for _ in range(args["epochs"]):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return Result({"lr": rates})


def source_lr(case: Case) -> Result:
    args = dict(case.args)
    every = args.pop("every")
    return Result({"lr": source_learning_rates(**args)[::every]})


def class_sampler(case: Case) -> Result:
    args = case.args
    generator = torch.Generator().manual_seed(args["seed"])
    drawn = [random_classes(args["n_classes"], args["n_way"], generator) for _ in range(args["episodes"])]
    return Result({"classes": torch.stack(drawn)})


LAYER_KINDS = {
    "position_table": table,
    "patch_embed": patch_embed,
    "attention": attention,
    "temporal_adapter": temporal_adapter,
    "transformer_block": transformer_block,
    "token_mix": token_mix,
    "covariance": cov,
    "cov_sqrt": cov_sqrt,
    "gtmt_head": gtmt_head,
    "tuning_lr": tuning_lr,
    "source_lr": source_lr,
    "class_sampler": class_sampler,
}
