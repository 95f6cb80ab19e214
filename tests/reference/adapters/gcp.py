"""The GCP study: one function per kind of `gcp.json`, built from the arguments in the entry."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones import create_network
from backbones.parts import split
from classify.landscape import Landscape, evenly_spaced, probe
from classify.study_schedules import learning_rate, recipe
from moments import covariance, isqrt_pool, newton_schulz_root, upper_triangle
from tests.reference.adapters.gcp_robustness import ROBUSTNESS_KINDS
from tests.reference.adapters.networks import network_key, run_module
from tests.reference.case import Case, Result


def cov_sqrt_triangle(case: Case) -> Result:
    args, x = case.args, case.inputs["x"].requires_grad_()
    second = covariance(x)
    root = newton_schulz_root(second, args["iterations"], eps=args.get("eps") or 0.0)
    return Result({"cov": second, "sqrt": root, "out": upper_triangle(root)}, {"grad_x": x})


def study_network(args: dict, dropout: float = 0.0) -> nn.Module:
    options = {}
    if args["head"] == "gcp":
        options = {"reduction": args["reduced_dim"], "iterations": args["iterations"]}
    return create_network(f"{args['head']}_{args['arch']}", args["classes"], dropout=dropout, **options)


def layout_of(args: dict) -> str:
    """Return the layout of the released file."""
    family = args["arch"].split("_x")[0]
    if family.startswith("resnet"):
        return "mpncov" if args["head"] == "gcp" else "resnet"
    return f"gcp_{family}" if args["head"] == "gcp" else family


def whole_network(case: Case) -> Result:
    network = study_network(case.args, case.args.get("dropout") or 0.0)

    def forward(x: Tensor) -> dict[str, Tensor]:
        features = network.backbone(x)
        values = {}
        if case.args["head"] == "gcp":
            values["reduced"] = network.pool.reduce(features)
            values["vector"] = upper_triangle(network.pool.power(covariance(values["reduced"])), network.pool.order)
            pooled = values["vector"]
        else:
            pooled = network.pool(features)
        return {"logits": network.classifier(network.dropout(pooled)), **values}

    return run_module(network, case, network_key(layout_of(case.args)), forward)


def parameter_count(case: Case) -> Result:
    with torch.device("meta"):
        network = study_network(case.args)
    return Result({"parameters": sum(p.numel() for p in network.parameters())})


def landscape_layout(args: dict) -> str:
    """Return the layout of the landscape code, which has other names."""
    layout = layout_of(args)
    return {"mpncov": "gcp_resnet_landscape"}.get(layout, f"{layout}_landscape" if "mobilenet" in layout else layout)


class TinyTail(nn.Module):
    """The tail of the small vectors."""

    def __init__(self, args: dict) -> None:
        super().__init__()
        hidden = args["hidden_channels"]
        self.conv = nn.Conv2d(args["in_channels"], hidden, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.pool = isqrt_pool(hidden, args["iterations"]) if args["head"] == "gcp" else None
        self.fc = nn.Linear(self.pool.out_dim if self.pool else hidden, args["classes"])

    def forward(self, y: Tensor) -> Tensor:
        y = F.relu(self.bn(self.conv(y)))
        return self.fc(self.pool(y) if self.pool else y.mean((2, 3)))


def tail_of(case: Case):
    """Return the part behind y, with the case's weights."""
    args, weights = case.args, case.weights()
    if args["tail"] == "tiny":
        tail = TinyTail(args).to(case.dtype).train(case.mode == "train")
        tail.load_state_dict(weights)
        return tail
    network_args = {**args, "arch": args["tail"]}
    network = study_network(network_args)
    own_key = network_key(landscape_layout(network_args))
    network.to(case.dtype).train(case.mode == "train")
    network.load_state_dict({own_key(key): value for key, value in weights.items()})
    return split(network)[1]


def loss_landscape(case: Case) -> Result:
    low, high, count = case.args["range"]
    etas = evenly_spaced(low, high, int(count))
    seen = probe(tail_of(case), case.inputs["y"], torch.tensor(case.args["targets"]), etas)
    return Result(
        {
            "steps": np.array(seen.etas),
            "loss": np.array(seen.losses),
            "grad_dist": np.array(seen.distances),
            "summary": summary(seen),
            "beta": np.array([seen.smoothness]),
        }
    )


def summary(seen: Landscape) -> np.ndarray:
    return np.array([seen.loss, seen.gradient_norm, *seen.loss_band, *seen.distance_band])


def learning_rates(case: Case) -> Result:
    args = case.args
    family, schedule, base, total = (args[name] for name in ("family", "schedule", "base_lr", "total_epochs"))
    if args.get("points") is None:
        places = range(args["n_epochs"])
    else:
        places = [epoch + iteration / count for epoch, iteration, count in args["points"]]
    return Result({"lr": [learning_rate(family, schedule, place, base, total) for place in places]})


def training_recipe(case: Case) -> Result:
    found = recipe(case.args["family"], case.args["schedule"])
    return Result({name: getattr(found, name) for name in ("base_lr", "epochs", "batch", "weight_decay")})


KINDS = {
    "cov_sqrt_triangle": cov_sqrt_triangle,
    "whole_network": whole_network,
    "parameter_count": parameter_count,
    "loss_landscape": loss_landscape,
    "learning_rate": learning_rates,
    "training_recipe": training_recipe,
    **ROBUSTNESS_KINDS,
}
