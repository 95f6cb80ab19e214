"""Upper triangles of square matrices, with index tables that are built once per size and device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

ORDERS = ("row", "column")


def _entries(d: int, device: torch.device, order: str) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the entries of an upper triangle."""
    if order == "row":
        row, column = torch.triu_indices(d, d, device=device)
    else:  # column by column is the lower triangle row by row, transposed
        column, row = torch.tril_indices(d, d, device=device)
    return row, column


@lru_cache(maxsize=64)
def triangle_positions(d: int, device: torch.device, order: str = "row") -> Tensor:
    """Return (d(d+1)/2,) positions of the upper triangle in a row-major flattened (d, d) matrix, diagonal included.

    order: see `upper_triangle`. The table is cached and shared: do not write to it. It is int32, for `index_select`:
        half the bytes to read beside every value that is moved.
    """
    # A table made inside inference mode could not be saved for a later backward pass.
    with torch.inference_mode(False):
        row, column = _entries(d, device, order)
        return (row * d + column).int()


@lru_cache(maxsize=64)
def symmetric_positions(d: int, device: torch.device, order: str = "row") -> Tensor:
    """Return (d*d,) positions in the triangle vector of every entry of the flattened symmetric (d, d) matrix.

    The inverse of `triangle_positions`, int32 too: ``vector[symmetric_positions]`` unfolds a triangle into the
    whole matrix.
    """
    with torch.inference_mode(False):
        row, column = _entries(d, device, order)
        table = torch.empty(d, d, dtype=torch.int32, device=device)
        rank = torch.arange(row.numel(), dtype=torch.int32, device=device)
        table[row, column] = rank
        table[column, row] = rank
        return table.flatten()


def _table(positions: Callable[..., Tensor], d: int, device: torch.device, order: str) -> Tensor:
    """Look a table up; while a program is traced tensors are stand-ins, which must not get into the cache."""
    if order not in ORDERS:
        raise ValueError(f"triangle order '{order}' is unknown: use one of {', '.join(ORDERS)}")
    return (positions.__wrapped__ if torch.compiler.is_compiling() else positions)(d, device, order)


def upper_triangle(matrix: Tensor, order: str = "row") -> Tensor:
    """Take the upper triangle (diagonal included, unweighted) of (B, d, d) matrices; returns (B, d(d+1)/2).

    order: "row", row by row: (0,0), (0,1), ..., (0,d-1), (1,1), ...; or "column", column by column: (0,0), (0,1),
        (1,1), (0,2), ... Both stand in published weights: GSoP, MatConvNet models and early MPN-COV files use columns.
    Raises ValueError for another order.
    """
    d = matrix.shape[-1]
    return matrix.flatten(-2).index_select(-1, _table(triangle_positions, d, matrix.device, order))


def triangle_side(length: int) -> int:
    """Return d for a triangle vector of `length` d(d+1)/2 entries.

    Raises ValueError when no d fits.
    """
    d = int(((8 * length + 1) ** 0.5 - 1) / 2)
    if d * (d + 1) // 2 != length:
        raise ValueError(f"a vector of {length} entries is no upper triangle: d(d+1)/2 never gives {length}")
    return d


def from_upper_triangle(vector: Tensor, order: str = "row") -> Tensor:
    """Unfold (B, d(d+1)/2) triangle vectors in the given order into symmetric (B, d, d) matrices."""
    d = triangle_side(vector.shape[-1])
    return vector.index_select(-1, _table(symmetric_positions, d, vector.device, order)).unflatten(-1, (d, d))


def reorder_triangle(vector: Tensor, source: str, target: str) -> Tensor:
    """Return (..., d(d+1)/2) triangle vectors, or weights upon them, in the order `target` instead of `source`."""
    d = triangle_side(vector.shape[-1])
    entries = _table(triangle_positions, d, vector.device, target)
    return vector.index_select(-1, _table(symmetric_positions, d, vector.device, source)[entries])
