"""What layers with a derivative of their own need for `torch.func.vmap`, `jacrev` and their like."""

from __future__ import annotations

from torch import Tensor


def merge_axis(x: Tensor, dim: int | None, many: int, batch_dim: int = 0) -> Tensor:
    """Merge the axis of a function transform, `many` long, into the batch axis (counted without it).

    dim: where the axis is; None: x is the same for all, and is repeated.
    """
    if dim is None:
        x = x.unsqueeze(batch_dim).expand(*x.shape[:batch_dim], many, *x.shape[batch_dim:])
    else:
        x = x.movedim(dim, batch_dim)
    return x.flatten(batch_dim, batch_dim + 1)
