"""Checkpoints of published image networks: one table says which name of theirs is which of ours.

A file is told by the names of its tensors, renamed to those of an `ImageClassifier` or `TokenClassifier`, and loaded
whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from backbones.checkpoint import LoadReport, load_state, read_checkpoint
from backbones.errors import UserError
from backbones.mobilenet import MOBILENET_STAGES
from backbones.triangle_hint import check_steps, settle_order

_RESNET = {part: f"backbone.network.{part}" for part in ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")}

_REDUCED = {"layer_reduce.": "pool.reduce.0.", "layer_reduce_bn.": "pool.reduce.1.", "fc.": "classifier."}
# The networks of MPN-COV as a list of children: features, representation, classifier.
_PARTS = {f"features.{i}.": f"backbone.network.{x}." for i, x in ((0, "conv1"), (1, "bn1"))}
_PARTS |= {f"features.{i + 3}.": f"backbone.network.layer{i}." for i in (1, 2, 3, 4)}
_REPRESENTATION = {"representation.conv_dr_block.": "pool.reduce."}
_PRETRAINED = {"features.8.": "pool.reduce.0.", "features.9.": "pool.reduce.1."}
_GSOP = {
    "conv_for_DR": "se.channel.reduce",
    "bn_for_DR": "se.channel.reduce_norm",
    "row_bn": "se.channel.row_norm",
    "row_conv_group": "se.channel.row_conv",
    "fc_adapt_channels": "se.channel.expand",
    "conv_for_DR_spatial": "se.position.reduce",
    "bn_for_DR_spatial": "se.position.reduce_norm",
    "row_bn_for_spatial": "se.position.row_norm",
    "row_conv_group_for_spatial": "se.position.row_conv",
    "fc_adapt_channels_for_spatial": "se.position.expand",
    "dilate_conv_for_concat1": "se.join_channel",
    "dilate_conv_for_concat2": "se.join_position",
    "bn_for_concat": "se.join_norm",
}

_MOBILENET = {"features.": "backbone.features.", "classifier.1.": "classifier."}
# In the study's landscape code the stem has a name of its own and the blocks after it count from 0.
_PROBED_MOBILENET = {f"features.{i}.": f"backbone.features.{i + 1}." for i in range(18)}
_PROBED_MOBILENET |= {"conv1.": "backbone.features.0.", "fc.": "classifier."}
_SHUFFLENET = {f"{x}.": f"backbone.network.{x}." for x in ("conv1", "stage2", "stage3", "stage4", "conv5")}
_SHUFFLENET |= {"fc.": "classifier."}
_REDUCTION = {"dimension_reduction.": "pool.reduce."}

_TRANSFORMER = {"visual_tokens.tokens.": "backbone.embed.", "classifier.": "head."}
_TRANSFORMER |= {name: f"backbone.{name}" for name in ("cls_token", "pos_embed", "blocks.", "norm.")}


@dataclass(frozen=True)
class Layout:
    """Names of a published network.

    title: for messages.
    marks: patterns that all stand in the names of such a file.
    starts: beginning of a released name -> ours; inside: further parts of it, between dots, each once at most.
    order, iterations: of the triangles that its classifier was trained on, and of Newton-Schulz steps; None: files of
        this layout have either.
    """

    title: str
    marks: tuple[str, ...]
    starts: Mapping[str, str]
    inside: Mapping[str, str] = field(default_factory=dict)
    order: str | None = None
    iterations: int | None = None

    def own_key(self, key: str) -> str:
        """Return our name of a released tensor; a name that is none of this layout's passes unchanged."""
        return _replace(key, self.starts, self.inside)

    def released_key(self, key: str) -> str:
        """Return the released name of a tensor of ours: the inverse of `own_key`."""
        return _replace(key, _swapped(self.starts), _swapped(self.inside))


def _swapped(names: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in names.items()}


def _replace(key: str, starts: Mapping[str, str], inside: Mapping[str, str]) -> str:
    for old, new in starts.items():
        if key.startswith(old):
            key = new + key.removeprefix(old)
            break
    for old, new in inside.items():
        if f".{old}." in key:
            return key.replace(f".{old}.", f".{new}.", 1)
    return key


# The first whose marks are all found is the file's.
LAYOUTS: dict[str, Layout] = {
    "eca_resnet": Layout(
        "ECA-ResNet", (r"^layer4\.", r"\.eca\.conv\."), {**_RESNET, "fc.": "classifier."}, {"eca.conv": "se.conv"}
    ),
    "eca_mobilenet_v2": Layout(
        "ECA-MobileNetV2",
        (r"^features\.\d+\.conv\.\d\.conv\.weight$", r"^features\.0\.0\."),
        _MOBILENET,
    ),
    "gcp_mobilenet_v2": Layout(
        "MobileNetV2 of the GCP study",
        (r"^dimension_reduction\.", r"^features\.0\.0\."),
        {**_MOBILENET, **_REDUCTION},
        iterations=5,
    ),
    "gcp_mobilenet_v2_landscape": Layout(
        "MobileNetV2 of the GCP study's landscapes",
        (r"^dimension_reduction\.", r"^features\.0\.conv\."),
        {**_PROBED_MOBILENET, **_REDUCTION},
        iterations=5,
    ),
    "mobilenet_v2_landscape": Layout(
        "MobileNetV2 of the GCP study's landscapes", (r"^conv1\.0\.", r"^features\.0\.conv\."), _PROBED_MOBILENET
    ),
    "mobilenet_v2": Layout(
        "torchvision's MobileNetV2", (r"^features\.1\.conv\.0\.0\.", r"^features\.0\.0\."), _MOBILENET
    ),
    "gcp_shufflenet_v2": Layout(
        "ShuffleNetV2 of the GCP study",
        (r"^dimension_reduction\.", r"^stage4\."),
        {**_SHUFFLENET, **_REDUCTION},
        iterations=5,
    ),
    "shufflenet_v2": Layout("torchvision's ShuffleNetV2", (r"^stage4\.", r"^conv5\."), _SHUFFLENET),
    "gsop_net2": Layout(
        "GSoP-Net2",
        (r"^layer4\.", r"^layer_reduce\.", r"\.(row_conv_group|row_conv_group_for_spatial)\."),
        {**_RESNET, **_REDUCED},
        _GSOP,
        order="column",
        iterations=3,
    ),
    "gsop_net1": Layout(
        "GSoP-Net1",
        (r"^layer4\.", r"\.(row_conv_group|row_conv_group_for_spatial)\."),
        {**_RESNET, "fc.": "classifier."},
        _GSOP,
    ),
    "sot": Layout(
        "SoT",
        (r"^visual_tokens\.tokens\.", r"^classifier\.representation\.wr\."),
        _TRANSFORMER,
        {"representation.wr": "representation.project"},
    ),
    "so_vit": Layout("So-ViT", (r"^visual_tokens\.tokens\.",), _TRANSFORMER, {"conv_dr_block": "reduce"}),
    "mpncov": Layout("MPN-COV ResNet", (r"^layer4\.", r"^layer_reduce\."), {**_RESNET, **_REDUCED}, iterations=5),
    "gcp_resnet_landscape": Layout(
        "ResNet of the GCP study's landscapes",
        (r"^layer4\.", r"^Layer_Reduce\."),
        {**_RESNET, "Layer_Reduce.": "pool.reduce.0.", "Layer_Reduce_BN.": "pool.reduce.1.", "fc.": "classifier."},
        iterations=5,
    ),
    "mpncov_parts_pretrained": Layout(  # the reduction of a pretrained network counts as features
        "MPN-COV in parts, pretrained",
        (r"^features\.4\.0\.conv1\.", r"^features\.8\."),
        {**_PARTS, **_PRETRAINED},
        iterations=5,
    ),
    "mpncov_parts": Layout(
        "MPN-COV in parts", (r"^features\.4\.0\.conv1\.",), {**_PARTS, **_REPRESENTATION}, iterations=5
    ),
    "mpncov_plain": Layout(  # VGG and AlexNet: torchvision's own names, then the representation
        "MPN-COV on a plain network",
        (r"^features\.0\.weight$", r"^classifier\."),
        {"features.": "backbone.network.features.", **_REPRESENTATION},
        iterations=5,
    ),
    "resnet": Layout("torchvision's ResNet", (r"^layer4\.", r"^conv1\."), {**_RESNET, "fc.": "classifier."}),
    "covey": Layout("covey", (r"^backbone\.",), {}),
}


def detect_layout(keys: Iterable[str]) -> str:
    """Tell the layout, a key of `LAYOUTS`, from the names of the tensors.

    Raises UserError, with some of the names, when they belong to no published network that is known.
    """
    keys = list(keys)
    for name, layout in LAYOUTS.items():
        if all(any(re.search(mark, key) for key in keys) for mark in layout.marks):
            return name
    some = ", ".join(keys[:4])
    raise UserError(
        f"these tensors ({some}{', ...' if len(keys) > 4 else ''}) belong to no network that is known here: "
        f"layouts are {'; '.join(dict.fromkeys(layout.title for layout in LAYOUTS.values()))}"
    )


def from_released(state: Mapping[str, Tensor], layout: str | None = None) -> tuple[str, dict[str, Tensor]]:
    """Rename a published state dict to our names; returns (layout, state dict).

    `module.` of parallel training goes, at the start and after the first part, and `_orig_mod.` of compiled networks.
    layout: a key of `LAYOUTS`; None: detect it.
    Raises UserError for an unknown layout.
    """
    plain = {
        re.sub(r"^((module|_orig_mod)\.)+", "", key).replace(".module.", ".", 1): value for key, value in state.items()
    }
    layout = layout or detect_layout(plain)
    return layout, {LAYOUTS[layout].own_key(key): value for key, value in plain.items()}


def to_released(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Rename a state dict of ours to the published names of `layout`: the inverse of `from_released`."""
    return {LAYOUTS[layout].released_key(key): value for key, value in state.items()}


def load_released(
    model: nn.Module,
    path: str | Path,
    *,
    order: str | None = None,
    iterations: int | None = None,
    averaged: bool = False,
    drop: tuple[str, ...] = (),
    allow_missing: tuple[str, ...] = (),
    say: Callable[[str], None] = print,
) -> LoadReport:
    """Load a checkpoint of a published network and say which layout it has and what matched.

    model: an `ImageClassifier` or `TokenClassifier`, or a bare backbone of it (the classifier is then not wanted).
    order: of the triangles that the file's classifier was trained on, "row" or "column": its weights are rearranged
        where the model has the other order. iterations: Newton-Schulz steps that the file was trained with.
        None: what its layout, and the look of its weights, tell.
    averaged: take the moving average of the weights that So-ViT's files hold beside them (`state_dict_ema`).
    drop, allow_missing: prefixes of our names to leave out of the file, and that the file may lack.
    Raises UserError, naming the keys and the option to change where the file shows it, unless every tensor of the model
    is in the file with the right shape, and the file has no more for a part of the model; or when the classifier was
    trained on another order of triangles or another number of steps than the model has. Nothing is loaded then.
    """
    state, _ = read_checkpoint(path, ("state_dict_ema",) if averaged else ())
    try:
        name, state = from_released(state)
        layout = LAYOUTS[name]
        check_steps(model, state, drop, iterations or layout.iterations)
        state, notes = settle_order(model, state, drop, order, layout.order)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    try:
        report = load_state(model, state, path, drop=drop, allow_missing=allow_missing)
    except UserError as error:
        hints = [hint for find in HINTS if (hint := find(model, state))]
        raise UserError(" ".join([f"{error} Its layout: {layout.title}.", *hints])) from error
    say("; ".join([f"{report}; layout: {layout.title}", *notes]))
    return report


def _kernel_hint(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Name the filter lengths of an ECA file where they are not the model's."""

    def lengths(tensors: Mapping[str, Tensor]) -> dict[str, int]:
        return {
            found[1]: value.shape[-1]
            for key, value in tensors.items()
            if (found := re.search(r"\b(layer\d|features\.\d+)\.\S*\bconv\.weight$", key)) and value.dim() == 3
        }

    theirs, ours = lengths(state), lengths(model.state_dict())
    if not theirs or not ours or theirs == ours:
        return ""
    first = [f"features.{1 + sum(stage[2] for stage in MOBILENET_STAGES[:n])}" for n in range(len(MOBILENET_STAGES))]
    kernels, own = (tuple(x.get(name) for name in first if name in x) or tuple(x.values()) for x in (theirs, ours))
    return f"Its ECA filters have lengths {kernels}, the model's {own}: build it with k_size={kernels}."


HINTS: tuple[Callable[[nn.Module, Mapping[str, Tensor]], str], ...] = (_kernel_hint,)
