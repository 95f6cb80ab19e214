"""Options of the trainings that a comparison of methods needs; shared by `demo` and `benchmark`."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

from fewshot.methods import METHODS
from tools.config import Benchmark, Compare, MetaTrain, Pretrain, SelfDistill
from tools.groups import Data, Episodes, Machine, Model, Validation
from tools.video_config import VideoPretrain, VideoTune

# Whom a pre-training is named after: methods that pool alike share it, whichever of them are compared.
NAMESAKE = {"gap": "protonet", "bdc": "meta_deepbdc"}
POOL_TITLES = {"gap": "average pooling", "bdc": "BDC"}
JOBS = {
    "pretrain": Pretrain,
    "meta_train": MetaTrain,
    "self_distill": SelfDistill,
    "video_pretrain": VideoPretrain,
    "video_tune": VideoTune,
}


def base_of(method: str) -> str:
    """Return which pre-training a method starts from: methods on whole maps share that of average pooling."""
    return "bdc" if METHODS[method].pool == "bdc" else "gap"


def own(config: Compare | Benchmark, method: str, name: str) -> Any:
    """Return an option of the grid, or what `per_method` says instead; parts of a group are replaced one by one."""
    value, special = getattr(config, name, None), getattr(config, "per_method", {}).get(method, {})
    if name not in special:
        return value
    return replace(value, **special[name]) if isinstance(special[name], dict) else special[name]


def model_options(config: Compare | Benchmark, method: str) -> Model:
    """Return the model options of a method; first-order models train without dropout, as published."""
    dropout = own(config, method, "dropout") if METHODS[method].pool == "bdc" else 0.0
    return Model(
        method,
        config.backbone,
        dict(config.backbone_options),
        own(config, method, "reduce_dim"),
        dropout=dropout,
        head=config.head.get(method, {}),
    )


def with_shots(config: Compare | Benchmark, episodes: Episodes, k_shot: int) -> Episodes:
    """Return training or validation episodes of the compared way and of one shot."""
    return replace(episodes, n_way=config.n_way, k_shot=k_shot)


def pretrain_options(
    config: Compare | Benchmark, run: str, data: Data, method: str, seed: int, machine: Machine
) -> Pretrain:
    """Return the pre-training that a method starts from; equal for methods that can share it."""
    pool = base_of(method)
    model = replace(model_options(config, method), method=NAMESAKE[pool], head={})
    if pool == "gap":
        model = replace(model, reduce_dim=None)  # it has no BDC layer
    select = own(config, method, "select") or "best"
    optim = own(config, method, "pretrain")
    return Pretrain(
        run, seed, select=select, data=data, model=model, optim=optim, validation=config.validation, machine=machine
    )


def adapt_options(
    config: Compare | Benchmark,
    run: str,
    checkpoint: str | None,
    data: Data,
    method: str,
    k_shot: int,
    seed: int,
    machine: Machine,
) -> MetaTrain | SelfDistill | None:
    """Return what follows the pre-training: episodes of a shot, self-distillation, or nothing (None)."""
    if METHODS[method].episodic:
        valid = config.validation
        return MetaTrain(
            run, checkpoint, method, seed, select=own(config, method, "select") or "best", data=data,
            episodes_per_step=own(config, method, "episodes_per_step") or 1, model=model_options(config, method),
            optim=own(config, method, "meta"), episodes=with_shots(config, config.meta_episodes, k_shot),
            validation=Validation(config.n_way, k_shot, valid.n_query, valid.episodes, valid.drop_small),
            machine=machine,
        )  # fmt: skip
    if generations := own(config, method, "generations"):
        before = pretrain_options(config, run, data, method, seed, machine)
        return SelfDistill(
            run, checkpoint, generations, seed=seed, data=data, model=before.model, optim=before.optim,
            validation=config.validation, machine=machine,
        )  # fmt: skip
    return None


def train(kind: str, options: Any) -> dict:
    """Run one training in this process; returns its metrics.

    kind: of JOBS, the name of its script too.
    """
    return getattr(importlib.import_module(f"tools.{kind}"), kind)(options)
