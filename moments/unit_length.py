"""Division of vectors by their length, with finite derivatives of both orders where a vector is zero."""

from __future__ import annotations

from torch import Tensor


def unit_length(x: Tensor, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Divide by max(length, eps), the length of the vectors along `dim`.

    The values and gradients of `torch.nn.functional.normalize`, whose second derivative is NaN at a zero vector, since
    that of the square root is infinite there: vectors not longer than eps are divided by a constant here.
    """
    square = x.square().sum(dim, keepdim=True)
    return x / square.masked_fill(square <= eps * eps, eps * eps).sqrt()
