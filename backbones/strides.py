"""Keep the last map of any network twice as large: the stride of its last stage becomes 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from backbones.errors import UserError


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Switch to eval mode, and every module back to its own afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _watch(network: nn.Module, size: int) -> tuple[tuple[int, int], list[tuple[str, tuple[int, int], tuple[int, int]]]]:
    """Return the size of the last map, and (name, size before, size after) of everything with a stride above 1."""
    seen: list[tuple[str, tuple[int, int], tuple[int, int]]] = []

    def note(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            if inputs and inputs[0].dim() == 4 == output.dim() and inputs[0].shape[2:] != output.shape[2:]:
                seen.append((name, tuple(inputs[0].shape[2:]), tuple(output.shape[2:])))

        return hook

    modules = network.named_modules()
    strided = [
        (name, module) for name, module in modules if hasattr(module, "stride") and hasattr(module, "kernel_size")
    ]
    hooks = [module.register_forward_hook(note(name)) for name, module in strided]
    try:
        with _evaluating(network):
            weight = next(network.parameters())
            last = network(torch.zeros(1, 3, size, size, dtype=weight.dtype, device=weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(last.shape[2:]), seen


def _pair(value: int | tuple[int, ...] | str) -> tuple:
    return (value, value) if isinstance(value, int) else tuple(value)


def _way(layer: nn.Module) -> str:
    """Tell how a layer can keep the size of its input: "stride" becomes 1, the layer goes ("drop"), or not ("")."""
    if not hasattr(layer, "padding"):
        return ""
    kernel, padding = _pair(layer.kernel_size), _pair(layer.padding)
    dilation = _pair(getattr(layer, "dilation", 1))
    centred = tuple(d * (k // 2) for d, k in zip(dilation, kernel, strict=True))
    same = type(layer).__name__.endswith("Same")  # timm's layers that pad by themselves
    if same or (all(k % 2 for k in kernel) and padding == centred):
        return "stride"
    return "drop" if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) and not any(padding) else ""


def _loosen(network: nn.Module, name: str) -> Callable[[], None]:
    """Let a layer keep the size of its input; returns what undoes it."""
    layer = network.get_submodule(name)
    if _way(layer) == "stride":
        owner, attribute, value = layer, "stride", (1, 1) if isinstance(layer.stride, tuple) else 1
    else:
        parent, _, attribute = name.rpartition(".")
        owner, value = network.get_submodule(parent), nn.Identity()
    before = getattr(owner, attribute)
    setattr(owner, attribute, value)
    return lambda: setattr(owner, attribute, before)


def set_last_stride(network: nn.Module, stride: int = 1, size: int | None = None) -> nn.Module:
    """Set the stride of a network's last stage to 1, in its branches and shortcuts; weights and dilation stay.

    network: (B, 3, H, W) -> (B, C, h, w), from `create_backbone`. It is changed, and returned.
    stride: 1; 2 leaves the network as it is.
    size: of the picture of zeros that finds the layers; default: the network's `input_size`.
    Raises UserError where the last stage makes no step of 2, or makes it in a layer that cannot do without (patches);
        the network is then as it was.

    timm's `output_stride=16` is another network: it dilates the convolutions of the last stage.
    """
    if stride not in (1, 2):
        raise UserError(f"the last stride can be 1 or 2 (left as it is), not {stride}")
    if stride == 2:
        return network
    size = size or network.input_size
    last, seen = _watch(network, size)
    steps = [(name, before) for name, before, after in seen if after == last]
    steps = [
        step for step in steps if not any(name.startswith(f"{step[0]}.") for name, _ in steps)
    ]  # layers, no blocks
    halves = steps and all(abs(b - 2 * a) < 2 for _, before in steps for a, b in zip(last, before, strict=True))
    if not halves or not all(_way(network.get_submodule(name)) for name, _ in steps):
        raise UserError(
            f"the last stage of this network (map {last[0]}x{last[1]} of {size} px) has no stride of 2 that can become "
            "1: leave last_stride out"
        )
    undo = [_loosen(network, name) for name, _ in steps]
    try:
        wider, reason = _watch(network, size)[0], ""
    except Exception as error:  # whatever a network does that counts on the size of its last map
        wider, reason = None, str(error).strip().partition("\n")[0] or type(error).__name__
    if wider != steps[0][1]:
        for put_back in undo:
            put_back()
        wanted = f"{steps[0][1][0]}x{steps[0][1][1]}"
        what = f"the last map has {wider[0]}x{wider[1]} positions and not {wanted}" if wider else reason
        raise UserError(f"this network does not take stride 1 in its last stage ({what}): leave last_stride out")
    return network
