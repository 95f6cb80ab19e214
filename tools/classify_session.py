"""From the options of `tools.classify` to objects: networks with the weights they start from, pictures, scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones import UserError, load_released, load_weights, read_checkpoint
from backbones.classifier import ImageClassifier
from backbones.released import from_released
from classify.networks import Design, costs
from classify.views import Shown, View, show_training
from tools.classify_config import ClassData, Network, TestData
from tools.session import open_set

Say = Callable[[str], None]


def design_of(network: Network, size: int | None) -> Design:
    """Return the design that the options name."""
    own = ("name", "pool", "options", "pool_options", "last_stride", "reduction", "dropout")
    return Design(**{name: getattr(network, name) for name in own}, size=size)


def last_layers(network: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the layers that answer class by class."""
    if isinstance(network, ImageClassifier):
        return ("classifier.",)
    return tuple(f"head.{name}." for name in ("visual_fc", "cls_fc") if hasattr(network.head, name))


def load_start(network: nn.Module, options: Network, class_names: Sequence[str] | None, say: Say) -> dict[str, Any]:
    """Load `options.weights` into a network, and say what was taken and what starts fresh; returns the file's card.

    class_names: of the training. The classifier is taken from files whose card names the same classes, or which name
    none and have as many; pooling layers from files that have one. None: the network is to be tested, so everything
    must be there.
    Raises UserError for a file that does not fit.
    """
    path = Path(options.weights)
    state, card = read_checkpoint(path, ("state_dict_ema",) if options.averaged else ())
    last, drop, missing = last_layers(network), (), ()
    if class_names is not None:
        own = network.state_dict()
        renamed = _renamed(state)
        named = card.get("class_names")
        fits = all(key in renamed and renamed[key].shape == own[key].shape for key in own if key.startswith(last))
        if not fits or (named is not None and list(named) != list(class_names)):
            drop = last
        parts = ("pool.", "head.")
        missing = drop + tuple(part for part in parts if not any(key.startswith(part) for key in renamed))
    told = {"order": options.order or card.get("order"), "iterations": options.iterations or card.get("iterations")}
    try:
        if _known(state):
            load_released(network, path, **told, averaged=options.averaged, drop=drop, allow_missing=missing, say=say)
        else:  # libraries' own files, whose names are those of the wrapped network
            own = ("fc.", "head.", "classifier.")
            load_weights(network, path, drop=drop or own, allow_missing=missing or last, say=say)
    except UserError as error:
        raise UserError(_with_options(str(error))) from error
    fresh = sorted({key.rpartition(".")[0] for key in network.state_dict() if missing and key.startswith(missing)})
    if fresh:
        say(f"starting fresh: {', '.join(fresh[:6])}{f' and {len(fresh) - 6} more' if len(fresh) > 6 else ''}")
    return card


def _with_options(message: str) -> str:
    """Name the options of this script beside the arguments that a message names."""
    for name in ("order", "iterations"):
        if f"{name}=" in message:
            place = f"--network.pool_options.{name}, or --network.options.{name} of a published network"
            return f"{message}; here: {place}, builds the pool, --network.{name} says what the file has"
    return message


def _known(state: dict[str, Tensor]) -> bool:
    try:
        from_released(state)
    except UserError:
        return False
    return True


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return from_released(state)[1] if _known(state) else state


def tell_costs(network: nn.Module, size: int, say: Say) -> dict[str, int]:
    """Say what a network costs beside the same with average pooling; returns the figures."""
    own, plain = costs(network, size)
    say(f"at {size} px: {own}; the same backbone with average pooling: {plain}")
    return {
        "parameters": own.parameters,
        "multiply_adds": own.multiply_adds,
        "gap_parameters": plain.parameters,
        "gap_multiply_adds": plain.multiply_adds,
    }


def view_of(data: ClassData, size: int) -> View:
    """Return how training pictures are shown."""
    own = ("resize", "squash", "interpolation", "augment", "flip", "colour", "randaug", "erasing")
    values = {name: getattr(data, name) for name in own}
    for name in ("scale", "ratio"):
        if len(getattr(data, name)) != 2:
            raise UserError(f"data.{name} is {getattr(data, name)}: give the smallest and the largest value")
        values[name] = tuple(getattr(data, name))
    if data.augment in ("standard", "light"):
        values["augment"] = "none"
    return View(size, **values)


def plain_view(view: View) -> View:
    """Return the test view of a training view: the same crop, and nothing random."""
    return replace(view, augment="none", erasing=0.0)


def test_facts(data: ClassData) -> dict[str, Any]:
    """Return how the network is to be shown test pictures, for its card; the size stands there by itself."""
    return {name: getattr(data, name) for name in ("resize", "squash", "interpolation")}


def open_training(data: ClassData, network: nn.Module, size: int) -> tuple[Any, Any]:
    """Open the training and the validation pictures (None without)."""
    view = view_of(data, size)
    train = show_training(open_classes(data.train, data, size), view, data.augment, network.mean, network.std)
    if len(train.dataset.class_names) < 2:
        raise UserError(f"{data.train} has one class: classification needs two at least")
    if not data.val:
        return train, None
    return train, Shown(open_classes(data.val, data, size), plain_view(view), network.mean, network.std)


def open_classes(spec: str, data: ClassData | TestData, size: int):
    """Open one data set, decoded once into memory where asked, at the side that its crops are taken from."""
    return open_set(spec, data, size if data.resize is None else data.resize)


@dataclass
class Trained:
    """A network read for a test: its design, card, and the names of its classes (None where the file says none)."""

    network: nn.Module
    design: Design
    card: dict[str, Any]
    class_names: list[str] | None


def read_network(checkpoint: str | None, options: Network, size: int | None, say: Say) -> Trained:
    """Rebuild the network of a checkpoint; without a card it is the one that the options name.

    Raises UserError without a checkpoint and weights, and for files that do not fit.
    """
    path = checkpoint or options.weights
    if path is None:
        if not options.options.get("pretrained"):
            raise UserError("there is no checkpoint: name one, --checkpoint runs/NAME/best.safetensors")
        design = design_of(options, size)
        return Trained(design.build(1000), design, {}, None)
    state, card = read_checkpoint(path)
    if card.get("stage") == "classify":
        design = Design.of_card(card)
        refuse_another(options, design, path)
        design.size = size or design.size
        names = list(card["class_names"])
    else:
        design, names = design_of(options, size), card.get("class_names")
    count = len(names) if names else _outputs(state, path)
    network = design.build(count)
    try:
        load_start(network, replace(options, weights=str(path)), None, say)
    except UserError as error:
        named = card.get("stage") == "classify" or options != replace(Network(), weights=options.weights)
        if named or "another architecture" not in str(error):
            raise
        if (stage := card.get("stage")) is not None:
            raise UserError(
                f"{path} holds weights of another script (stage {stage}), which tools.evaluate tests; to train a "
                "classifier from them: tools.classify train --network.weights"
            ) from error
        raise UserError(
            f"{path} does not tell its network, and it is not {design.name}: name it, --network.name and, of a "
            "backbone with a pooling layer, --network.pool"
        ) from error
    return Trained(network.eval(), design, card, names)


def refuse_another(options: Network, design: Design, path: str) -> None:
    """Raise UserError where the options name another network than the card of a file does."""
    plain, own = Network(), asdict(design)
    for name in ("name", "pool", "options", "pool_options", "last_stride", "reduction", "dropout"):
        asked = getattr(options, name)
        if asked not in (getattr(plain, name), own[name]):
            raise UserError(
                f"{path} is of {design.name}{f' with {design.pool}' if design.pool else ''}, as its card says, with "
                f"{name} {own[name]}: leave network.{name} {asked} out"
            )


def _outputs(state: dict[str, Tensor], path: str) -> int:
    """Return how many classes a file's classifier tells apart."""
    renamed = _renamed(state)
    last = ("classifier.", "head.visual_fc.", "head.cls_fc.", "head.", "fc.")
    rows = [len(renamed[key]) for start in last for key in renamed if key.startswith(start) and key.endswith("weight")]
    if not rows:
        raise UserError(f"{path} holds no classifier: it can be trained (tools.classify train --network.weights)")
    return rows[-1] if any(key.startswith("classifier.6.") for key in renamed) else rows[0]


@torch.no_grad()
def first_pictures(batches, most: int = 16) -> tuple[Tensor, list[str]]:
    """Return the first training pictures of an epoch as the network sees them, and their classes."""
    batch = batches[0]
    names = [batches.pictures.dataset.class_names[label] for label in batch["labels"][:most].tolist()]
    return batch["images"][:most], names
