"""The table of few-shot methods: what pools the map, what scores an episode, and how the method is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from backbones import UserError, create_backbone
from backbones.errors import nearest
from fewshot.adm import ADM
from fewshot.anil import ANIL
from fewshot.baseline import Baseline
from fewshot.baseline_pp import BaselinePP
from fewshot.bd_cspn import BDCSPN
from fewshot.covamnet import CovaMNet
from fewshot.covnet import CovNet
from fewshot.deepemd import DeepEMD
from fewshot.encoder import Encoder
from fewshot.frn import FRN
from fewshot.good_embed import GoodEmbed
from fewshot.maml import MAML
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
from moments import BDC, GlobalAveragePool


@dataclass(frozen=True)
class Method:
    """One few-shot method.

    title: as printed in tables.
    pool: 'gap' (spatial mean), 'bdc' (Brownian distance covariance) or 'map' (the head takes whole maps).
    head: builds the episode head from (k_shot, **options).
    episodic: trained on episodes after pre-training; otherwise the pre-trained encoder is used frozen.
    validation_head: scores validation episodes during pre-training; a cheap prototype head for every method.
    sized: the head has weights of the size of a feature, its option `in_channels`; see `create_head`.
    transductive: the head looks at all queries of an episode at once, so that its results are not comparable with the
        others'; its title says so in every table. See `fewshot.transductive`.
    adapts: the whole network adapts to an episode, so that the head takes images and the encoder; see `fewshot.maml`.
    semi_supervised: the head learns from the unlabelled items of an episode, where there are any; its title says so.
    """

    title: str
    pool: str
    head: Callable[..., nn.Module]
    episodic: bool
    validation_head: Callable[..., nn.Module]
    sized: bool = False
    transductive: bool = False
    adapts: bool = False
    semi_supervised: bool = False

    def create_head(self, name: str, k_shot: int, channels: int | None = None, **options) -> nn.Module:
        """Build the head; see the function `create_head`. name: for messages."""
        if self.sized and channels is not None:
            options = {"in_channels": channels, **options}
        try:
            return self.head(k_shot, **options)
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(f"the head of '{name}' does not take these options: {error}") from error


def _penalty(k_shot: int) -> float:
    """Return C of the logistic regression in DeepBDC's miniImageNet scripts."""
    return 0.1 if k_shot == 1 else 2.0


def _plain(head: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda k_shot, **options: head(**options)


def _logistic(head: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda k_shot, **options: head(**{"C": _penalty(k_shot), **options})


def _maml(k_shot: int, bn: str = "support", **options) -> nn.Module:
    if bn == "transductive":
        raise UserError(
            "bn='transductive' asks all queries at once: name the method maml_transductive, whose title says so"
        )
    return MAML(bn=bn, **options)


def _semi(k_shot: int, use_queries: bool = False, **options) -> nn.Module:
    if use_queries:
        raise UserError("use_queries is the method semi_soft_kmeans_transductive, whose title says so")
    return SemiSoftKMeans(**options)


_proto = _plain(ProtoNet)

METHODS: dict[str, Method] = {
    "protonet": Method("ProtoNet", "gap", _proto, True, _proto),
    "good_embed": Method("Good-Embed", "gap", _logistic(GoodEmbed), False, _proto),
    "meta_deepbdc": Method("Meta DeepBDC", "bdc", MetaDeepBDC, True, MetaDeepBDC),
    "stl_deepbdc": Method("STL DeepBDC", "bdc", _logistic(STLDeepBDC), False, MetaDeepBDC),
    "meta_baseline": Method("Meta-Baseline", "gap", _plain(MetaBaseline), True, _proto),
    "covnet": Method("CovNet", "map", _plain(CovNet), True, _plain(CovNet)),
    "adm": Method("ADM", "map", _plain(ADM), True, _plain(CovNet)),
    "frn": Method("FRN", "map", _plain(FRN), True, _plain(FRN)),
    "deepemd": Method("DeepEMD", "map", _plain(DeepEMD), True, _plain(CovNet)),
    "covamnet": Method("CovaMNet", "map", _plain(CovaMNet), True, _plain(CovNet)),
    "matching_net": Method("MatchingNet", "gap", _plain(MatchingNet), True, _proto, sized=True),
    "relation_net": Method("RelationNet", "map", _plain(RelationNet), True, _plain(CovNet), sized=True),
    "maml": Method("MAML", "gap", _maml, True, _proto, sized=True, adapts=True),
    "maml_bdc": Method("MAML on BDC", "bdc", _maml, True, MetaDeepBDC, sized=True, adapts=True),
    "maml_transductive": Method(
        "MAML (transductive)",
        "gap",
        lambda k_shot, **options: MAML(bn="transductive", **options),
        True,
        _proto,
        sized=True,
        transductive=True,
        adapts=True,
    ),
    "anil": Method("ANIL", "gap", _plain(ANIL), True, _proto, sized=True),
    "anil_bdc": Method("ANIL on BDC", "bdc", _plain(ANIL), True, MetaDeepBDC, sized=True),
    "simpleshot": Method("SimpleShot", "gap", _plain(SimpleShot), False, _proto),
    "baseline": Method("Baseline", "gap", _plain(Baseline), False, _proto),
    "baseline_pp": Method("Baseline++", "gap", _plain(BaselinePP), False, _proto),
    "soft_kmeans": Method("Soft k-means (transductive)", "gap", _plain(SoftKMeans), True, _proto, transductive=True),
    "semi_soft_kmeans": Method("Soft k-means (semi-supervised)", "gap", _semi, True, _proto, semi_supervised=True),
    "semi_soft_kmeans_transductive": Method(
        "Semi-supervised soft k-means (transductive)",
        "gap",
        lambda k_shot, **options: SemiSoftKMeans(use_queries=True, **options),
        True,
        _proto,
        transductive=True,
        semi_supervised=True,
    ),
    "bd_cspn": Method("BD-CSPN (transductive)", "gap", _plain(BDCSPN), False, _proto, transductive=True),
    "tim": Method("TIM (transductive)", "gap", _plain(TIM), False, _proto, transductive=True),
}


def find_method(name: str) -> Method:
    """Look a method up; raises UserError with the nearest name."""
    if name not in METHODS:
        raise UserError(f"method '{name}' is unknown{nearest(name, METHODS)}")
    return METHODS[name]


def create_head(name: str, k_shot: int, channels: int | None = None, **options) -> nn.Module:
    """Build the episode head of a method for `k_shot` supports per class; options as in the head's class.

    channels: length of a feature, or channels of a map (`Encoder.out_dim`), for heads that have weights of this size;
        None leaves those at their own default.
    """
    return find_method(name).create_head(name, k_shot, channels, **options)


def create_encoder(
    method: str,
    backbone: str = "resnet12",
    backbone_options: dict | None = None,
    reduce_dim: int | None = None,
    map_size: tuple[int, int] = (10, 10),
    activation: str = "relu",
) -> Encoder:
    """Build backbone and pooling of a method.

    backbone, backbone_options: see `backbones.create_backbone`.
    reduce_dim, map_size, activation: of the BDC layer, see `moments.BDC`; other pools ignore them.
    """
    kind = find_method(method).pool
    network = create_backbone(backbone, **(backbone_options or {}))
    channels = network.out_channels
    if kind == "gap":
        return Encoder(network, GlobalAveragePool(channels))
    if kind == "map":
        return Encoder(network, nn.Identity())
    return Encoder(network, BDC(channels, reduce_dim, map_size, activation=activation))
