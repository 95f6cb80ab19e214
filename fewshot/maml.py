"""MAML (Finn et al., ICML 2017): the whole network adapts to an episode by a few gradient steps on its support."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from backbones import UserError
from episodes.class_rows import check_episodes, mask_absent, membership
from fewshot.batch_statistics import KINDS, BatchStatistics
from fewshot.inner_learn2learn import adapt, make_learner
from fewshot.inner_loop import InnerLoop, absent, add_start, check_way, start_rows

Parameters = dict[str, Tensor]
MATH = SDPBackend.MATH
LAYER = ("head.weight", "head.bias")  # of the linear layer, beside the names of an encoder's parameters


class MAML(nn.Module):
    """Adapt an encoder and a linear layer to every episode and return their scores of the queries.

    Unlike the other heads it takes images and the encoder itself (`adapts`); `AdaptingHead` gives it their signature.

    inner_steps, test_steps, inner_lr, first_order, start, n_way, library: see `fewshot.inner_loop.InnerLoop`. The steps
        are those of the paper on miniImageNet; its inner_lr is 0.01 there and 0.4 on Omniglot, with a learned start.
    bn: whose statistics batch norm uses, see `fewshot.batch_statistics`. The original, "transductive", looks at all
        queries of an episode at once; the default "support" does not.
    in_channels: length D of a representation, for a learned start.

    Parameters (start="learned" only): weight (n_way, D) and bias (n_way,).
    Episodes adapt one after another: after the first step each has a network of its own, so there is nothing to share.
    """

    adapts = True

    def __init__(
        self,
        inner_steps: int = 5,
        test_steps: int | None = 10,
        inner_lr: float = 0.1,
        first_order: bool = False,
        start: str = "zeros",
        bn: str = "support",
        n_way: int | None = None,
        in_channels: int = 64,
        library: str = "torch",
    ) -> None:
        super().__init__()
        if bn not in KINDS:
            raise UserError(f"unknown bn '{bn}' of MAML; known: {', '.join(KINDS)}")
        self.loop = InnerLoop(inner_steps, test_steps, inner_lr, first_order, start, n_way, library)
        self.bn, self.transductive = bn, bn == "transductive"
        add_start(self, self.loop, in_channels)

    def forward(
        self,
        encoder: nn.Module,
        support: Tensor,
        support_labels: Tensor,
        query: Tensor,
        n_way: int | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Score episodes of images.

        encoder: images (B, 3, H, W) -> (B, D). All its parameters adapt, in training those that take gradients.
        support: (E, S, 3, H, W). support_labels: (E, S), -1 for padding. query: (E, Q, 3, H, W).
        query_mask: (E, Q), False for padding, which gets zeros.
        Returns logits (E, Q, K), -inf for a class without supports.
        """
        n_way = check_episodes(support, support_labels, query, n_way)
        check_way(self.loop, n_way)
        if query_mask is None:
            query_mask = torch.ones(query.shape[:2], dtype=torch.bool, device=query.device)
        elif query_mask.dtype != torch.bool or query_mask.shape != query.shape[:2]:
            raise ValueError(f"query_mask must be boolean and name every query {tuple(query.shape[:2])}")
        score = self._with_learn2learn if self.loop.library == "learn2learn" else self._with_torch
        rows = []
        for images, labels, asked, real in zip(support, support_labels, query, query_mask, strict=True):
            kept = labels >= 0
            logits = score(encoder, images[kept], labels[kept], asked[real], n_way)
            rows.append(logits.new_zeros(len(asked), n_way).masked_scatter(real.unsqueeze(-1), logits))
        return mask_absent(torch.stack(rows), membership(support_labels, n_way, torch.float32).sum(1))

    def extra_repr(self) -> str:
        """Show the settings in printed models."""
        return f"{self.loop}, bn='{self.bn}'"

    @contextlib.contextmanager
    def _inside(self, n_support: int | None = None) -> Iterator[None]:
        """Make the context that images pass the network in; n_support: of the last pass, of support and queries."""
        # The running statistics follow the adapted network that scores the queries, where training passes it.
        update = self.training and n_support is not None
        # Fused attention has no second derivative.
        second = torch.is_grad_enabled() and not self.loop.first_order
        with BatchStatistics(self.bn, n_support, update), sdpa_kernel(MATH) if second else contextlib.nullcontext():
            yield

    def _query_batch(self, support: Tensor, query: Tensor) -> tuple[Tensor, int]:
        """Return what passes the adapted network, and how many of its rows are support."""
        if self.bn == "support":  # again, since its statistics have moved with the weights
            return torch.cat([support, query]), len(support)
        return query, 0

    def _with_learn2learn(
        self, encoder: nn.Module, support: Tensor, labels: Tensor, query: Tensor, n_way: int
    ) -> Tensor:
        learner = make_learner(self, encoder, n_way, encoder.out_dim, support)
        clone = adapt(learner, self.loop, support, labels, n_way, self.loop.count(self.training), self._inside)
        images, n_support = self._query_batch(support, query)
        with self._inside(n_support):
            return clone(images)[n_support:, :n_way]

    def _with_torch(self, encoder: nn.Module, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        differentiable, missing = torch.is_grad_enabled(), absent(labels, n_way)
        with torch.enable_grad():
            parameters = self._start(encoder, support, labels, n_way, differentiable)
            for _ in range(self.loop.count(self.training)):
                logits = self._scores(encoder, parameters, support).masked_fill(missing, float("-inf"))
                loss = F.cross_entropy(logits, labels)
                parameters = gradient_step(loss, parameters, self.loop.lr, self.loop.first_order, differentiable)
        images, n_support = self._query_batch(support, query)
        return self._scores(encoder, parameters, images, n_support)[n_support:]

    def _scores(
        self, encoder: nn.Module, parameters: Parameters, images: Tensor, n_support: int | None = None
    ) -> Tensor:
        own = {name: value for name, value in parameters.items() if name not in LAYER}
        with self._inside(n_support):
            features = functional_call(encoder, own, (images,))
        return F.linear(features, *(parameters[name] for name in LAYER))

    def _start(
        self, encoder: nn.Module, support: Tensor, labels: Tensor, n_way: int, differentiable: bool
    ) -> Parameters:
        """Return the parameters before the first step: the encoder's by name, and the rows of the linear layer."""
        # Views: prototypes are a function of the encoder's own parameters, not of what the inner loop moves.
        own = {name: p.view_as(p) for name, p in encoder.named_parameters() if p.requires_grad or not differentiable}
        features = support.new_zeros(1, 1, encoder.out_dim)
        if self.loop.start == "prototypes":
            with torch.set_grad_enabled(differentiable), self._inside():
                features = encoder(support)[None]
        rows = start_rows(self, self.loop, features, labels[None], n_way)
        if rows is None:
            rows = features.new_zeros(1, n_way, encoder.out_dim), features.new_zeros(1, n_way)
        own |= {name: value[0] for name, value in zip(LAYER, rows, strict=True)}
        if differentiable:
            return {name: value if value.requires_grad else value.requires_grad_() for name, value in own.items()}
        return {name: value.detach().requires_grad_() for name, value in own.items()}


def gradient_step(
    loss: Tensor, parameters: Parameters, lr: float, first_order: bool, differentiable: bool
) -> Parameters:
    """Return the parameters after one step of gradient descent; one that the loss does not depend on stays.

    differentiable: the result is a function of the parameters, whose derivative takes the gradient for a constant where
        `first_order` says so; else it starts a new graph.
    """
    second_order = differentiable and not first_order
    slopes = torch.autograd.grad(loss, list(parameters.values()), create_graph=second_order, allow_unused=True)
    moved = {}
    for (name, value), slope in zip(parameters.items(), slopes, strict=True):
        value = value if slope is None else value - lr * slope
        moved[name] = value if differentiable else value.detach().requires_grad_()
    return moved


class AdaptingHead(nn.Module):
    """An adapting head with its encoder, in the shape of every other head: images take the place of features.

    context: makes the context that it computes in, for instance Fabric's autocast.
    """

    adapts = True

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.context = encoder, head, context
        self.transductive, self.note = head.transductive, getattr(head, "note", None)

    def forward(
        self,
        support: Tensor,
        support_labels: Tensor,
        query: Tensor,
        n_way: int | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """(E, S, 3, H, W), (E, S), (E, Q, 3, H, W) -> logits (E, Q, K)."""
        with self.context():
            return self.head(self.encoder, support, support_labels, query, n_way, query_mask)


def with_encoder(
    head: nn.Module,
    encoder: nn.Module,
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> nn.Module:
    """Return what scores episodes: a head as it is, and one that adapts the network with its encoder.

    The latter has the attribute `adapts` and takes images for features: encode by `as_they_are`.
    """
    return AdaptingHead(encoder, head, context) if getattr(head, "adapts", False) else head


def as_they_are(images: Tensor) -> Tensor:
    """Return the images: the "features" of a head that adapts the network."""
    return images
