"""The networks of the study of covariance pooling in training (Wang et al., CVPR 2020), with it and without."""

from __future__ import annotations

from torch import nn

from backbones.classifier import ImageClassifier
from backbones.errors import UserError
from backbones.pooled import with_pooling
from backbones.zoo import create_backbone

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
MOBILENETS = ("mobilenet_v2",)
SHUFFLENETS = ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0")
BASES = (*RESNETS, *MOBILENETS, *SHUFFLENETS)
NAMES = tuple(f"{head}_{base}" for head in ("gap", "gcp") for base in BASES)


def study_network(
    name: str,
    num_classes: int = 1000,
    *,
    reduction: int | None = None,
    iterations: int | None = None,
    dropout: float | None = None,
    **options,
) -> ImageClassifier:
    """Build a network of the study.

    name: "gcp_" or "gap_" and the base ("gcp_resnet50", "gap_mobilenet_v2"). "gcp": 1x1 reduction, batch norm, ReLU
        (ReLU6 on the light networks), covariance, Newton-Schulz root, triangle row by row; ResNets then keep stage 4
        at stride 1. "gap": the plain network.
    reduction, iterations: of "gcp" alone; None: as released, 256 (also 128 and 160) and 5.
    dropout: before the classifier; None: 0.2 for MobileNetV2 as released, else none.
    options: of the backbone.
    Raises UserError for options that the network has no use for.
    """
    head, _, base = name.partition("_")
    light = base not in RESNETS
    if light:
        backbone = create_backbone(base, **options)
    else:
        backbone = create_backbone(f"timm:{base}", **{"zero_init_last": False, **options})
    pooling = {"pool": "gap"}
    for option, value in (("reduction", reduction), ("iterations", iterations)):
        if head == "gap" and value is not None:
            raise UserError(f"'{name}' has average pooling and no {option}: take gcp_{base}, or leave {option} out")
    if head == "gcp":
        reduction, iterations = (256 if reduction is None else reduction), (5 if iterations is None else iterations)
        pooling = {"pool": "isqrt", "reduction": reduction, "iterations": iterations}
        pooling |= {"activation": "relu6"} if light else {"last_stride": 1}
    if dropout is None:
        dropout = 0.2 if base in MOBILENETS else 0.0
    network = with_pooling(backbone, num_classes=num_classes, dropout=dropout, **pooling)
    if base in MOBILENETS:
        nn.init.normal_(network.classifier.weight, std=0.01)
        nn.init.zeros_(network.classifier.bias)
    elif base in SHUFFLENETS and head == "gcp":  # all of this network starts as the framework draws it
        network.pool.reduce[0].reset_parameters()
    return network
