"""Square roots of covariance matrices by a fixed number of Newton-Schulz steps (iSQRT-COV, Li et al., CVPR 2018).

The published iteration is Y <- Y T, Z <- Z T with T = (3 I - Z Y) / 2, from Y = A and Z = I. Everything in it is a
polynomial in A, so all factors commute, and P = Z Y follows a rule of its own: T = (3 I - P) / 2, P <- P T^2. That
gives the same Y with the same number of products, but a much shorter derivative: with symmetric gradients a step back
takes four products where differentiating the published form takes six, and a seventh to make T again.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moments.transforms import merge_axis

NORMS = ("trace", "frobenius")
# Rounding grows from here on: in float32 the error rises again, and about step 30 the iteration overflows.
MANY_STEPS = 15

# Bytes of one batch of matrices that is worked on at a time: what stays in a core's cache is not fetched again.
_CPU_BLOCK_BYTES = 1 << 18

States = list[tuple[Tensor, Tensor]]
# Tensors to write to: where nothing is recorded they spare fetching fresh memory for every product. None: a new one.
Places = Sequence[Tensor | None]


def _factor(p: Tensor, out: Tensor | None) -> Tensor:
    """Return T = (3 I - P) / 2."""
    t = torch.mul(p, -0.5, out=out)
    t.diagonal(dim1=1, dim2=2).add_(1.5)
    return t


def _iterate(a: Tensor, iterations: int, keep: Sequence[Places], work: Places, out: Tensor | None) -> tuple:
    """Return Y after the last step, and the states that lead there.

    States are (P, Y) as they stood before the second step, the third, ... The last two steps of three or more are taken
    together, which saves a product: Y M with M = T T'; their second state is (P^2, M).
    keep: two places for each step but the first; work: two places; out: the place of the result.
    """
    t = _factor(a, work[0])
    if iterations == 1:
        return torch.bmm(a, t, out=out), []
    y = torch.bmm(a, t, out=keep[0][1])
    p = torch.bmm(y, t, out=keep[0][0])
    states = [(p, y)]
    if iterations == 2:
        return torch.bmm(y, _factor(p, work[0]), out=out), states
    for places in keep[1:-1]:
        t = _factor(p, work[0])
        y = torch.bmm(y, t, out=places[1])
        p = torch.bmm(torch.bmm(p, t, out=work[1]), t, out=places[0])
        states.append((p, y))
    # the last two factors in one: M = (36 I - 39 P + 27 Q + Q (Q - 9 P)) / 16 with Q = P^2
    q = torch.bmm(p, p, out=keep[-1][0])
    m = torch.mul(q, 27 / 16, out=keep[-1][1]).sub_(p, alpha=39 / 16)
    m.diagonal(dim1=1, dim2=2).add_(36 / 16)
    m = torch.baddbmm(m, q, torch.mul(q, 1 / 16, out=work[0]).sub_(p, alpha=9 / 16), out=keep[-1][1])
    return torch.bmm(y, m, out=out), [*states, (q, m)]


def _iterate_back(a: Tensor, states: States, grad: Tensor, work: Places) -> Tensor:
    """Return the symmetric gradient by a for the symmetric gradient `grad` by the last Y.

    From y' = (3 y - y p) / 2 and p' = (9 p - 6 p^2 + p^3) / 4: G_y <- G_y T, and with U = G_p P, U^T P = P U and
    sym(X) = (X + X^T) / 2, G_p <- sym(9/4 G_p - 3 U + P (U^T + U / 2) / 2 - Y G_y / 2). G_p must be symmetric; G_y need
    not be, as only the symmetric part of Y G_y counts. A transposed sum costs a third of a product: hence this form.

    work: six places.
    """
    place_u, place_w, place_x, place_p, place_y, other_y = work
    grad_y, grad_p = grad, None
    if len(states) > 1:  # the last two steps: by M, then by Q, then by P
        *states, (p, y), (q, m) = states
        x = torch.bmm(y, grad_y, out=place_x)
        by_m = torch.add(x, x.mT, out=place_w)  # twice the gradient
        v = torch.bmm(q, by_m, out=place_u)
        x = torch.mul(by_m, 27 / 32, out=place_x).add_(v, alpha=1 / 16)
        x = torch.baddbmm(x, p, by_m, alpha=-9 / 32, out=place_x)
        by_q = torch.add(x, x.mT, out=place_p)  # twice, too
        x = torch.mul(by_m, -39 / 64, out=place_x).sub_(v, alpha=9 / 64)
        x = torch.baddbmm(x, p, by_q, alpha=0.5, out=place_x)
        grad_p, grad_y = torch.add(x, x.mT, out=place_p), torch.bmm(grad_y, m, out=place_y)
        place_y, other_y = other_y, place_y
    for p, y in reversed(states):
        if grad_p is None:  # the last of two steps makes no P
            x = torch.bmm(y, grad_y, out=place_x).mul_(-0.25)
        else:
            u = torch.bmm(grad_p, p, out=place_u)
            w = torch.add(u.mT, u, alpha=0.5, out=place_w)
            x = torch.mul(grad_p, 1.125, out=place_x).sub_(u, alpha=1.5)
            x = torch.baddbmm(x, p, w, alpha=0.25, out=place_x)
            x = torch.baddbmm(x, y, grad_y, alpha=-0.25, out=place_x)
        grad_p = torch.add(x, x.mT, out=place_p)
        grad_y = torch.baddbmm(grad_y, grad_y, p, beta=1.5, alpha=-0.5, out=place_y)
        place_y, other_y = other_y, place_y
    if grad_p is None:  # one step in all: Y = A T
        x = torch.baddbmm(grad_y, grad_y, a, beta=0.75, alpha=-0.5, out=place_x)
    else:  # P and Y are both a: the products with it are put together
        u = torch.bmm(grad_p, a, out=place_u)
        w = torch.add(torch.sub(u, grad_y, out=place_x).mT, u, alpha=0.5, out=place_w).sub_(grad_y)
        x = torch.mul(grad_p, 1.125, out=place_x).sub_(u, alpha=1.5).add_(grad_y, alpha=0.75)
        x = torch.baddbmm(x, a, w, alpha=0.25, out=place_x)
    return torch.add(x, x.mT, out=place_p)


def _sizes(matrix: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Return (B, 1, 1) what to divide by, and the factor that puts it back: zero for a matrix without variance."""
    if norm == "trace":
        size = matrix.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    else:
        size = torch.linalg.matrix_norm(matrix)[:, None, None]
    # Not `size > tiny`: a NaN must stay one, and so must the root of something that is no covariance.
    dead = size.abs() <= torch.finfo(matrix.dtype).tiny
    size = size.masked_fill(dead, 1.0)
    return size, size.sqrt().masked_fill(dead, 0.0)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return (B, 1, 1) sums of products over whole matrices."""
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))[:, None, None]


def _root_back(
    matrix: Tensor, root: Tensor, states: States, grad: Tensor, eps: float, norm: str, work: Places = (None,) * 8
) -> Tensor:
    """Return the symmetric gradient by `matrix`. Without places to work in, it can be differentiated again."""
    size, factor = _sizes(matrix, norm)
    divisor = size + eps
    by_size = _inner(grad, root) / (2 * size)
    a = torch.div(matrix, divisor, out=work[6])
    start = torch.mul(grad, factor / 2, out=work[2])
    start = torch.add(start, start.mT, out=work[5])
    grad_a = _iterate_back(a, states, start, work[:6])
    by_size = by_size - _inner(grad_a, a) / divisor
    result = torch.div(grad_a, divisor, out=work[7])
    if norm == "trace":
        result.diagonal(dim1=1, dim2=2).add_(by_size[:, :, 0])
        return result
    return result.add_(matrix * (by_size / size))


def _plain_root(matrix: Tensor, iterations: int, eps: float, norm: str) -> tuple[Tensor, States]:
    """Return the roots, and what the way back needs, in ordinary differentiable operations."""
    size, factor = _sizes(matrix, norm)
    keep = [(None, None)] * (iterations - 1)
    y, states = _iterate(matrix / (size + eps), iterations, keep, (None, None), None)
    return y * factor, states


def _blocks(matrix: Tensor) -> tuple[int, list[slice]]:
    """Return how many matrices are worked on at a time, and the slices of the batch."""
    batch, d, _ = matrix.shape
    step = batch
    if matrix.device.type == "cpu":
        step = min(batch, max(1, _CPU_BLOCK_BYTES * torch.get_num_threads() // (d * d * matrix.element_size())))
    return step, [slice(start, start + step) for start in range(0, batch, step)] if batch else []


class _Back(torch.autograd.Function):
    """The first derivative, block by block in places that are used again; it cannot be differentiated further."""

    @staticmethod
    def forward(matrix: Tensor, root: Tensor, kept: Tensor, grad: Tensor, eps: float, norm: str) -> Tensor:
        step, blocks = _blocks(matrix)
        result, d = torch.empty_like(matrix), matrix.shape[1]
        places = matrix.new_empty(7, step, d, d)
        for block in blocks:
            part = matrix[block]
            states = [(p, y) for p, y in kept[:, :, block]]
            work = (*places[:, : len(part)], result[block])
            _root_back(part, root[block], states, grad[block], eps, norm, work)
        return result

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info, in_dims: tuple, matrix: Tensor, root: Tensor, kept: Tensor, grad: Tensor, eps: float, norm: str):
        """Put the mapped axis and the batch together."""
        many = info.batch_size
        matrix, root, grad = (
            merge_axis(x, dim, many) for x, dim in zip((matrix, root, grad), (*in_dims[:2], in_dims[3]), strict=True)
        )
        kept = merge_axis(kept, in_dims[2], many, 2)
        return _Back.apply(matrix, root, kept, grad, eps, norm).unflatten(0, (many, -1)), 0


class _Root(torch.autograd.Function):
    """Roots with the short derivative; the states of the iteration are kept, A is made again from the input.

    When the backward pass will be differentiated itself, the states are made again in differentiable operations: kept
    ones would count as constants, and the second derivative would silently be wrong.
    """

    @staticmethod
    def forward(matrix: Tensor, iterations: int, eps: float, norm: str, training: bool) -> tuple[Tensor, Tensor]:
        """Return the roots and the states (N - 1, 2, B, d, d); the latter are empty unless `training`."""
        (batch, d, _), (step, blocks) = matrix.shape, _blocks(matrix)
        root, work = torch.empty_like(matrix), matrix.new_empty(3, step, d, d)
        kept = matrix.new_empty(iterations - 1 if training else 0, 2, batch, d, d)
        turns = None if training else matrix.new_empty(2, 2, step, d, d)  # no step is kept: two places are enough
        size, factor = _sizes(matrix, norm)
        for block in blocks:
            t, r, a = work[:, : len(matrix[block])]
            if training:
                keep = kept[:, :, block]
            else:
                keep = [turns[number % 2, :, : len(a)] for number in range(iterations - 1)]
            torch.div(matrix[block], size[block] + eps, out=a)
            _iterate(a, iterations, keep, (t, r), root[block])[0].mul_(factor[block])
        return root, kept

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        matrix, ctx.iterations, ctx.eps, ctx.norm, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(matrix, *output)

    @staticmethod
    def backward(ctx, grad: Tensor | None, _) -> tuple[Tensor | None, None, None, None, None]:
        if grad is None:
            return (None,) * 5
        matrix, root, kept = ctx.saved_tensors
        with torch.autocast(matrix.device.type, enabled=False):
            if torch.is_grad_enabled() or len(kept) < ctx.iterations - 1:
                matrix = (matrix + matrix.mT) / 2  # so is the gradient that the second pass brings here
                root, states = _plain_root(matrix, ctx.iterations, ctx.eps, ctx.norm)
                return _root_back(matrix, root, states, grad, ctx.eps, ctx.norm), None, None, None, None
            return _Back.apply(matrix, root, kept, grad, ctx.eps, ctx.norm), None, None, None, None

    @staticmethod
    def vmap(info, in_dims: tuple, matrix: Tensor, iterations: int, eps: float, norm: str, training: bool):
        """Put the mapped axis and the batch together."""
        matrix = merge_axis(matrix, in_dims[0], info.batch_size)
        root, kept = _Root.apply(matrix, iterations, eps, norm, training)
        many = info.batch_size
        return (root.unflatten(0, (many, -1)), kept.unflatten(2, (many, -1))), (0, 2)


def newton_schulz_root(matrix: Tensor, iterations: int, *, eps: float = 0.0, norm: str = "trace") -> Tensor:
    """Approximate square roots of symmetric positive semi-definite matrices.

    matrix: (B, d, d), symmetric; the gradient is the symmetric one. Rank-deficient ones are fine: the result is a
        polynomial in the matrix.
    iterations: number of steps N, part of a model and not a matter of accuracy: 3 or 5 steps are far from the exact
        root, and weights trained with N steps need N steps.
    eps: added to the norm in the division (1e-5 in TCP and TAMT, 0 in MPN-COV), not where the norm is put back.
    norm: what matrices are divided by first, "trace" or "frobenius"; both bring the spectrum into [0, 1].
    Returns (B, d, d) in float32 or better, whatever autocast says around.
    A zero matrix (no variance at all) gives zeros and a zero gradient, where the formula would give 0/0.
    Raises ValueError for another shape, fewer than one step or an unknown norm; warns above 15 steps.

    First and second derivatives are exact. Source: iSQRT-COV, equations 2 to 4.

    `torch.compile` traces ordinary operations instead, without a graph break: the same numbers, element-wise work fused
    (on a GPU by Triton). On a CPU it is no faster and keeps more (8 x 256 x 256, 5 steps: 22 MB where this takes 14);
    on a GPU neither has been measured.
    """
    if matrix.dim() != 3 or matrix.shape[1] != matrix.shape[2]:
        raise ValueError(f"newton_schulz_root wants (B, d, d) matrices, got shape {tuple(matrix.shape)}")
    _check(iterations, norm)
    with torch.autocast(matrix.device.type, enabled=False):
        matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        if torch.compiler.is_compiling():
            matrix = (matrix + matrix.mT) / 2  # gives the symmetric gradient here too
            return _plain_root(matrix, iterations, eps, norm)[0]
        return _Root.apply(matrix, iterations, eps, norm, matrix.requires_grad and torch.is_grad_enabled())[0]


def _check(iterations: int, norm: str) -> None:
    if iterations < 1:
        raise ValueError(f"{iterations} Newton-Schulz steps: at least one is needed")
    if norm not in NORMS:
        raise ValueError(f"norm '{norm}' is unknown: use one of {', '.join(NORMS)}")
    if iterations > MANY_STEPS:
        warnings.warn(
            f"{iterations} Newton-Schulz steps lose accuracy again to rounding: 3 to 10 are usual", stacklevel=3
        )


class NewtonSchulzRoot(nn.Module):
    """`newton_schulz_root` as a layer: (B, d, d) -> (B, d, d). It has no weights, but is part of what weights mean."""

    def __init__(self, iterations: int = 5, eps: float = 0.0, norm: str = "trace") -> None:
        super().__init__()
        _check(iterations, norm)
        self.iterations, self.eps, self.norm = iterations, eps, norm

    def forward(self, matrix: Tensor) -> Tensor:
        """Return the roots."""
        return newton_schulz_root(matrix, self.iterations, eps=self.eps, norm=self.norm)

    def extra_repr(self) -> str:
        """Show the steps in printed models."""
        return f"iterations={self.iterations}, eps={self.eps}, norm='{self.norm}'"
