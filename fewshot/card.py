"""Model cards: what a weights file says about itself, and models rebuilt from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import safetensors
import torch
from torch import Tensor, nn

from backbones import UserError, from_official, read_checkpoint
from backbones.checkpoint import load_state
from fewshot.encoder import Encoder
from fewshot.methods import create_encoder, find_method


@dataclass
class Architecture:
    """Everything needed to rebuild an encoder.

    method, backbone, backbone_options, reduce_dim, activation: see `fewshot.methods.create_encoder`.
    size: side in pixels of the training pictures. map_size: of the backbone's map at that size.
    mean, std: that pictures are normalised with, for the reader of the card; the backbone brings them itself.
    """

    method: str
    backbone: str
    backbone_options: dict[str, Any] = field(default_factory=dict)
    reduce_dim: int | None = None
    activation: str = "relu"
    size: int = 84
    map_size: tuple[int, int] = (10, 10)
    mean: tuple[float, ...] | None = field(default=None, compare=False)
    std: tuple[float, ...] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        self.map_size = tuple(self.map_size)  # JSON knows lists only

    def build(self) -> Encoder:
        """Build the encoder with random weights, and note how it wants pictures normalised."""
        encoder = create_encoder(
            self.method, self.backbone, self.backbone_options, self.reduce_dim, self.map_size, self.activation
        )
        self.mean, self.std = encoder.backbone.mean, encoder.backbone.std
        return encoder

    def card(self, stage: str, **facts: object) -> dict[str, object]:
        """Return the card of weights of this architecture; stage is 'pretrain', 'meta' or 'distill'."""
        own = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return {"stage": stage, **own, **facts}


@torch.no_grad()
def measure_map(backbone: nn.Module, size: int) -> tuple[int, int]:
    """Return (H, W) of the backbone's map for pictures of `size` pixels.

    Raises UserError when they are too small for the network, or not of the one size that it takes.
    """
    training = backbone.training
    try:
        shape = backbone.eval()(torch.zeros(1, 3, size, size)).shape
    except RuntimeError as error:
        raise UserError(
            f"pictures of {size} pixels are too small for the backbone ({str(error).splitlines()[0]}): raise the size"
        ) from error
    except (AssertionError, ValueError) as error:  # transformers, whose positions are of one size
        raise UserError(
            f"the backbone takes no pictures of {size} pixels ({str(error).strip() or type(error).__name__}): "
            "leave the size out"
        ) from error
    finally:
        backbone.train(training)
    return (shape[2], shape[3]) if len(shape) == 4 else (1, 1)


def design(
    method: str,
    backbone: str,
    backbone_options: dict[str, Any] | None = None,
    reduce_dim: int | None = None,
    activation: str = "relu",
    size: int | None = None,
) -> tuple[Architecture, Encoder]:
    """Build an encoder for pictures of `size` pixels (default: the backbone's) whose declared map is the real one."""
    plan = Architecture(method, backbone, dict(backbone_options or {}), reduce_dim, activation)
    encoder = plan.build()
    plan.size = size or encoder.backbone.input_size
    plan.map_size = measure_map(encoder.backbone, plan.size)
    fresh = getattr(encoder.pool, "temperature", None)
    if fresh is not None:
        nn.init.constant_(fresh, -torch.tensor(2.0 * plan.map_size[0] * plan.map_size[1]).log().item())
    return plan, encoder


def read_card(path: str | Path) -> dict[str, Any]:
    """Return the card in the header of a safetensors file, without its weights; empty where it has none."""
    with safetensors.safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("covey", "{}"))


@dataclass
class Loaded:
    """A model read from disk: its architecture, encoder, card, and the weights that belong to an episode head.

    trainer: the script that trains such heads, for messages.
    """

    architecture: Architecture
    encoder: Encoder
    card: dict[str, Any]
    state: dict[str, Tensor]
    trainer: ClassVar[str] = "tools.meta_train"

    def head_options(self) -> dict[str, Any]:
        """Return the options of the head that was trained with the encoder; none where another method is asked for."""
        return dict(self.card.get("head", {})) if self.architecture.method == self.card.get("method") else {}

    def load_head(self, head: nn.Module, training: bool = False) -> nn.Module:
        """Give the head the weights that were trained with the encoder, where it has any and the file holds them.

        training: they are about to be trained. Otherwise a head whose weights start at random (`random_start`; those
            of the other heads start at values that mean something) is refused where the file has none.
        """
        own = {key.removeprefix("head."): value for key, value in self.state.items() if key.startswith("head.")}
        if own and any(True for _ in head.parameters()):
            load_state(head, own, "head of the checkpoint")
        elif getattr(head, "random_start", False) and not training:
            raise UserError(
                f"there are no trained weights of the head {type(head).__name__}, and random ones tell nothing: train "
                f"it with {self.trainer} first, or name a method without such weights, such as protonet"
            )
        return head


def load_encoder(
    path: str | Path,
    fallback: Callable[[], Architecture] | None = None,
    say: Callable[[str], None] = print,
    method: str | None = None,
) -> Loaded:
    """Rebuild the encoder of a checkpoint.

    path: weights of covey, whose card names the architecture, or any layout that `backbones.load_weights` reads.
    fallback: returns the architecture of a file without a card; the width of its reduction is read off the file.
    method: whose pooling to build, when it is not the one that the file was trained for. Average pooling and whole
        maps have no weights and go with every backbone; BDC pooling needs weights that were trained with it.
    Raises UserError when the file is damaged, has no card and no fallback, or does not fit.
    """
    state, card = read_checkpoint(path)
    if "method" in card and "backbone" in card:
        known = {name: card[name] for name in Architecture.__dataclass_fields__ if name in card}
        plan = Architecture(**known)
    elif fallback is not None:
        plan = fallback()
        reduction = from_official(state).get("pool.reduce.0.weight")
        if reduction is not None:  # the file knows its number of channels, whatever the options' default is
            plan.reduce_dim = len(reduction)
    else:
        raise UserError(f"{path} does not say what network it is of: name --model.method and --model.backbone")
    plan.method = method or plan.method
    encoder = plan.build()
    own = from_official(state)
    if find_method(plan.method).pool == "bdc" and not any(key.startswith("pool.") for key in own):
        raise UserError(
            f"{path} has no BDC pooling, which {plan.method} needs trained together with the backbone: give weights "
            "that were pre-trained for a BDC method, or name a method on averaged or whole maps, such as good_embed"
        )
    report = load_state(encoder, state, path, drop=("classifier.", "head."))
    say(f"{report}" + (f" [{card['stage']}, epoch {card.get('epoch')}]" if "stage" in card else ""))
    return Loaded(plan, encoder, card, state)
