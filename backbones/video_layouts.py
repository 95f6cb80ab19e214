"""Checkpoints of video transformers: VideoMAE's two stages, TAMT's tuned models, transformers' files, and ours.

One table says where every key of a `VideoViT` stands in a foreign layout; reading and key maps both come from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.checkpoint import LoadReport, load_state, read_checkpoint
from backbones.errors import UserError
from backbones.video_sizes import other_sizes
from backbones.video_vit import VideoViT
from backbones.wording import many

LAYOUTS = {
    "videomae_finetuned": "VideoMAE, supervised stage",
    "videomae_pretrained": "VideoMAE, masked pre-training",
    "transformers": "transformers",
    "transformers_v5": "transformers, version 5",
    "tamt": "TAMT, tuned model",
    "covey": "covey",
}
_PREFIXES = {"videomae_finetuned": "", "videomae_pretrained": "encoder.", "tamt": "feature."}
# Where a `VideoViT` may stand in files of ours, longest first.
_OWN_PREFIXES = ("backbone.vit.", "backbone.", "vit.", "")
# Where a model of ours may have the norm behind the average of the tokens.
_NORMS = ("fc_norm.", "mix.fc_norm.", "backbone.mix.fc_norm.", "pool.fc_norm.")

# Tensors inside blocks, and those of them that only a tuned TAMT model has.
_BLOCK = re.compile(r"(feature\.|encoder\.|backbone\.|vit\.)*blocks\.\d+\.|videomae\.encoder\.layer\.\d+\.")
_TUNED = re.compile(r"^feature\.blocks\.\d+\.(norm3|temporal_conv|tam)\.")

_BLOCK_IN_TRANSFORMERS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def vit_keys(depth: int, qkv_bias: bool = True, layer_scale: bool = False) -> list[str]:
    """Return the keys of a `VideoViT` state dict without final norm, in the order of VideoMAE's files."""
    biases = ["attn.q_bias", "attn.v_bias"] if qkv_bias else []
    scales = ["gamma_1", "gamma_2"] if layer_scale else []
    block = [*scales, "norm1.weight", "norm1.bias", *biases, "attn.qkv.weight", "attn.proj.weight", "attn.proj.bias"]
    block += ["norm2.weight", "norm2.bias", *(f"mlp.fc{n}.{leaf}" for n in (1, 2) for leaf in ("weight", "bias"))]
    keys = ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    return keys + [f"blocks.{number}.{key}" for number in range(depth) for key in block]


def foreign_key(key: str, layout: str) -> str | list[str] | None:
    """Return where a key of `VideoViT` (or `fc_norm.*`) stands in a foreign layout.

    A list names the parts [query, key, value] that are stacked; None: this layout has no such tensor.
    """
    if key.startswith("fc_norm."):
        return {"videomae_pretrained": None, "tamt": f"feature.{key}"}.get(layout, key)
    if layout in _PREFIXES:
        return _PREFIXES[layout] + key
    if layout not in ("transformers", "transformers_v5"):
        raise ValueError(f"layout '{layout}' is unknown: use one of {', '.join(LAYOUTS)}")
    if key.startswith("patch_embed.proj."):
        return key.replace("patch_embed.proj.", "videomae.embeddings.patch_embeddings.projection.")
    if key.startswith("norm."):  # the encoder's own norm, in files of masked pre-training
        return key.replace("norm.", "videomae.layernorm.")
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
    if found is None:
        return None
    number, rest = found.groups()
    place = f"videomae.encoder.layer.{number}."
    if rest == "attn.qkv.weight":
        return [f"{place}attention.attention.{part}.weight" for part in ("query", "key", "value")]
    if rest in ("attn.q_bias", "attn.v_bias"):
        name = rest.removeprefix("attn.")
        if layout == "transformers_v5":
            name = {"q_bias": "query.bias", "v_bias": "value.bias"}[name]
        return f"{place}attention.attention.{name}"
    part, _, leaf = rest.rpartition(".")
    return f"{place}{_BLOCK_IN_TRANSFORMERS[part]}.{leaf}" if part in _BLOCK_IN_TRANSFORMERS else None


@dataclass
class SourceState:
    """A foreign checkpoint taken apart: our key -> tensor, by the part it belongs to.

    vit: of `VideoViT`; fc_norm: `weight`, `bias`; classifier: `weight`, `bias`; rest: everything else, by its own name.
    """

    layout: str
    vit: dict[str, Tensor]
    fc_norm: dict[str, Tensor] = field(default_factory=dict)
    classifier: dict[str, Tensor] = field(default_factory=dict)
    rest: dict[str, Tensor] = field(default_factory=dict)


def detect_layout(keys: Iterable[str]) -> str:
    """Tell the layout from the names of the tensors.

    Raises UserError, with some of the names, when they belong to no video transformer that is known.
    """
    keys = list(keys)
    text = "\n".join(keys)
    if re.search(r"(?m)^(videomae\.)?encoder\.layer\.\d+\.attention\.", text):
        return "transformers_v5" if ".attention.query.bias" in text else "transformers"
    if re.search(r"(?m)^feature\.blocks\.", text):
        return "tamt"
    if re.search(r"(?m)^encoder\.blocks\.", text):
        return "videomae_pretrained"
    if re.search(r"(?m)^(backbone\.vit|backbone|vit)\.blocks\.", text):
        return "covey"
    if re.search(r"(?m)^blocks\.\d+\.attn\.qkv\.", text):
        return "videomae_finetuned"
    some = ", ".join(keys[:4])
    raise UserError(
        f"these are no weights of a video transformer (tensors {some}{', ...' if len(keys) > 4 else ''}): "
        f"known layouts are {'; '.join(LAYOUTS.values())}"
    )


def split_state(state: Mapping[str, Tensor]) -> SourceState:
    """Take a checkpoint of any known layout apart.

    Raises UserError for an unknown layout, or a key bias that is not zero (these networks have none).
    """
    state = {re.sub(r"^(module\.)+", "", key): value for key, value in state.items()}
    layout = detect_layout(state)
    if layout.startswith("transformers") and any(key.startswith("encoder.layer.") for key in state):
        bare = ("encoder.", "embeddings.", "layernorm.")  # the bare network, saved without its classifier
        state = {f"videomae.{key}" if key.startswith(bare) else key: value for key, value in state.items()}
    if layout == "covey":
        prefix = next(
            p
            for p in _OWN_PREFIXES
            if f"{p}patch_embed.proj.weight" in state or any(key.startswith(f"{p}blocks.") for key in state)
        )
        return _take(state, layout, lambda key: key if key.startswith("fc_norm.") else prefix + key, "head.")
    classifier = {"tamt": "", "transformers": "classifier.", "transformers_v5": "classifier."}.get(layout, "head.")
    result = _take(state, layout, lambda key: foreign_key(key, layout), classifier)
    for key in [key for key in result.rest if key.endswith(".attention.key.bias")]:
        if result.rest.pop(key).any():
            raise UserError(f"{key} is not zero: VideoMAE's attention has no bias on keys, so it can't be loaded")
    return result


def _take(
    state: dict[str, Tensor], layout: str, where: Callable[[str], str | list[str] | None], classifier: str
) -> SourceState:
    """Look every key of ours up at `where(key)`; what is left over goes to `rest`."""
    numbers = [int(n) for key in state for n in re.findall(r"(?:^|\.)(?:blocks|encoder\.layer)\.(\d+)\.", key)]
    left = dict(state)

    def pick(key: str) -> Tensor | None:
        place = where(key)
        if isinstance(place, list):
            return torch.cat([left.pop(p) for p in place]) if all(p in left for p in place) else None
        return left.pop(place, None) if place else None

    wanted = [*vit_keys(max(numbers, default=-1) + 1, layer_scale=True), "norm.weight", "norm.bias"]
    vit = {key: value for key in wanted if (value := pick(key)) is not None}
    norm = {leaf: value for leaf in ("weight", "bias") if (value := pick(f"fc_norm.{leaf}")) is not None}
    linear = {}
    if classifier:
        linear = {leaf: left.pop(classifier + leaf) for leaf in ("weight", "bias") if classifier + leaf in left}
    return SourceState(layout, vit, norm, linear, left)


def read_source(path: str | Path) -> SourceState:
    """Read a source checkpoint of any known layout; a folder stands for the model.safetensors in it."""
    path = Path(path)
    if path.is_dir():
        path = next((path / n for n in ("model.safetensors", "pytorch_model.bin") if (path / n).is_file()), path)
    state, _ = read_checkpoint(path)
    try:
        return split_state(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def load_source(
    model: nn.Module,
    path: str | Path,
    *,
    classifier: bool = False,
    say: Callable[[str], None] = print,
    flag: str = "--model.backbone",
) -> LoadReport:
    """Load a source checkpoint into a network and say what matched.

    model: a `VideoViT`, or a module that holds one as `vit` or `backbone`. Its `fc_norm`, directly in it or in a part
        `mix` or `pool`, is taken too where the file has one; `head` only with classifier=True.
    say: receives the report: the layout, how many tensors matched, what was missing, what the model does not want.
    flag: that names the backbone where this is called from, for the sentence about a network of other sizes.
    Raises UserError for a file of other sizes, and, naming the keys, when a tensor of the network is missing, has
    another shape, or the file has blocks that the network lacks. Nothing is loaded then.
    """
    source = read_source(path)
    prefix, vit = _find_vit(model)
    if text := other_sizes(source.vit, vit, flag):
        raise UserError(f"{path} {text}")
    own, inside = model.state_dict(), {prefix + key for key in vit.state_dict()}
    state = {prefix + key: value for key, value in source.vit.items() if not key.startswith("norm.") or vit.norm}
    norms = [name for name in _NORMS if f"{name}weight" in own]
    state |= {name + leaf: value for name in norms for leaf, value in source.fc_norm.items()}
    if classifier:
        state |= {f"head.{leaf}": value for leaf, value in source.classifier.items()}
    if strange := misplaced_blocks(source):
        raise UserError(
            f"{path} holds weights that this network has no place for ({', '.join(strange[:4])}): "
            "without them it would compute something else than what was trained"
        )
    fresh = tuple(key for key in own if key not in inside and key not in state)
    report = load_state(model, state, path, allow_missing=fresh)
    report.missing = sorted(fresh)
    report.unused = sorted(source.rest)
    report.unused += [] if norms else [f"fc_norm.{leaf}" for leaf in source.fc_norm]
    report.unused += [] if classifier else [f"classifier.{leaf}" for leaf in source.classifier]
    new = many(len(fresh), "tensor of the model starts", "tensors of the model start")
    say(f"{report}; layout: {LAYOUTS[source.layout]}; {new} fresh")
    for line in config_disagreements(Path(path), vit):
        say(line)
    return report


def misplaced_blocks(source: SourceState) -> list[str]:
    """Return the tensors inside blocks that no network of ours has, and that take part in what theirs computes."""
    return [key for key in source.rest if _BLOCK.match(key) and not _TUNED.search(key)]


def _find_vit(model: nn.Module) -> tuple[str, VideoViT]:
    """Return the prefix and the transformer inside a model."""
    for name, module in model.named_modules():
        if isinstance(module, VideoViT):
            return (f"{name}." if name else ""), module
    raise UserError("the model has no video transformer to load a source checkpoint into")


def config_disagreements(path: Path, vit: VideoViT) -> list[str]:
    """Compare a transformers config.json beside the weights with the network: its numbers are not used.

    Head counts leave no trace in the tensors, and the public conversion script wrote 16 for networks that have 6.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return []
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError):
        return [f"{file} can't be read as JSON and was not compared"]
    eps = vit.blocks[0].norm1.eps if vit.depth else 1e-6
    ours = {"num_attention_heads": vit.heads, "layer_norm_eps": eps, "tubelet_size": vit.patch_embed.size[0]}
    return [
        f"note: {file} says {name} = {config[name]}, the network has {value}, which is what counts"
        for name, value in ours.items()
        if name in config and config[name] != value
    ]
