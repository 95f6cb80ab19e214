"""ANIL (Raghu et al., ICLR 2020): only the linear layer adapts to an episode, the encoder is meta-trained through it.

The gradient of the cross-entropy of a linear layer is a combination of the support rows X (S, D), so after any number
of steps its rows are W = W_0 + A^T X and the whole inner loop happens on the coefficients A (S, K) and the Gram matrix
X X^T: for all episodes at once, at a cost that does not depend on D, and with exact derivatives of any order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.class_rows import at_least_float32, check_episodes, drop_padding, mask_absent, membership
from fewshot.inner_learn2learn import adapt_features
from fewshot.inner_loop import InnerLoop, add_start, check_way, start_rows


class ANIL(nn.Module):
    """Train a linear layer on the support by a few gradient steps and return its scores of the queries.

    inner_steps, test_steps, inner_lr, first_order, start, n_way, library: see `fewshot.inner_loop.InnerLoop`.
        Descent is stable for inner_lr below 2 / the largest curvature, which grows with the squared length of the
        features: short ones (64 channels) learn faster at 0.5 or 1.
    in_channels: length D of a feature, for a learned start.

    Parameters (start="learned" only): weight (n_way, D) and bias (n_way,).
    """

    def __init__(
        self,
        inner_steps: int = 5,
        test_steps: int | None = 10,
        inner_lr: float = 0.1,
        first_order: bool = False,
        start: str = "zeros",
        n_way: int | None = None,
        in_channels: int = 64,
        library: str = "torch",
    ) -> None:
        super().__init__()
        self.loop = InnerLoop(inner_steps, test_steps, inner_lr, first_order, start, n_way, library)
        add_start(self, self.loop, in_channels)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K) in the dtype of the query; -inf for an absent class."""
        n_way = check_episodes(support, support_labels, query, n_way)
        check_way(self.loop, n_way)
        dtype = query.dtype
        support, query = at_least_float32(drop_padding(support, support_labels), query)
        steps = self.loop.count(self.training)
        with torch.autocast(support.device.type, enabled=False):
            if self.loop.library == "learn2learn":
                logits = adapt_features(self, self.loop, support, support_labels, query, n_way, steps)
            else:
                start = start_rows(self, self.loop, support, support_labels, n_way)
                logits = descend(support, support_labels, query, n_way, start, steps, self.loop)
            return mask_absent(logits, membership(support_labels, n_way, torch.float32).sum(1)).to(dtype)

    def extra_repr(self) -> str:
        """Show the settings in printed models."""
        return str(self.loop)


def descend(
    support: Tensor,
    labels: Tensor,
    query: Tensor,
    n_way: int,
    start: tuple[Tensor, Tensor] | None,
    steps: int,
    loop: InnerLoop,
) -> Tensor:
    """Return the query scores (E, Q, K) of linear layers after `steps` gradient steps on their supports.

    support: (E, S, D), zero in padding rows. start: weights (E, K, D) and biases (E, K), None for zeros.
    """
    # The inner gradients are constants of the first-order meta-gradient, and so are the rows that they are made of.
    rows = support.detach() if loop.first_order else support
    with torch.set_grad_enabled(torch.is_grad_enabled() and not loop.first_order):
        first = 0.0 if start is None else _scores(rows, *start)
        coefficients, offset = _coefficients(rows, labels, n_way, first, steps, loop.lr)
    logits = (query @ rows.transpose(1, 2)) @ coefficients + offset.unsqueeze(1)
    return logits if start is None else logits + _scores(query, *start)


def _coefficients(
    rows: Tensor, labels: Tensor, n_way: int, first: Tensor | float, steps: int, lr: float
) -> tuple[Tensor, Tensor]:
    """Return what gradient descent adds: W - W_0 as coefficients (E, S, K) of the rows, and b - b_0 (E, K)."""
    target = membership(labels, n_way, rows.dtype)
    counts = target.sum(1)
    missing = (counts == 0).unsqueeze(1)
    share = (labels >= 0).to(rows.dtype).unsqueeze(-1) / counts.sum(1).clamp(min=1)[:, None, None]
    gram = rows @ rows.transpose(1, 2)
    coefficients, offset = torch.zeros_like(target), torch.zeros_like(counts)
    for _ in range(steps):
        scores = first + gram @ coefficients + offset.unsqueeze(1)
        residual = (scores.masked_fill(missing, float("-inf")).softmax(-1) - target) * share
        coefficients, offset = coefficients - lr * residual, offset - lr * residual.sum(1)
    return coefficients, offset


def _scores(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return rows @ weight.transpose(1, 2) + bias.unsqueeze(1)
