"""Independent random streams from a tuple of numbers, never from sums or global state."""

from __future__ import annotations

import numpy as np
import torch

# What a stream is for; the first number of every tuple, so that no two purposes share a stream.
ORDER, AUGMENT, MODEL, INIT, MASK = 1, 2, 3, 4, 5


def derive(*parts: int) -> int:
    """Return a 63-bit seed that depends on every part and its place; one purpose must always give as many parts.

    (numpy's seed sequence takes zeros at the end for nothing: (1, 2) and (1, 2, 0) are one stream.)
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def torch_generator(*parts: int) -> torch.Generator:
    """Return a CPU generator seeded with `derive(*parts)`."""
    return torch.Generator().manual_seed(derive(*parts))
