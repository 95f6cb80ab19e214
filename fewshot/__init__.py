"""Episode heads, losses and models of few-shot classification."""

from fewshot.adm import ADM
from fewshot.covnet import CovNet
from fewshot.deepemd import DeepEMD
from fewshot.encoder import Encoder, EpisodeModel, PretrainModel
from fewshot.frn import FRN
from fewshot.good_embed import GoodEmbed
from fewshot.logistic import fit_logistic
from fewshot.losses import cross_entropy, distillation_loss
from fewshot.meta_baseline import MetaBaseline
from fewshot.meta_deepbdc import MetaDeepBDC
from fewshot.methods import METHODS, create_encoder, create_head
from fewshot.protonet import ProtoNet
from fewshot.stl_deepbdc import STLDeepBDC

__all__ = [
    "ADM",
    "FRN",
    "METHODS",
    "CovNet",
    "DeepEMD",
    "Encoder",
    "EpisodeModel",
    "GoodEmbed",
    "MetaBaseline",
    "MetaDeepBDC",
    "PretrainModel",
    "ProtoNet",
    "STLDeepBDC",
    "create_encoder",
    "create_head",
    "cross_entropy",
    "distillation_loss",
    "fit_logistic",
]
