"""What an adapter is given (`Case`) and what it returns (`Result`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.reference.inputs import build_input, build_weights
from tests.reference.load import Vector


@dataclass
class Result:
    """Quantities an adapter computed.

    values: quantity -> tensor, array, number or literal. Tensors keep their graph when gradients are asked for.
    leaves: gradient quantity -> the tensor it is the gradient of: {"grad_x": x, "grad/temperature": parameter}.
    A quantity that is already a gradient may also stand in `values`.
    """

    values: dict[str, Any]
    leaves: dict[str, Tensor] = field(default_factory=dict)


class Case:
    """One vector made concrete: arguments, inputs and weights, in the dtype the test runs in."""

    def __init__(self, vector: Vector, dtype: torch.dtype | None = None):
        """dtype: float32 for the float32 run of an item; None: the dtype of the item's inputs."""
        self.vector = vector
        self.args: Mapping[str, Any] = vector.item.get("args") or {}
        self.mode: str = vector.item.get("mode") or "eval"
        recipes = vector.item.get("inputs") or {}
        inputs = {name: build_input(recipe, vector.arrays) for name, recipe in recipes.items()}
        self.dtype = dtype or _dtype_of(inputs)
        self.inputs: dict[str, Any] = {name: self._cast(value) for name, value in inputs.items()}

    def _cast(self, value):
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            return [self._cast(v) for v in value]
        if not isinstance(value, np.ndarray):
            return value
        tensor = torch.from_numpy(np.array(value))  # a copy: stored arrays are shared between tests
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def weights(self, model: str = "model") -> dict[str, Tensor]:
        """Return the reference state dict of one of the item's models; empty when the item has no weights."""
        recipe = (self.vector.item.get("weights") or {}).get(model)
        if recipe is None:
            return {}
        state = build_weights(recipe, self.vector.keys, self.vector.arrays)
        return {
            key: torch.tensor(value, dtype=torch.int64 if key.endswith("num_batches_tracked") else self.dtype)
            for key, value in state.items()
        }

    @property
    def wants_gradients(self) -> bool:
        return bool(self.vector.item.get("gradients"))


def _dtype_of(inputs: Mapping[str, Any]) -> torch.dtype:
    for value in inputs.values():
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, np.ndarray) and first.dtype.kind == "f":
            return torch.from_numpy(np.empty(0, first.dtype)).dtype
    return torch.float64
