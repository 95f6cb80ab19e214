"""Random episodes and the table of heads that the tests in this folder visit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewshot.adm import ADM
from fewshot.baseline import Baseline
from fewshot.baseline_pp import BaselinePP
from fewshot.bd_cspn import BDCSPN
from fewshot.covamnet import CovaMNet
from fewshot.covnet import CovNet
from fewshot.deepemd import DeepEMD
from fewshot.frn import FRN
from fewshot.good_embed import GoodEmbed
from fewshot.matching_net import MatchingNet
from fewshot.meta_baseline import MetaBaseline
from fewshot.meta_deepbdc import MetaDeepBDC
from fewshot.protonet import ProtoNet
from fewshot.relation_net import RelationNet
from fewshot.semi_soft_kmeans import SemiSoftKMeans
from fewshot.simpleshot import SimpleShot
from fewshot.soft_kmeans import SoftKMeans
from fewshot.stl_deepbdc import STLDeepBDC
from fewshot.tim import TIM

VECTOR, MAP = (15,), (4, 3, 2)  # 15 = 5*6/2: the upper triangle of a 5 x 5 matrix

HEADS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "protonet": (ProtoNet, VECTOR),
    "protonet_euclidean": (lambda: ProtoNet("euclidean"), VECTOR),
    "meta_deepbdc_auto": (MetaDeepBDC, VECTOR),
    "meta_deepbdc_inner": (lambda: MetaDeepBDC(k_shot=1), VECTOR),
    "meta_deepbdc_squared": (lambda: MetaDeepBDC(k_shot=5), VECTOR),
    "meta_deepbdc_trace": (lambda: MetaDeepBDC(k_shot=5, exact_trace=True), VECTOR),
    "good_embed": (GoodEmbed, VECTOR),
    "stl_deepbdc": (lambda: STLDeepBDC(C=3.0), VECTOR),
    "meta_baseline": (MetaBaseline, VECTOR),
    "covnet": (CovNet, MAP),
    "frn": (FRN, MAP),
    "adm": (lambda: ADM().eval(), MAP),
    "deepemd": (lambda: DeepEMD(solver="sinkhorn", iterations=30, tune_passes=0), MAP),
    "deepemd_tuned": (lambda: DeepEMD(solver="sinkhorn", iterations=10, tune_passes=3), MAP),
    "covamnet": (lambda: CovaMNet().eval(), MAP),
    "matching_net": (MatchingNet, VECTOR),
    "matching_net_context": (lambda: MatchingNet(context=True, in_channels=3), (3,)),
    "relation_net": (lambda: RelationNet(in_channels=4, hidden=3, units=3).eval(), MAP),
    "simpleshot_un": (lambda: SimpleShot("UN"), VECTOR),
    "simpleshot_l2n": (SimpleShot, VECTOR),
    "simpleshot_cl2n": (lambda: SimpleShot("CL2N"), VECTOR),
    "baseline": (lambda: Baseline(passes=5, start="zeros", batch_size=None), VECTOR),
    "baseline_random": (lambda: Baseline(passes=5), VECTOR),
    "baseline_pp": (lambda: BaselinePP(passes=5, start="means", batch_size=None), VECTOR),
    "baseline_pp_random": (lambda: BaselinePP(passes=5), VECTOR),
    "soft_kmeans": (lambda: SoftKMeans(steps=2, temperature=0.1), VECTOR),
    "semi_soft_kmeans": (SemiSoftKMeans, VECTOR),
    "semi_soft_kmeans_transductive": (lambda: SemiSoftKMeans("mask", temperature=0.1, use_queries=True), VECTOR),
    "bd_cspn": (lambda: BDCSPN(top=2), VECTOR),
    "tim": (lambda: TIM(steps=5, lr=1e-2), VECTOR),
}
# SGD on the support meets the rows in an order of its own, the context of matching networks in the order given
ORDER_MATTERS = ("deepemd_tuned", "baseline_random", "baseline_pp_random", "matching_net_context")
PADDING_MATTERS = ("deepemd_tuned",)  # the batches of its SGD depend on the number of rows
NAMES_MATTER = ("baseline_random", "baseline_pp_random")  # a class has the random start of its number
CONSTANT_SUPPORT = ("deepemd_tuned",)  # the gradient does not pass through its tuned class maps
NO_GRADIENT = ("good_embed", "stl_deepbdc", "baseline", "baseline_random", "baseline_pp", "baseline_pp_random", "tim")
TRANSDUCTIVE = ("soft_kmeans", "semi_soft_kmeans_transductive", "bd_cspn", "tim")


@dataclass
class Episodes:
    """E episodes of unequal shots: support (E, S, ...), labels (E, S), query (E, Q, ...)."""

    support: Tensor
    labels: Tensor
    query: Tensor
    n_way: int


def random_episodes(
    shape: tuple[int, ...], shots: tuple[int, ...] = (3, 1, 2), n_query: int = 4, n_episodes: int = 2, seed: int = 0
) -> Episodes:
    """Episodes in float64 whose rows stand in another random order in each episode."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    labels = torch.stack([labels[torch.randperm(len(labels), generator=generator)] for _ in range(n_episodes)])
    centres = torch.randn(n_episodes, len(shots), *shape, generator=generator, dtype=torch.float64)
    support = torch.randn(*labels.shape, *shape, generator=generator, dtype=torch.float64)
    support = support + centres[torch.arange(n_episodes)[:, None], labels]
    query = torch.randn(n_episodes, n_query, *shape, generator=generator, dtype=torch.float64)
    return Episodes(support, labels, query, len(shots))


def build(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A head of the table in float64, with parameters and statistics away from their start values."""
    builder, shape = HEADS[name]
    torch.manual_seed(1)
    head = builder().double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for key, buffer in head.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    return head, shape
