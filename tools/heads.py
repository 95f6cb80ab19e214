"""The heads of a test: built from the options, centred on base classes where asked, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from backbones import UserError
from episodes.evaluate import encode_batch
from episodes.features import open_features
from episodes.loaders import Pictures
from episodes.progress import Progress
from fewshot.card import Loaded
from fewshot.methods import METHODS, create_head
from tools.config import Evaluate
from tools.tested import methods_of

BATCH = 128


def build_heads(config: Evaluate, loaded: Loaded) -> dict[int, nn.Module]:
    """Return the head of every shot, with the weights that the checkpoint has for it.

    Raises UserError for options that the head does not take, `solver` and `base` included.
    """
    method, (find, create) = loaded.architecture.method, methods_of(loaded)
    trained = loaded.card.get("head", {}) if method == loaded.card.get("method") else {}
    options = {**trained, **config.model.head}
    if config.solver is not None:
        having = [name for name in METHODS if hasattr(create_head(name, 1), "solver")]
        if method not in having:
            raise UserError(f"solver: {find(method).title} has none; {', '.join(having[:-1])} and {having[-1]} have")
        options["solver"] = config.solver
    if config.base is not None:
        if not config.base:
            raise UserError("base names no data set: give the one of the base classes, or leave it out")
        if method != "simpleshot":
            raise UserError(
                f"base: {find(method).title} has no use for the mean feature of base classes; only simpleshot does"
            )
        options = {"variant": "CL2N", **options}
        if options["variant"] != "CL2N" or options.get("centre") is not None:
            raise UserError("base is the centre of variant CL2N: leave out model.head.variant and model.head.centre")
    channels = loaded.encoder.out_dim
    return {k: loaded.load_head(create(method, k, channels, **options)) for k in config.k_shot}


def centre_on_base(
    heads: Iterable[nn.Module],
    config: Evaluate,
    encode: Callable[[Tensor], Tensor],
    pictures: Pictures,
    weights: str,
    device: torch.device | str = "cpu",
    show: bool = True,
    batch_size: int = BATCH,
) -> None:
    """Give SimpleShot heads the mean feature of the base classes, as their paper has it.

    pictures: of the data set `config.base`. weights: key of the encoder's weights, for features on disk.
    """
    if config.cache == "disk":
        store = open_features(
            encode, pictures, weights, config.features, config.feature_dtype, batch_size=batch_size, device=device,
            show=show,
        )  # fmt: skip
        centre = store.mean()
    else:
        centre = mean_feature(encode, pictures, device, show, batch_size)
    for head in heads:
        head.centre = centre.to(device)


@torch.no_grad()
def mean_feature(
    encode: Callable[[Tensor], Tensor],
    pictures: Pictures,
    device: torch.device | str = "cpu",
    show: bool = True,
    batch_size: int = BATCH,
) -> Tensor:
    """Return the mean representation (...) of all pictures, float32, without keeping them."""
    total, count = 0.0, len(pictures.dataset)
    with Progress(count, "base classes", on=show) as bar:
        for start in range(0, count, batch_size):
            part = range(start, min(start + batch_size, count))
            total = total + encode_batch(encode, pictures, list(part), device).double().sum(0)
            bar.advance(len(part))
    return (total / count).float()


def notes_of(heads: dict[int, nn.Module]) -> dict[str, str]:
    """Return what heads say of how they computed, for below a table: keyword -> text; empty where they say nothing.

    Heads that have something to say, a solver for instance, have the attribute `note`. Call it after the test.
    """
    said = {k: getattr(head, "note", None) for k, head in heads.items()}
    texts = list(dict.fromkeys(text for text in said.values() if text))
    if len(texts) <= 1:
        return {"head": texts[0]} if texts else {}
    return {f"head, {k}-shot": text for k, text in said.items() if text}
