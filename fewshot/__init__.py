"""Episode heads, losses and models of few-shot classification."""

from fewshot.adm import ADM
from fewshot.anil import ANIL
from fewshot.baseline import Baseline
from fewshot.baseline_pp import BaselinePP
from fewshot.bd_cspn import BDCSPN
from fewshot.classifier import FewShotClassifier, load_classifier
from fewshot.covamnet import CovaMNet
from fewshot.covnet import CovNet
from fewshot.deepemd import DeepEMD
from fewshot.encoder import Encoder, EpisodeModel, PretrainModel
from fewshot.frn import FRN
from fewshot.good_embed import GoodEmbed
from fewshot.logistic import fit_logistic
from fewshot.losses import cross_entropy, distillation_loss
from fewshot.maml import MAML
from fewshot.matching_net import MatchingNet
from fewshot.meta_baseline import MetaBaseline
from fewshot.meta_deepbdc import MetaDeepBDC
from fewshot.methods import METHODS, create_encoder, create_head
from fewshot.protonet import ProtoNet
from fewshot.relation_net import RelationNet
from fewshot.semi_soft_kmeans import SemiSoftKMeans
from fewshot.simpleshot import SimpleShot
from fewshot.soft_kmeans import SoftKMeans
from fewshot.stl_deepbdc import STLDeepBDC
from fewshot.tim import TIM
from fewshot.wrapped import WrappedMethod

__all__ = [
    "ADM",
    "ANIL",
    "BDCSPN",
    "FRN",
    "MAML",
    "METHODS",
    "TIM",
    "Baseline",
    "BaselinePP",
    "CovNet",
    "CovaMNet",
    "DeepEMD",
    "Encoder",
    "EpisodeModel",
    "FewShotClassifier",
    "GoodEmbed",
    "MatchingNet",
    "MetaBaseline",
    "MetaDeepBDC",
    "PretrainModel",
    "ProtoNet",
    "RelationNet",
    "STLDeepBDC",
    "SemiSoftKMeans",
    "SimpleShot",
    "SoftKMeans",
    "WrappedMethod",
    "create_encoder",
    "create_head",
    "cross_entropy",
    "distillation_loss",
    "fit_logistic",
    "load_classifier",
]
