"""Networks to train or test: a published one by its name, or any backbone with any pooling layer or token head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from backbones import NETWORKS, SoTHead, SoViTHead, TokenClassifier, UserError, create_backbone, create_network
from backbones.classifier import ImageClassifier
from backbones.errors import nearest, unknown_option
from backbones.external import FeatureMap
from backbones.pooled import POOLS, Cost, cost, with_pooling
from classify.class_token import ClassTokenHead
from moments import BDC, CovariancePool

# Heads over tokens, which stand in the place of a pooling layer.
HEADS: dict[str, type[nn.Module]] = {"so_vit": SoViTHead, "sot": SoTHead, "class_token": ClassTokenHead}


@dataclass
class Design:
    """Everything needed to rebuild a network.

    name: of `backbones.create_network`, or of `create_backbone` where a pool is named.
    pool: of `backbones.pooled.POOLS`, or a token head: so_vit, sot or class_token; None: as published.
    pool_options: of that layer (iterations, order, ...). options: of the backbone, or of the published network.
    last_stride, reduction: see `with_pooling`.
    size: side in pixels of the pictures that it was trained on.
    """

    name: str
    pool: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    pool_options: dict[str, Any] = field(default_factory=dict)
    last_stride: int | None = None
    reduction: list[int] | int | None = None
    dropout: float = 0.0
    size: int | None = None

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Design:
        """Return the design that a card tells.

        Raises UserError for cards of another version.
        """
        try:
            return cls(**card["design"])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"the card of this checkpoint does not tell its network in words of this version ({error}): load it "
                "with the version that wrote it"
            ) from error

    def build(self, num_classes: int) -> nn.Module:
        """Build the network with fresh weights, and note its size where none is given.

        Raises UserError for unknown names and options, and options that are of no use to this network.
        """
        network = self._published(num_classes) if self.pool is None else self._assembled(num_classes)
        self.size = self.size or network.input_size
        return network

    def _published(self, num_classes: int) -> nn.Module:
        if self.name not in NETWORKS:
            raise UserError(
                f"network '{self.name}' is unknown{nearest(self.name, NETWORKS)} (or name what pools a backbone of "
                f"this name: --network.pool {', '.join([*POOLS, *HEADS])})"
            )
        for option, value in (("last_stride", self.last_stride), ("reduction", self.reduction)):
            if value is not None:
                raise UserError(
                    f"network.{option} is of a backbone with network.pool; {self.name} takes what it has as "
                    f"network.options.{option}"
                )
        for option, value in (("pool_options", self.pool_options), ("dropout", self.dropout)):
            if value:
                raise UserError(f"network.{option} is of a backbone with network.pool: see network.options for others")
        return create_network(self.name, num_classes, **self.options)

    def _assembled(self, num_classes: int) -> nn.Module:
        if self.pool not in (*POOLS, *HEADS):
            raise UserError(f"pooling '{self.pool}' is unknown{nearest(self.pool, [*POOLS, *HEADS])}")
        backbone = create_backbone(self.name, **self.options)
        options = {"size": self.size, "last_stride": self.last_stride, "dropout": self.dropout, **self.pool_options}
        if self.pool in POOLS:
            return with_pooling(backbone, self.pool, num_classes, reduction=self.reduction, **options)
        if self.last_stride is not None or self.reduction is not None:
            raise UserError(f"network.last_stride and network.reduction are of pooling layers, not of {self.pool}")
        options = {"dropout": self.dropout, **self.pool_options}
        if self.pool == "sot" and not _has_class_token(backbone):
            options = {"class_token": False, **options}
        try:
            return TokenClassifier(backbone, HEADS[self.pool](backbone.out_channels, num_classes, **options))
        except (TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            reason = unknown_option(HEADS[self.pool], options) or error
            raise UserError(f"the head '{self.pool}' does not take these options: {reason}") from error

    def backbone(self) -> tuple[str, dict[str, Any]]:
        """Return name and options for `create_backbone`, by which the few-shot and other rooms rebuild the backbone."""
        if self.pool is None:
            return f"network:{self.name}", dict(self.options)
        stride = {} if self.last_stride is None else {"last_stride": self.last_stride}
        return self.name, {**self.options, **stride}


def _has_class_token(backbone: nn.Module) -> bool:
    return hasattr(backbone, "token_sequence") or (isinstance(backbone, FeatureMap) and backbone.prefix_tokens > 0)


def steps_and_order(network: nn.Module) -> dict[str, Any]:
    """Return what shapes of weights do not tell: Newton-Schulz steps and order of triangles, where there are any."""
    pool = getattr(network, "pool", None)
    found = {
        "iterations": getattr(getattr(pool, "power", None), "iterations", None),
        "order": getattr(pool, "order", None) if getattr(pool, "vectorize", False) else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def make_card(design: Design, network: nn.Module, class_names: list[str], **facts: Any) -> dict[str, Any]:
    """Return the card of weights: enough for `Design.of_card`, and for the few-shot scripts to take the backbone.

    They read method, backbone and reduce_dim: BDC pooling is theirs as it is, of all others they take the backbone and
    average its map.
    """
    backbone, options = design.backbone()
    bdc = design.pool == "bdc"
    map_size = measure(network, design.size)
    return {
        "stage": "classify",
        "design": asdict(design),
        "method": "stl_deepbdc" if bdc else "good_embed",
        "backbone": backbone,
        "backbone_options": options,
        "reduce_dim": design.reduction if bdc else None,
        "size": design.size,
        "map_size": list(map_size),
        "mean": list(network.mean),
        "std": list(network.std),
        "num_classes": len(class_names),
        "class_names": class_names,
        **steps_and_order(network),
        **facts,
    }


@torch.no_grad()
def measure(network: nn.Module, size: int) -> tuple[int, int]:
    """Return (h, w) of the backbone's map for pictures of `size` pixels, and check that the whole network takes them.

    Raises UserError when they are too small for the network's stride, or not of the one size that it takes, and when a
    map of one position leaves a covariance nothing to vary.
    """
    training, weight = network.training, next(network.parameters())
    blank = torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype)
    try:
        shape = network.eval().backbone(blank).shape
        network(blank)
    except RuntimeError as error:
        raise UserError(
            f"pictures of {size} pixels are too small for the network ({str(error).splitlines()[0]}): raise data.size"
        ) from error
    except (AssertionError, ValueError) as error:  # transformers, whose positions are of one size
        raise UserError(
            f"the network takes no pictures of {size} pixels ({str(error).strip() or type(error).__name__}): "
            "leave data.size out, or build it for them (network.options, for instance {input_size: " + f"{size}" + "})"
        ) from error
    finally:
        network.train(training)
    if shape[2] * shape[3] == 1 and _needs_positions(getattr(network, "pool", None)):
        raise UserError(
            f"pictures of {size} pixels give a map of one position, of which there is no covariance: raise data.size, "
            "or keep the last map larger with network.last_stride 1"
        )
    return shape[2], shape[3]


def _needs_positions(pool: nn.Module | None) -> bool:
    return isinstance(pool, BDC) or (isinstance(pool, CovariancePool) and not pool.gaussian)


def costs(network: nn.Module, size: int) -> tuple[Cost, Cost]:
    """Return what a network costs, and what the same backbone costs with average pooling (its strides as they are)."""
    own = cost(network, size)
    return own, cost(ImageClassifier(network.backbone, None, count_outputs(network)), size)


def count_outputs(network: nn.Module) -> int:
    """Return how many classes a network tells apart."""
    head = network.classifier if isinstance(network, ImageClassifier) else network.head
    return [layer.out_features for layer in head.modules() if isinstance(layer, nn.Linear)][-1]
