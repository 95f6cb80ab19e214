"""The Newton-Schulz root as it is commonly computed, which the bench compares with: a backward pass by hand.

Written here from the formulas of iSQRT-COV (Li et al., CVPR 2018): all Y and Z are kept, and every step back makes T
again and takes six products. The first step forward needs no product with the identity, the last none for Z, and the
last step back has no gradient of Z, so these are left out on this side too. It is exact, but for second derivatives: it
treats the kept iterates as constants.
"""

from __future__ import annotations

import torch
from torch import Tensor


class _SavedIterates(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix: Tensor, iterations: int) -> Tensor:
        trace = matrix.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
        a = matrix / trace
        three = 3 * torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
        t = (three - a) / 2
        ys, zs = [a, a.bmm(t)], [t]
        for _ in range(iterations - 2):
            t = (three - zs[-1].bmm(ys[-1])) / 2
            ys.append(ys[-1].bmm(t))
            zs.append(t.bmm(zs[-1]))
        if iterations > 1:
            ys.append(ys[-1].bmm((three - zs[-1].bmm(ys[-1])) / 2))
        ctx.save_for_backward(matrix, trace, *ys, *zs)
        ctx.iterations = iterations
        return ys[-1] * trace.sqrt()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        matrix, trace, *kept = ctx.saved_tensors
        ys, zs = kept[: ctx.iterations + 1], kept[ctx.iterations + 1 :]  # Y_0 to Y_N, then Z_1 to Z_(N-1)
        eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
        grad_y, grad_z = trace.sqrt() * grad, None
        for step in range(ctx.iterations - 1, 0, -1):
            y, z = ys[step], zs[step - 1]
            t = (3 * eye - z.bmm(y)) / 2
            grad_t = y.mT.bmm(grad_y)
            if grad_z is not None:
                grad_t = grad_t + grad_z.bmm(z.mT)
            before_z = -grad_t.bmm(y.mT) / 2
            grad_z = before_z if grad_z is None else before_z + t.mT.bmm(grad_z)
            grad_y = grad_y.bmm(t.mT) - z.mT.bmm(grad_t) / 2
        grad_t = ys[0].mT.bmm(grad_y)
        if grad_z is not None:
            grad_t = grad_t + grad_z
        grad_a = grad_y.bmm((3 * eye - ys[0]).mT / 2) - grad_t / 2
        by_trace = (grad * ys[-1]).sum(dim=(1, 2), keepdim=True) / (2 * trace.sqrt())
        by_trace = by_trace - (grad_a * matrix).sum(dim=(1, 2), keepdim=True) / trace**2
        return grad_a / trace + eye * by_trace, None


def saved_iterates_root(matrix: Tensor, iterations: int) -> Tensor:
    """Roots of (B, d, d) covariances, like `moments.newton_schulz_root` with the trace; (B, d, d)."""
    return _SavedIterates.apply(matrix, iterations)
