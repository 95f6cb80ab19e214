"""Any method object of easyfsl's form as a head: `process_support_set(support, labels)`, then a call on the queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from episodes.class_rows import at_least_float32, check_episodes
from fewshot.transductive import real_queries


class WrappedMethod(nn.Module):
    """Score episodes with an object that takes one episode at a time, for instance a method of easyfsl 1.5.

    method: has `process_support_set(support (S, ...), labels (S,))` and, called on queries (Q, ...), returns scores
        (Q, K), the labels being 0..K-1 and each of them present. It is given features, so its own backbone must pass
        them on (easyfsl: no backbone). `is_transductive()`, where there is one, tells whether it sees all queries.
    Padding never reaches the object, and a class without support gets -inf. Being made for one episode, it is called
    in a loop: use the toolkit's own heads where there is one.
    """

    def __init__(self, method: Any):
        super().__init__()
        if not callable(method) or not callable(getattr(method, "process_support_set", None)):
            raise ValueError(f"{type(method).__name__} needs process_support_set(support, labels) and to be callable")
        self.method = method
        self.transductive = bool(getattr(method, "is_transductive", lambda: False)())

    def forward(
        self,
        support: Tensor,
        support_labels: Tensor,
        query: Tensor,
        n_way: int | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """(E, S, ...), (E, S), (E, Q, ...) -> logits (E, Q, K); -inf for a class without support.

        query_mask: (E, Q), False for padding, whose logits are 0; see `transductive`.
        """
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = at_least_float32(support, query)
        query, weight = real_queries(query, query_mask)
        with torch.autocast(support.device.type, enabled=False):
            episodes = zip(support, support_labels, query, weight > 0, strict=True)
            return torch.stack([self._episode(*episode, n_way) for episode in episodes])

    def _episode(self, support: Tensor, labels: Tensor, query: Tensor, asked: Tensor, n_way: int) -> Tensor:
        real = labels >= 0
        classes, renamed = labels[real].unique(return_inverse=True)
        self.method.process_support_set(support[real], renamed)
        scores = self.method(query[asked])
        logits = scores.new_full((len(query), n_way), float("-inf"))
        logits[:, classes] = 0.0
        rows = asked.nonzero()
        return logits.index_put((rows, classes.unsqueeze(0)), scores)
