"""Numbers named by a key or a seed: the weights and the inputs of the reference vectors.

A vector stores no weights. A parameter is drawn from its reference name and shape, an input from its seed, and
everybody who follows these two rules gets the same numbers.
"""

from __future__ import annotations

import math
import zlib

import numpy as np


def fill(key: str, shape: tuple[int, ...] | list[int]) -> np.ndarray:
    """Return the float64 array that stands for the reference parameter `key`.

    The generator is seeded by the CRC-32 of the name. Counters are 0; running variances uniform on [0.5, 1.5);
    running means and other vectors 0.1 * normal, plus 1 for a norm's `weight`; weights normal / sqrt(fan in).
    """
    shape = tuple(shape)
    name = key.split(".")[-1]
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    match name:
        case "num_batches_tracked":
            return np.zeros(shape)
        case "running_var":
            return generator.random(shape) + 0.5
        case "running_mean":
            return generator.standard_normal(shape) * 0.1
    values = generator.standard_normal(shape)
    if len(shape) > 1:
        return values / math.sqrt(math.prod(shape[1:]))
    return float(name == "weight") + 0.1 * values


def draw(seed: int, shape: tuple[int, ...] | list[int]) -> np.ndarray:
    """Return the float64 standard normal array of a seed."""
    return np.random.default_rng(seed).standard_normal(tuple(shape))
