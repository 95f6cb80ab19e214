"""Draw distinct positions for many rows at once: the arithmetic behind the episode sampler."""

from __future__ import annotations

import numpy as np


def draw_distinct(generator: np.random.Generator, sizes: np.ndarray, needs: np.ndarray) -> np.ndarray:
    """For every row draw `needs` distinct integers below `sizes`, every ordered choice equally likely.

    sizes, needs: (M,) integers with 1 <= needs <= sizes < 2**31.
    Returns (M, max(needs)) int64; columns at or beyond a row's need hold no meaning.

    Two exact methods, chosen per row by the sizes alone so that the same request always uses the same random numbers:
    rows that take at most half of their range redraw the clashes (a few per column), the others sort random keys.
    """
    tight = 2 * needs > sizes
    if not tight.any():
        return _redraw_clashes(generator, sizes, needs)
    drawn = np.zeros((len(sizes), int(needs.max())), dtype=np.int64)
    for rows, method in ((~tight, _redraw_clashes), (tight, _sort_keys)):
        if rows.any():
            part = method(generator, sizes[rows], needs[rows])
            drawn[rows, : part.shape[1]] = part
    return drawn


def _sort_keys(generator: np.random.Generator, sizes: np.ndarray, needs: np.ndarray) -> np.ndarray:
    """The head of a uniform permutation of each row's range; meant for ranges below twice the need."""
    keys = generator.random((len(sizes), int(sizes.max())))
    keys[np.arange(keys.shape[1]) >= sizes[:, None]] = np.inf  # beyond the row's range: sorted last, never taken
    return np.argsort(keys, axis=1)[:, : int(needs.max())]


def _redraw_clashes(generator: np.random.Generator, sizes: np.ndarray, needs: np.ndarray) -> np.ndarray:
    """Column by column: a value that its row already holds is redrawn until it is new.

    Each column is then uniform over what the earlier columns left, the very definition of drawing without replacement.
    """
    width = int(needs.max())
    even = int(needs.min()) == width
    # Rows are filled in order of decreasing need, so that those still being filled are always a leading slice.
    order = slice(None) if even else np.argsort(-needs, kind="stable")
    sizes, needs = sizes[order], needs[order]
    filling = np.searchsorted(-needs, -np.arange(width), side="left")  # rows with need > j, for each column j
    # floor(u * size) with 53 random bits: below `size` for every u < 1, and uneven by less than size / 2**53.
    # A column is contiguous in memory: it is compared with all the earlier ones in one sweep.
    uniform = generator.random((width, len(sizes)))
    columns = np.multiply(uniform, sizes, out=uniform).astype(np.int32)
    for j in range(1, width):
        clashing = np.flatnonzero((columns[:j, : filling[j]] == columns[j, : filling[j]]).any(axis=0))
        while len(clashing):
            redrawn = (generator.random(len(clashing)) * sizes[clashing]).astype(np.int32)
            columns[j, clashing] = redrawn
            clashing = clashing[(columns[:j, clashing] == redrawn).any(axis=0)]
    drawn = np.empty((len(sizes), width), dtype=np.int64)
    drawn[order] = columns.T
    return drawn
