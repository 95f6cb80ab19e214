"""What the adapters of image networks share: a module with released weights, run on `x`, with its gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from backbones.released import LAYOUTS
from tests.reference.case import Case, Result


def run_module(
    module: nn.Module,
    case: Case,
    own_key: Callable[[str], str] = lambda key: key,
    forward: Callable[[Tensor], dict[str, Tensor]] | None = None,
    keep: Collection[str] = (),
) -> Result:
    """Load every weight of the case, run the module on the input x, and name what can be differentiated.

    own_key: released name -> name in the module. forward: x -> quantities; default: the module's result as `out`.
    keep: names in the module that no released file has, left as they are.
    """
    weights = case.weights()
    names = {own_key(key): key for key in weights}
    assert len(names) == len(weights), "two released names became one of ours"
    module.to(case.dtype).requires_grad_().train(case.mode == "train")
    kept = {own: module.state_dict()[own] for own in keep}
    module.load_state_dict({**kept, **{own: weights[key] for own, key in names.items()}})
    x = case.inputs["x"].requires_grad_(case.wants_gradients)
    with torch.set_grad_enabled(case.wants_gradients):
        values = forward(x) if forward else {"out": module(x)}
    after = {f"after/{names[key]}": value.clone() for key, value in module.state_dict().items() if key in names}
    leaves = {f"grad/{names[key]}": value for key, value in module.named_parameters() if key in names}
    return Result({**values, **after}, {"grad_x": x, **leaves} if case.wants_gradients else {})


def block_key(layout: str) -> Callable[[str], str]:
    """Return the renaming of a lone residual block of that layout."""
    theirs, ours = "layer1.0.", "backbone.network.layer1.0."
    return lambda key: LAYOUTS[layout].own_key(theirs + key).removeprefix(ours)


def network_key(layout: str) -> Callable[[str], str]:
    """Return the renaming of a whole network of that layout."""
    return LAYOUTS[layout].own_key


def residual_block(case: Case, bottleneck: bool) -> nn.Module:
    """Build timm's residual block that the arguments describe, without attention."""
    from timm.models.resnet import BasicBlock, Bottleneck, downsample_conv

    args, kind = case.args, Bottleneck if bottleneck else BasicBlock
    stride, fan_out = args.get("stride") or 1, args["planes"] * kind.expansion
    shortcut = downsample_conv(args["inplanes"], fan_out, 1, stride) if args.get("downsample") else None
    return kind(args["inplanes"], args["planes"], stride=stride, downsample=shortcut)
