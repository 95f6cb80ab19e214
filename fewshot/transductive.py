"""What the transductive heads share: a head that looks at all queries of an episode must know which are real.

A transductive head has the class attribute `transductive = True`, by which tables mark its results (they are not
comparable with those of heads that see one query at a time), and takes the keyword `query_mask` (E, Q), True for a real
query: a batch of uneven episodes is padded, and a padding row must not vote. Without it all rows count. Inductive heads
do not take the keyword. With labels at hand the mask is `query_labels >= 0`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def real_queries(query: Tensor, query_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the queries (E, Q, ...) with padding set to zero, and their weights (E, Q), 1 or 0, in the same dtype.

    Raises ValueError when the mask is not boolean or does not name every query.
    """
    if query_mask is None:
        return query, query.new_ones(query.shape[:2])
    if query_mask.dtype != torch.bool or query_mask.shape != query.shape[:2]:
        raise ValueError(
            f"query_mask must be boolean and name every query {tuple(query.shape[:2])}, True for a real one; got "
            f"{query_mask.dtype} {tuple(query_mask.shape)}: pass query_labels >= 0"
        )
    hidden = ~query_mask.reshape(query_mask.shape + (1,) * (query.dim() - 2))
    return query.masked_fill(hidden, 0.0), query_mask.to(query.dtype)


def class_probabilities(logits: Tensor, present: Tensor) -> Tensor:
    """Return the softmax (E, N, K) of logits over the classes present (E, K); the others get 0 and no gradient."""
    return logits.masked_fill(~present.unsqueeze(1), float("-inf")).softmax(-1)
