"""Exact powers of the singular values of rectangular matrices: what `moments.svpn` estimates by power iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from moments.power import matrix_power


def singular_power(matrix: Tensor, alpha: float = 0.5) -> Tensor:
    """U diag(s^alpha) V^T of matrices U diag(s) V^T (exact svPN; So-ViT, Xie et al., 2021).

    matrix: (B, m, n); alpha: the power, above 0.
    Returns (B, m, n) in float32 or better, whatever autocast says around. A zero matrix: zeros, zero gradient.
    Raises ValueError for another shape or alpha that is not above 0.

    Computed as Q (Q^T Q)^((alpha - 1) / 2) on the shorter side, in float64, since the product squares the condition.
    First and second derivatives are exact, with repeated singular values too, where no singular value is zero.
    """
    if matrix.dim() != 3:
        raise ValueError(f"singular_power wants (B, m, n) matrices, got shape {tuple(matrix.shape)}")
    if alpha <= 0:
        raise ValueError(f"alpha is {alpha}: singular values want a power above 0")
    with torch.autocast(matrix.device.type, enabled=False):
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        if alpha == 1:
            return matrix
        wide = matrix.shape[1] < matrix.shape[2]
        tall = (matrix.mT if wide else matrix).double()
        result = (tall @ matrix_power(tall.mT @ tall, (alpha - 1) / 2)).to(matrix.dtype)
        return result.mT if wide else result
