"""OTAM and TRX the plain way, which the bench compares with: one episode at a time, as they are commonly written."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from backbones.video_vit import position_table

if TYPE_CHECKING:
    from video.trx import TRX


def plain_otam(support: Tensor, labels: Tensor, query: Tensor, n_way: int, smoothing: float = 0.1) -> Tensor:
    """Support (S, t, C), labels (S,), query (Q, t, C) -> logits (Q, K): the table of costs is filled cell by cell."""
    frames = [functional.normalize(x.flatten(0, 1), dim=1) for x in (query, support)]
    similarity = frames[0] @ frames[1].T
    t = query.shape[1]
    costs = 1 - similarity.reshape(len(query), t, len(support), t).transpose(1, 2)
    total = (_table(costs, smoothing) + _table(costs.transpose(2, 3), smoothing)) / 2
    return torch.stack([-total[:, labels == c].mean(1) for c in range(n_way)], dim=1)


def _table(costs: Tensor, smoothing: float) -> Tensor:
    """Costs (Q, S, a, b) -> (Q, S), walking through the last axis."""
    costs = functional.pad(costs, (1, 1))
    table = torch.zeros_like(costs)
    rows, columns = costs.shape[2:]
    for j in range(rows):
        for i in range(1, columns):
            ways = [table[:, :, j, i - 1]]
            if j:
                ways.append(table[:, :, j - 1, i - 1])
            if j and i in (1, columns - 1):
                ways.append(table[:, :, j - 1, i])
            least = -smoothing * torch.stack([(-way / smoothing).exp() for way in ways]).sum(0).log()
            table[:, :, j, i] = costs[:, :, j, i] + least
    return table[:, :, -1, -1]


def plain_trx(head: TRX, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """The same with the weights of a head: tuples laid end to end, one class after the other."""
    positions = position_table(*support.shape[1:]).to(support) * head.position_scale
    support, query = support + positions, query + positions
    logits = torch.zeros(len(query), n_way)
    for attention in head.attention:
        numbers = list(itertools.combinations(range(support.shape[1]), attention.size))
        tuples = [torch.stack([x[:, n].flatten(1) for n in numbers], dim=1) for x in (support, query)]
        keys = [attention.key_norm(attention.key.linear(x)) for x in tuples]
        values = [attention.value.linear(x) for x in tuples]
        for c in range(n_way):
            chosen = labels == c
            scores = keys[1] @ keys[0][chosen].flatten(0, 1).T / keys[0].shape[-1] ** 0.5
            prototypes = scores.softmax(-1) @ values[0][chosen].flatten(0, 1)
            logits[:, c] -= (prototypes - values[1]).square().sum((1, 2)) / len(numbers)
    return logits / len(head.attention)
