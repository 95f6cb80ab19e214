"""The inner loop of MAML and ANIL by learn2learn's own MAML class: clone, adapt, score, one episode after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from episodes.learn2learn.library import import_learn2learn
from fewshot.inner_loop import InnerLoop, absent


class Learner(nn.Module):
    """An encoder and the linear layer of an episode: what learn2learn clones and adapts."""

    def __init__(self, encoder: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images: Tensor) -> Tensor:
        """Score images (B, ...): (B, K)."""
        return F.linear(self.encoder(images), self.weight, self.bias)


def make_learner(head: nn.Module, encoder: nn.Module, n_way: int, n_features: int, like: Tensor) -> Learner:
    """Return the learner of an episode: the head's own parameters where its start is learned, else zeros."""
    learner = Learner(encoder, like.new_zeros(n_way, n_features), like.new_zeros(n_way))
    if head.weight is not None:
        learner.weight, learner.bias = head.weight, head.bias  # the very parameters, so that gradients reach them
    return learner


def adapt(
    learner: Learner,
    loop: InnerLoop,
    support: Tensor,
    labels: Tensor,
    n_way: int,
    steps: int,
    around: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> nn.Module:
    """Return a clone of the learner, adapted to support (S, ...) with labels (S,); gradients pass where they are on.

    around: makes the context that the support passes the network in.
    """
    l2l, differentiable = import_learn2learn(), torch.is_grad_enabled()
    missing = absent(labels, n_way)
    with torch.enable_grad(), contextlib.nullcontext() if differentiable else _requiring_grad(learner):
        first_order = loop.first_order or not differentiable
        maml = l2l.algorithms.MAML(learner, loop.lr, first_order, allow_unused=True, allow_nograd=True)
        clone = maml.clone()
        for _ in range(steps):
            with around():
                logits = clone(support)[:, :n_way].masked_fill(missing, float("-inf"))
            clone.adapt(F.cross_entropy(logits, labels))
    return clone


def adapt_features(
    head: nn.Module, loop: InnerLoop, support: Tensor, labels: Tensor, query: Tensor, n_way: int, steps: int
) -> Tensor:
    """ANIL: return the query scores (E, Q, K) of linear layers adapted to features (E, S, D)."""
    scores = []
    for rows, own, asked in zip(support, labels, query, strict=True):
        learner = make_learner(head, nn.Identity(), n_way, rows.shape[-1], rows)
        scores.append(adapt(learner, loop, rows[own >= 0], own[own >= 0], n_way, steps)(asked)[:, :n_way])
    return torch.stack(scores)


@contextlib.contextmanager
def _requiring_grad(module: nn.Module) -> Iterator[None]:
    """Let every parameter take gradients for a while: in a test the network is frozen, and adapts all the same."""
    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
