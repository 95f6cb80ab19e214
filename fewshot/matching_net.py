"""Matching networks (Vinyals et al., NeurIPS 2016): attention over the support rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from episodes.arguments import flag, positive, whole
from episodes.class_rows import at_least_float32, check_episodes, drop_padding, mask_absent, membership, unit


def attend(query: Tensor, support: Tensor, real: Tensor) -> Tensor:
    """Return the attention (E, Q, S), softmax of inner products, of which padding rows (real (E, S) False) get none."""
    scores = query @ support.transpose(1, 2)
    return scores.masked_fill(~real.unsqueeze(1), float("-inf")).softmax(-1)


def matching_logits(support: Tensor, labels: Tensor, query: Tensor, n_way: int, eps: float = 1e-6) -> Tensor:
    """Return log(share of the attention that falls on every class + eps), (E, S, D), (E, Q, D) -> (E, Q, K).

    The support is L2-normalised and the query is not, as in the common code: with both on the sphere the softmax of
    cosines is nearly flat. eps keeps the logarithm of a class without attention finite.
    """
    member = membership(labels, n_way, query.dtype)
    attention = attend(query, unit(drop_padding(support, labels)), labels >= 0)
    return mask_absent((attention @ member + eps).log(), member.sum(1))


class MatchingNet(nn.Module):
    """Score a query by the logarithm of its attention on the support rows of every class.

    The logits are log-probabilities (up to eps), so the cross-entropy is the paper's likelihood.
    context: embed support and query in the light of the whole support set (the paper's full context embeddings): a
        bidirectional LSTM over the support rows *in the order given*, the only part that depends on the order, and an
        LSTM with attention for every query.
    in_channels: length D of the features, of use with context alone; `create_head` fills it in.
    steps: rounds of the attention LSTM; None (default) takes the number of support rows of each episode.
    eps: inside the logarithm.
    """

    def __init__(self, context: bool = False, in_channels: int = 64, steps: int | None = None, eps: float = 1e-6):
        super().__init__()
        self.in_channels = whole("in_channels", in_channels, 1)
        self.steps = whole("steps", steps, 1, optional=True)
        self.eps = positive("eps", eps)
        self.support_encoder = self.query_encoder = None
        self.random_start = flag("context", context)  # see `fewshot.card.Loaded.load_head`
        if context:
            self.support_encoder = nn.LSTM(in_channels, in_channels, batch_first=True, bidirectional=True)
            self.query_encoder = nn.LSTMCell(2 * in_channels, in_channels)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            if self.support_encoder is not None:
                support, support_labels = self._embed_support(support, support_labels)
                query = self._embed_query(query, support, support_labels >= 0)
            return matching_logits(support, support_labels, query, n_way, self.eps)

    def _embed_support(self, support: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Add both directions of the LSTM to the rows; returns rows and labels with the padding moved to the end."""
        if support.shape[-1] != self.in_channels:
            raise ValueError(
                f"this MatchingNet head embeds features of length {self.in_channels} and got {support.shape[-1]}: "
                "build it with in_channels of the encoder"
            )
        order = (labels < 0).to(torch.uint8).argsort(dim=1, stable=True)
        labels = labels.gather(1, order)
        rows = drop_padding(support.gather(1, order.unsqueeze(-1).expand_as(support)), labels)
        lengths = (labels >= 0).sum(1).clamp(min=1).cpu()  # an episode without support can't be packed
        packed = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.support_encoder(packed)[0], batch_first=True, total_length=rows.shape[1])
        return rows + states.unflatten(-1, (2, -1)).sum(-2), labels

    def _embed_query(self, query: Tensor, support: Tensor, real: Tensor) -> Tensor:
        """Read the support by attention again and again: h = LSTM([query, read], h) + query."""
        rounds = real.sum(1) if self.steps is None else torch.full_like(real[:, 0], self.steps, dtype=torch.int64)
        hidden, cell = query, torch.zeros_like(query)
        for step in range(int(rounds.max())):
            read = attend(hidden, support, real) @ support
            state = hidden.flatten(0, 1), cell.flatten(0, 1)
            fresh = self.query_encoder(torch.cat([query, read], -1).flatten(0, 1), state)
            active = (step < rounds)[:, None, None]  # an episode of few rows has ended before the others
            hidden = torch.where(active, fresh[0].view_as(query) + query, hidden)
            cell = torch.where(active, fresh[1].view_as(query), cell)
        return hidden

    def extra_repr(self) -> str:
        return f"context={self.support_encoder is not None}, steps={self.steps}, eps={self.eps}"
