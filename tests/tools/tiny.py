"""A data set, a network and options so small that a script's whole job takes a second or two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tools.config import Evaluate, MetaTrain, Pretrain, SelfDistill
from tools.groups import Data, Episodes, Machine, Model, Optim, Validation

NETWORK = {"width": 8, "pooled_stages": 2, "input_size": 16}
CPU = Machine(accelerator="cpu")


def class_images(classes: int, items: int, size: int = 16, seed: int = 0, noise: float = 40.0) -> np.ndarray:
    """(classes, items, size, size, 3) uint8: every class has a smooth pattern of its own under pixel noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(30, 226, (classes, 1, 4, 4, 3)).repeat(size // 4, axis=2).repeat(size // 4, axis=3)
    return (coarse + noise * generator.standard_normal((classes, items, size, size, 3))).clip(0, 255).astype(np.uint8)


def pack(path: Path, classes: int = 8, items: int = 12, seed: int = 0) -> str:
    """Write a pack; returns the text that opens it."""
    images = class_images(classes, items, seed=seed)
    np.savez(
        path,
        images=images.reshape(-1, *images.shape[2:]),
        label=np.repeat(np.arange(classes), items),
        class_names=[f"class{i:02d}" for i in range(classes)],
    )
    return str(path)


def folder(root: Path, classes: int = 5, items: int = 8, seed: int = 0) -> Path:
    """Write a folder of class folders with PNG files."""
    for number, images in enumerate(class_images(classes, items, size=20, seed=seed)):
        for i, image in enumerate(images):
            path = root / f"class{number}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


def model(method: str, **options) -> Model:
    return Model(method, "conv4", NETWORK, **options)


def pretrain_options(
    run: Path, train: str, val: str | None = None, method: str = "meta_deepbdc", **options
) -> Pretrain:
    """Options of a pre-training of two epochs."""
    optim = {"epochs": 2, "batch_size": 16, "lr": 0.05, "temperature_lr": 1e-3, "milestones": [1]}
    return Pretrain(
        str(run),
        data=Data(train, val, 16, "none"),
        model=options.pop("model", None) or model(method),
        optim=Optim(**{**optim, **options.pop("optim", {})}),
        validation=Episodes(n_query=3, episodes=10),
        machine=CPU,
        **options,
    )


def meta_options(run: Path, checkpoint: str | None, train: str, val: str | None = None, **options) -> MetaTrain:
    """Options of a meta-training of two epochs."""
    return MetaTrain(
        str(run),
        checkpoint,
        data=Data(train, val, 16, "none"),
        model=options.pop("model", None) or model("meta_deepbdc"),
        optim=Optim(**{"epochs": 2, "lr": 1e-3, **options.pop("optim", {})}),
        episodes=options.pop("episodes", None) or Episodes(n_query=3, episodes=6),
        validation=Validation(episodes=10),
        machine=CPU,
        **options,
    )


def distill_options(run: Path, checkpoint: str | None, train: str, val: str | None = None, **options) -> SelfDistill:
    """Options of a self-distillation of two generations of one epoch."""
    return SelfDistill(
        str(run),
        checkpoint,
        data=Data(train, val, 16, "none"),
        model=model("stl_deepbdc"),
        optim=Optim(**{"epochs": 1, "batch_size": 16, **options.pop("optim", {})}),
        validation=Episodes(n_query=3, episodes=10),
        machine=CPU,
        **{"generations": 2, **options},
    )


def evaluate_options(run: Path, checkpoint: str | None, test: str | list[str], **options) -> Evaluate:
    """Options of a test of 50 episodes, without pictures."""
    test = [test] if isinstance(test, str) else test
    sizes = {"k_shot": [1, 2], "n_query": 5, "episodes": 50, "pictures": False, "cache": "memory"}
    return Evaluate(str(run), checkpoint, test=test, machine=CPU, **{**sizes, **options})
