"""What every episode head needs: who is who, class means, and distances to them.

Shapes: E episodes, S support rows, Q query rows, K classes, D feature length. Labels are `(E, S)` integers in
`0..K-1`; a row labelled -1 is padding (episodes of unequal size in one batch) and takes no part in anything. The
order of the rows carries no meaning, and classes may have different numbers of rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PADDING = -1


class ClassRows(NamedTuple):
    """The support rows sorted into classes: `rows` (E, K, R, ...), zero where `mask` (E, K, R) is False."""

    rows: Tensor
    mask: Tensor


def check_episodes(support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> int:
    """Return the number of classes K of a batch of episodes, after checking that its three tensors belong together.

    support: (E, S, ...); support_labels: (E, S) integers, -1 = padding; query: (E, Q, ...).
    n_way: K, when the caller knows it; absent: the largest label + 1.
    Raises ValueError with the two shapes, or the label and the number of classes, that disagree.
    """
    if support.dim() < 3 or query.dim() != support.dim():
        raise ValueError(
            f"support {tuple(support.shape)} and query {tuple(query.shape)} need the same number of axes, "
            "(E, S, ...) and (E, Q, ...): add the episode axis with x[None] for one episode"
        )
    if support.shape[0] != query.shape[0] or support.shape[2:] != query.shape[2:]:
        raise ValueError(
            f"support {tuple(support.shape)} and query {tuple(query.shape)} differ in the number of episodes "
            "or in the feature shape; both come from the same encoder and the same episodes"
        )
    if support_labels.shape != support.shape[:2]:
        raise ValueError(
            f"support_labels {tuple(support_labels.shape)} must name every row of support {tuple(support.shape[:2])}"
        )
    if support_labels.is_floating_point() or support_labels.is_complex():
        raise ValueError(f"support_labels must be integers, got {support_labels.dtype}")
    if torch.compiler.is_compiling() and n_way is not None:  # an exported program can't look at the labels
        return n_way
    largest = int(support_labels.max()) if support_labels.numel() else PADDING
    if n_way is None:
        if largest < 0:
            raise ValueError("no support row has a label >= 0, so the number of classes is unknown: pass n_way")
        return largest + 1
    if largest >= n_way:
        raise ValueError(f"support label {largest} is outside 0..{n_way - 1}: raise n_way or renumber the episode")
    return n_way


def membership(labels: Tensor, n_way: int, dtype: torch.dtype) -> Tensor:
    """Return (E, S, K): 1 where row s belongs to class k, all zero in a padding row."""
    return (labels.unsqueeze(-1) == torch.arange(n_way, device=labels.device)).to(dtype)


def drop_padding(rows: Tensor, labels: Tensor) -> Tensor:
    """Return `rows` (E, S, ...) with its padding rows set to zero, so that not even a NaN in them can spread."""
    padding = labels < 0
    if not torch.compiler.is_compiling() and not bool(padding.any()):
        return rows
    return rows.masked_fill(padding.reshape(padding.shape + (1,) * (rows.dim() - 2)), 0.0)


def class_sums(rows: Tensor, labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
    """Return the sum of the rows of every class (E, K, ...) and the number of its rows (E, K)."""
    member = membership(labels, n_way, rows.dtype)
    sums = member.transpose(1, 2) @ drop_padding(rows, labels).flatten(2)
    return sums.reshape(sums.shape[:2] + rows.shape[2:]), member.sum(1)


def class_means(rows: Tensor, labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
    """Return the prototypes, the mean of the rows of every class (E, K, ...), and the row counts (E, K).

    A class without rows gets a zero prototype and the count 0; `mask_absent` turns its scores into -inf.
    """
    member = membership(labels, n_way, rows.dtype)
    counts = member.sum(1)
    weights = member / counts.clamp(min=1).unsqueeze(1)  # divided here, where it is small
    means = weights.transpose(1, 2) @ drop_padding(rows, labels).flatten(2)
    return means.reshape(means.shape[:2] + rows.shape[2:]), counts


def group_by_class(rows: Tensor, labels: Tensor, n_way: int) -> ClassRows:
    """Sort the rows (E, S, ...) into (E, K, R, ...), R the largest class, keeping their order inside a class."""
    member = membership(labels, n_way, torch.int64)
    counts = member.sum(1)
    # an exported program can't count: it makes room for every row in every class
    n_rows = labels.shape[1] if torch.compiler.is_compiling() else max(int(counts.max()), 1)
    place = ((member.cumsum(1) - 1) * member).sum(-1)  # how many rows of the same class came before this one
    slot = torch.where(labels < 0, n_way * n_rows, labels * n_rows + place)  # padding goes to one slot past the end
    index = labels.new_zeros(labels.shape[0], n_way * n_rows + 1, dtype=torch.int64)
    index.scatter_(1, slot, torch.arange(labels.shape[1], device=labels.device).expand_as(labels))
    episode = torch.arange(labels.shape[0], device=labels.device).unsqueeze(1)
    grouped = rows[episode, index[:, :-1]].reshape(rows.shape[0], n_way, n_rows, *rows.shape[2:])
    mask = torch.arange(n_rows, device=labels.device) < counts.unsqueeze(-1)
    return ClassRows(grouped.masked_fill(~mask.reshape(mask.shape + (1,) * (rows.dim() - 2)), 0.0), mask)


def mask_absent(logits: Tensor, counts: Tensor) -> Tensor:
    """Return logits (E, Q, K) with -inf for every class that has no support row (counts (E, K) is 0)."""
    return logits.masked_fill((counts == 0).unsqueeze(1), float("-inf"))


def squared_distances(query: Tensor, prototypes: Tensor, most_common: float = 16.0) -> Tensor:
    """Return the squared Euclidean distances (E, Q, K) between query (E, Q, D) and prototypes (E, K, D).

    Uses |u|^2 + |p|^2 - 2 u.p, so nothing of size Q*K*D exists. Second-order features share a large common part, with
    which the three terms would be huge and cancel to noise in float32 (see tests/episodes/test_class_rows.py): both
    sides are then moved by the mean prototype first. The distance does not depend on the shift, so the shift carries
    no gradient.
    most_common: how often the squared length of the mean prototype may hold the spread of the prototypes around it
        before they are moved. Below 16 the cancellation costs a digit at most, and the copy of the queries is saved.
    """
    query, prototypes, norms = _near_zero(query, prototypes, most_common)
    norms = _squared_norm(query).unsqueeze(1) + norms.unsqueeze(2)
    return torch.baddbmm(norms, prototypes, query.transpose(1, 2), alpha=-2).transpose(1, 2)


def nearest_rule(support: Tensor, labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
    """Return weights (E, K, D) and biases (E, K) by which u.w + b orders the classes as minus the distances |u - p| do.

    support: (E, S, D). p: the class means. For tests, which ask for the nearest prototype alone: |u|^2 need not be
    known, the queries are read once, and never copied. w = p - c with the mean c of the prototypes, so that a large
    common part of all features does not drown the differences; b = -w.(w / 2 + c), -inf without support.
    """
    member = membership(labels, n_way, support.dtype)
    counts = member.sum(1)
    share = member / counts.clamp(min=1).unsqueeze(1)
    middle = share.mean(2, keepdim=True)
    rows = drop_padding(support, labels)
    weight = (share - middle).transpose(1, 2) @ rows  # the difference is taken where it is small
    common = (weight @ (middle.transpose(1, 2) @ rows).transpose(1, 2)).squeeze(2)
    bias = -(_squared_norm(weight) / 2 + common)
    return weight, bias.masked_fill(counts == 0, float("-inf"))


def _near_zero(query: Tensor, prototypes: Tensor, most_common: float) -> tuple[Tensor, Tensor, Tensor]:
    """Move both sides by the mean prototype where it is long; returns them and the squared norms of the prototypes."""
    gram = prototypes @ prototypes.transpose(1, 2)
    norms = gram.diagonal(dim1=1, dim2=2)
    common = gram.detach().mean((1, 2))  # the squared length of the mean prototype
    spread = norms.detach().mean(1) - common  # noise, or below zero, where the common part is huge
    if torch.compiler.is_compiling() or not bool((common < most_common * spread).all()):
        centre = prototypes.detach().mean(1, keepdim=True)
        query, prototypes = query - centre, prototypes - centre
        norms = _squared_norm(prototypes)
    return query, prototypes, norms


def inner_products(query: Tensor, prototypes: Tensor) -> Tensor:
    """Return the inner products (E, Q, K) of query (E, Q, D) and prototypes (E, K, D).

    (K, D) x (D, Q) is computed up to twice as fast as (Q, D) x (D, K), here and for the distances.
    """
    return (prototypes @ query.transpose(1, 2)).transpose(1, 2)


def _squared_norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1).square()  # unlike a sum of squares, without a copy


def unit(rows: Tensor, dim: int = -1, eps: float = 1e-12) -> Tensor:
    """Return rows / L2 norm along an axis. A zero row stays zero and has no gradient.

    (`torch.nn.functional.normalize` gives a zero row, such as a dead cell of a rectified map, a slope of 1 / eps, which
    one step of SGD turns into a map of 1e10.)
    """
    return rows * inverse_length(rows, dim, eps)


def inverse_length(rows: Tensor, dim: int = -1, eps: float = 1e-12) -> Tensor:
    """Return 1 / L2 norm along an axis, which is kept; 0, without gradient, for a row whose norm is at most eps."""
    length = torch.linalg.vector_norm(rows, dim=dim, keepdim=True)
    return torch.where(length > eps, 1 / length.clamp(min=eps), 0.0)


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors with float16 and bfloat16 widened to float32: scores are differences of large sums."""
    return tuple(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)
