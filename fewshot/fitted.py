"""A head that has seen its support once and for all: features of queries -> logits, as a module without the support.

The heads score whole episodes, support included. Whoever asks about many queries of the same classes
(`FewShotClassifier`, `tools.predict`) or writes a classifier to a file (`tools.export`) wants the work on the support
done once: class means, fitted weights, reconstruction matrices. `fit_head` does it, and its logits are those of the
head to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from episodes.class_rows import class_means, membership
from fewshot.anil import ANIL
from fewshot.baseline import Baseline, fit_linear
from fewshot.baseline_pp import NORM_EPS, BaselinePP, fit_cosine
from fewshot.covnet import CovNet, second_moment_root
from fewshot.deepemd import DeepEMD, emd_logits
from fewshot.finetuning import start_weights
from fewshot.frn import FRN, reconstruction, reconstruction_error
from fewshot.good_embed import GoodEmbed, normalise
from fewshot.logistic import fit_logistic, fit_sklearn
from fewshot.meta_baseline import MetaBaseline
from fewshot.meta_deepbdc import MetaDeepBDC
from fewshot.protonet import ProtoNet
from fewshot.relation_net import CLASS_MAPS, RelationNet
from fewshot.simpleshot import SimpleShot


class Linear(nn.Module):
    """Linear scores of features that are divided by (norm + norm_eps) first, unless norm_eps is None."""

    def __init__(self, weight: Tensor, bias: Tensor, norm_eps: float | None = None):
        super().__init__()
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())
        self.norm_eps = norm_eps

    def forward(self, features: Tensor) -> Tensor:
        """(Q, D) -> logits (Q, K)."""
        return F.linear(normalise(features, self.norm_eps), self.weight, self.bias)


class KeptSupport(nn.Module):
    """The head itself beside support rows: those of the classes' pictures, or fewer that stand for them.

    support: (S, ...). labels: (S,). transform: of the queries, when `support` holds rows that are transformed already.
    """

    def __init__(
        self, head: nn.Module, support: Tensor, labels: Tensor, n_way: int, transform: nn.Module | None = None
    ):
        super().__init__()
        self.head, self.transform, self.n_way = head, transform or nn.Identity(), n_way
        self.register_buffer("support", support)
        self.register_buffer("labels", labels)

    @property
    def transductive(self) -> bool:
        """Whether the logits of a query depend on the others."""
        return bool(getattr(self.head, "transductive", False))

    def forward(self, features: Tensor) -> Tensor:
        """(Q, ...) -> logits (Q, K)."""
        query = self.transform(features).unsqueeze(0)
        return self.head(self.support.unsqueeze(0), self.labels.unsqueeze(0), query, n_way=self.n_way)[0]


class Shifted(nn.Module):
    """Features minus a centre, divided by their norm where `unit` is set (SimpleShot)."""

    def __init__(self, centre: Tensor | None, unit: bool):
        super().__init__()
        self.register_buffer("centre", centre)
        self.unit = unit

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        features = features if self.centre is None else features - self.centre
        return F.normalize(features, dim=-1) if self.unit else features


class SecondMoments(nn.Module):
    """Maps (..., C, H, W) -> rooted second moments (..., C*C), see `second_moment_root`."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        """Represent maps."""
        return second_moment_root(maps, self.eps)


class Reconstruction(nn.Module):
    """FRN with the matrix (K, C, C) that rebuilds a descriptor from each class."""

    def __init__(self, head: FRN, rebuild: Tensor):
        super().__init__()
        self.divisor = head.divisor
        self.register_buffer("rebuild", rebuild.contiguous())  # a solver returns its columns one by one
        self.register_buffer("beta", head.beta.detach().clone())
        self.register_buffer("scale", head.scale.detach().clone())

    def forward(self, maps: Tensor) -> Tensor:
        """(Q, C, H, W) -> logits (Q, K)."""
        rows = maps.flatten(2).transpose(1, 2).unsqueeze(0) / self.divisor
        return -self.scale * reconstruction_error(rows, self.rebuild.unsqueeze(0), self.beta)[0]


class Transport(nn.Module):
    """DeepEMD with the map (K, M, C) of every class, tuned where the head tunes it."""

    def __init__(self, head: DeepEMD, maps: Tensor):
        super().__init__()
        self.head = head
        self.register_buffer("maps", maps)

    def forward(self, maps: Tensor) -> Tensor:
        """(Q, C, H, W) -> logits (Q, K)."""
        head = self.head
        rows = maps.flatten(2).transpose(1, 2).unsqueeze(0)
        return emd_logits(
            self.maps.unsqueeze(0), rows, head.temperature, head.norm, head.chosen_solver, head.regularisation,
            head.iterations,
        )[0]  # fmt: skip


def _logistic(head: GoodEmbed, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    if head.solver == "sklearn":
        weight, bias = fit_sklearn(normalise(support.double(), head.norm_eps), labels, n_way, head.C)
    else:
        fit = fit_logistic(support, labels, n_way, head.C, norm_eps=head.norm_eps, tol=head.tol, max_iter=head.max_iter)
        weight, bias = fit.coef(), fit.intercept
    return Linear(weight[0], bias[0], head.norm_eps)


def _affine(score: Callable[[Tensor], Tensor], n_features: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (K, D) and bias (K,) of scores (1, 1, K) that are affine in the query (1, 1, D)."""
    with torch.enable_grad():
        query = like.new_zeros(1, 1, n_features).requires_grad_()
        scores = score(query)[0, 0]
        rows = [torch.autograd.grad(one, query, retain_graph=True)[0][0, 0] for one in scores]
    return torch.stack(rows), scores.detach()


def _baseline(head: Baseline, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    start, bias = start_weights(head.recipe, n_way, support.shape[-1], support)
    if head.start == "zeros":
        start, bias = torch.zeros_like(start), torch.zeros_like(bias)
    fitted = _affine(lambda x: fit_linear(support, labels, x, start, bias, head.recipe), support.shape[-1], support)
    return Linear(*fitted)


def _baseline_pp(head: BaselinePP, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    support = normalise(support, NORM_EPS)
    start = None if head.start == "means" else start_weights(head.recipe, n_way, support.shape[-1], support)[0]
    fitted = _affine(
        lambda x: fit_cosine(support, labels, x, n_way, start, head.scale, head.recipe), support.shape[-1], support
    )
    return Linear(*fitted, NORM_EPS)


def _anil(head: ANIL, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    return Linear(*_affine(lambda query: head(support, labels, query, n_way), support.shape[-1], support))


def _means(head: nn.Module, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    return KeptSupport(head, class_means(support, labels, n_way)[0][0], torch.arange(n_way), n_way)


def _meta_deepbdc(head: MetaDeepBDC, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    head = copy.copy(head)
    if head.similarity == "auto":  # decided by the support that is about to become one row a class
        one = int(membership(labels, n_way, torch.int64).sum(1).max()) <= 1
        head.similarity = "inner" if one else "squared"
    return _means(head, support, labels, n_way)


def _simpleshot(head: SimpleShot, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    centre = None
    if head.variant == "CL2N":
        own = class_means(support, labels, n_way)[0].mean(1)[0]
        centre = own if head.centre is None else head.centre.to(support)
    transform = Shifted(centre, head.variant != "UN")
    means = class_means(transform(support), labels, n_way)[0][0]
    return KeptSupport(ProtoNet(), means, torch.arange(n_way), n_way, transform)


def _covnet(head: CovNet, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    transform = SecondMoments(head.eps)
    means = class_means(transform(support), labels, n_way)[0][0]
    return KeptSupport(ProtoNet(), means, torch.arange(n_way), n_way, transform)


def _relation_net(head: RelationNet, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    maps = CLASS_MAPS[head.class_map](support, labels, n_way)[0][0]
    return KeptSupport(head, maps, torch.arange(n_way), n_way)


def _frn(head: FRN, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    rows = support.flatten(3).transpose(2, 3) / head.divisor
    return Reconstruction(head, reconstruction(rows, labels, n_way, head.alpha)[0][0])


def _deepemd(head: DeepEMD, support: Tensor, labels: Tensor, n_way: int) -> nn.Module:
    return Transport(head, head.class_maps(support.flatten(3).transpose(2, 3), labels, n_way)[0][0])


# Head -> how its work on a support (1, S, ...) with labels (1, S) is done once; the other heads keep the support.
FITTED: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor, int], nn.Module]] = {
    GoodEmbed: _logistic,
    Baseline: _baseline,
    BaselinePP: _baseline_pp,
    ANIL: _anil,
    ProtoNet: _means,
    MetaBaseline: _means,
    MetaDeepBDC: _meta_deepbdc,
    SimpleShot: _simpleshot,
    CovNet: _covnet,
    RelationNet: _relation_net,
    FRN: _frn,
    DeepEMD: _deepemd,
}


@torch.no_grad()
def fit_head(head: nn.Module, support: Tensor, labels: Tensor, n_way: int | None = None) -> nn.Module:
    """Return a module, features (Q, ...) -> logits (Q, K), that scores queries as the head does beside this support.

    support: (S, ...) features. labels: (S,) in 0..K-1, every class at least once.
    It has `transductive` True where the logits of a query depend on the others of the same call.
    Raises ValueError for a class without a support row.
    """
    n_way = n_way or int(labels.max()) + 1
    counts = torch.bincount(labels, minlength=n_way)
    if not bool((counts > 0).all()):
        raise ValueError(f"class {int(counts.argmin())} of {n_way} has no support row: every class needs one at least")
    build = next((build for kind, build in FITTED.items() if isinstance(head, kind)), None)
    support = support.to(torch.promote_types(support.dtype, torch.float32))
    if build is None:
        return KeptSupport(head, support, labels, n_way).eval()
    return build(head.eval(), support.unsqueeze(0), labels.unsqueeze(0), n_way).to(support.device).eval()
