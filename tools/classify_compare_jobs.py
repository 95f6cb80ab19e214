"""The trainings of `tools.classify compare`: every network with every seed, each in a run folder of its own."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError

from backbones import UserError
from backbones.errors import nearest
from classify.networks import measure
from episodes.run import refuse_other_options
from tools.classify_compare_config import ClassifyCompare
from tools.classify_config import ClassifyTrain
from tools.classify_session import design_of, load_start
from tools.classify_training import rate_of, train
from tools.cli import build_parser
from tools.limits import check_numbers

GROUPS, OTHERS = ("network", "optim", "regular"), ("rates", "against")
EXAMPLES = {"network": "pool: isqrt", "optim": "name: adamw", "regular": "mixup: 0.2"}
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Entry:
    """A network of the comparison. options: of its trainings. rates: to choose from. against: compared with it."""

    name: str
    options: ClassifyTrain
    rates: tuple[float, ...]
    against: str

    def job(self, folder: Path, seed: int, rate: float | None = None) -> ClassifyTrain:
        """Return the options of one training, with another rate where one is given."""
        optim = self.options.optim if rate is None else replace(self.options.optim, lr=rate)
        name = slug(self.name) + (f"_lr{rate:g}" if rate is not None and len(self.rates) > 1 else "") + f"_seed{seed}"
        return replace(self.options, run=str(folder / "trainings" / name), seed=seed, optim=optim)


def slug(name: str) -> str:
    """Return a name as a folder can have it."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_").lower() or "network"


def make_entries(config: ClassifyCompare) -> list[Entry]:
    """Return the networks of a comparison.

    Raises UserError for fewer than two, names and options that are unknown, and values out of range.
    """
    names = list(config.networks)
    if odd := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"networks has the name {odd[0]!r}, which is no text: put it into quotes")
    if len(names) < 2:
        raise UserError(
            "a comparison needs two networks: name them in a recipe, networks: {GAP: {network: {pool: gap}}, "
            "iSQRT: {network: {pool: isqrt}}}"
        )
    if len({slug(name) for name in names}) < len(names):
        raise UserError(f"networks {', '.join(names)}: two names are alike but for case and signs: name them otherwise")
    if len(set(config.seeds)) < len(config.seeds) or not config.seeds:
        raise UserError(f"seeds is {config.seeds}: name each once, and one at least")
    entries = [_entry(name, own or {}, config) for name, own in config.networks.items()]
    _refuse_shared_folders(entries, config.seeds)
    return entries


def _refuse_shared_folders(entries: list[Entry], seeds: list[int]) -> None:
    """Raise UserError where two trainings would lie in one folder, of which the second would not be run."""
    taken: dict[str, str] = {}
    for entry in entries:
        for rate in entry.rates or (None,):
            for seed in seeds:
                folder = Path(entry.job(Path(), seed, rate).run).name
                if folder in taken:
                    raise UserError(
                        f"trainings of networks.{taken[folder]} and networks.{entry.name} would both lie in the folder "
                        f"'{folder}': give other names, or rates that differ"
                    )
                taken[folder] = entry.name


def _entry(name: str, own: Any, config: ClassifyCompare) -> Entry:
    where, known = f"networks.{name}", [*GROUPS, *OTHERS]
    if not isinstance(own, Mapping):
        raise UserError(f"{where} is {own!r}: give groups of options, such as {{network: {{pool: isqrt}}}}")
    for key in own:
        if key not in known:
            raise UserError(f"{where} has no '{key}'{nearest(str(key), known)}: it takes {', '.join(known)}")
    for key in GROUPS:
        if not isinstance(own.get(key, {}), Mapping):
            raise UserError(f"{where}.{key} is {own[key]!r}: give options, such as {{{EXAMPLES[key]}}}")
    against = own.get("against") or config.against or next(iter(config.networks))
    if not isinstance(against, str) or against not in config.networks:
        raise UserError(
            f"{where} is compared with '{against}', which is none{nearest(str(against), list(config.networks))}"
        )
    rates = () if own.get("rates") is None else own["rates"]
    if not isinstance(rates, list | tuple) or not all(map(_is_rate, rates)):
        raise UserError(f"{where}.rates is {rates!r}: give a list of learning rates, such as [0.03, 0.1]")
    if len(rates) > 1 and not config.data.val:
        raise UserError(f"{where}.rates are chosen from on validation pictures: name them, --data.val")
    plain = {key: {**asdict(getattr(config, key)), **own.get(key, {})} for key in GROUPS}
    plain |= {key: asdict(getattr(config, key)) for key in ("data", "machine")}
    plain |= {"select": config.select, "resume": config.resume, "overwrite": True, "pictures": False}
    parser = build_parser(ClassifyTrain, "classify train")
    try:
        built = parser.instantiate(parser.parse_object(plain))
    except ArgumentError as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error
    options = ClassifyTrain(**{key: value for key, value in vars(built).items() if key != "config"})
    check_numbers(options)
    if len(rates) == 1:
        options = replace(options, optim=replace(options.optim, lr=float(rates[0])))
    return Entry(name, options, tuple(map(float, rates)), against)


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def check_entries(entries: list[Entry]) -> None:
    """Build every network once, so that what cannot be built or takes no such pictures is told before any training."""
    for entry in entries:
        try:
            rate_of(entry.options.optim)
            design = design_of(entry.options.network, entry.options.data.size)
            network = design.build(2)
            measure(network, design.size)
            if entry.options.network.weights:  # their classifier is left out here, whatever its classes
                load_start(network, entry.options.network, ("0", "1"), lambda _: None)
        except UserError as error:
            raise UserError(f"networks.{entry.name}: {error}") from error


class Trainings:
    """Runs the trainings of a comparison, each once: what is done already, in an earlier run too, is kept."""

    def __init__(self, folder: Path, resume: bool, say: Say) -> None:
        self.folder, self.resume, self.say = folder, resume, say
        self._done: dict[str, dict] = {}

    def choose(self, entry: Entry, seed: int) -> tuple[float | None, dict[float, float]]:
        """Train a network with each of its rates; returns the best one on validation pictures, and what all reached.

        Without a choice of rates nothing is trained, and the rate is None. Of equal ones the smaller rate is taken.
        """
        if len(entry.rates) < 2:
            return None, {}
        tried = {rate: self.train(entry.job(self.folder, seed, rate))["validation"]["accuracy"] for rate in entry.rates}
        best = max(tried, key=lambda rate: (tried[rate], -rate))
        reached = ", ".join(f"{rate:g}: {100 * value:.1f} %" for rate, value in tried.items())
        self.say(f"{entry.name}: rate {best:g} of {reached} on the validation pictures")
        return best, tried

    def train(self, options: ClassifyTrain) -> dict:
        """Do one training; returns its metrics."""
        folder = Path(options.run)
        if folder.name not in self._done:
            file = folder / "metrics.json"
            if self.resume and file.is_file():
                refuse_other_options(folder, asdict(options))
                _refuse_other_epochs(folder, options.optim.epochs)
                self.say(f"{folder.name} is trained already")
                self._done[folder.name] = json.loads(file.read_text(encoding="utf-8"))
            else:
                self.say(f"training {folder.name}")
                self._done[folder.name] = train(options)
        return self._done[folder.name]


def _refuse_other_epochs(folder: Path, epochs: int) -> None:
    """Raise UserError where a finished training had other epochs: a run may be prolonged, part of a comparison not."""
    trained = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["optim"]["epochs"]
    if trained != epochs:
        raise UserError(
            f"cannot go on: optim.epochs is {epochs}, and {folder} was trained for {trained}: start a new --run"
        )
