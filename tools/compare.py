"""Train and test several methods on equal terms; the job behind `demo`, one folder a stage, finished stages kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from episodes.loaders import Pictures
from episodes.metrics import mean_and_interval
from fewshot.card import Loaded, load_encoder
from fewshot.maml import with_encoder
from fewshot.methods import METHODS, create_head
from tools import session
from tools.config import Compare, Evaluate
from tools.grid.stage import run_stage, sentence
from tools.grid.training import POOL_TITLES, adapt_options, base_of, model_options, pretrain_options, with_shots
from tools.groups import Data
from tools.limits import check_numbers
from tools.meta_train import meta_train
from tools.pretrain import pretrain
from tools.scoring import Score, episode_samplers, picture_of, score_set
from tools.self_distill import self_distill
from tools.table import Cell, EpisodePicture, Table


@dataclass
class Comparison:
    """Everything that a comparison found.

    scores: (method, test name, shot) -> one score a seed. curves: stage title -> history rows.
    pictures: example episodes. seconds: wall time of each stage.
    """

    scores: dict[tuple[str, str, int], list[Score]] = field(default_factory=dict)
    curves: dict[str, list[dict]] = field(default_factory=dict)
    pictures: list[EpisodePicture] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def named_sets(test: list[str]) -> dict[str, str]:
    """Split NAME=DATASET texts; a data set without a name is called by its text."""
    named = {}
    for text in test:
        name, equals, spec = text.partition("=")
        if not equals or any(letter in name for letter in ":?/."):
            name, spec = text, text
        named[name] = spec
    return named


def data_options(config: Compare) -> Data:
    """Return the training pictures' options."""
    return Data(config.train, config.val, config.size, config.augment, config.in_memory)


def check(config: Compare) -> dict[str, Pictures]:
    """Open every data set and build every sampler before any training; returns the test pictures."""
    check_numbers(config)
    for method in config.methods:
        for k in config.k_shot:
            create_head(method, k, **config.head.get(method, {}))
    _, encoder = session.new_model(model_options(config, config.methods[0]), config.size)
    train, val = session.open_pictures(data_options(config), encoder.backbone, config.size)
    for k in config.k_shot:
        session.make_sampler(train, with_shots(config, config.meta_episodes, k), 0)
        if val is not None:
            session.make_sampler(val, with_shots(config, config.validation, k), 0)
    data, backbone = Data(in_memory=config.in_memory), encoder.backbone
    tests = {
        name: Pictures(session.open_set(spec, data, config.size), config.size, backbone.mean, backbone.std)
        for name, spec in named_sets(config.test).items()
    }
    for pictures in tests.values():
        for k in config.k_shot:
            episode_samplers(_test_options(config, 0), pictures, k)
    return tests


def _test_options(config: Compare, seed: int) -> Evaluate:
    """Return the options of a test: all methods of a seed get the same episodes, every seed gets others.

    Episodes that came back with every seed would be counted as new ones in the pooled interval.
    """
    return Evaluate(
        n_way=config.n_way, k_shot=config.k_shot, n_query=config.n_query, episodes=config.episodes, seed=seed,
        cache="memory",
    )  # fmt: skip


def stage(folder: Path, title: str, options, job: Callable, found: Comparison, say: Callable[[str], None]) -> Path:
    """Run one training stage unless its folder says that it is done, from the same weights; returns its weights."""

    def start(options) -> dict:
        say(f"  {title} ...")
        return job(options)

    done = run_stage(folder, options, start)
    found.curves[title], found.seconds[title] = done.history, done.seconds
    say(f"  {title}: {sentence(done)}")
    return done.weights


def train_all(config: Compare, seed: int, found: Comparison, say) -> dict[tuple[str, int], Path]:
    """Train every method for one seed; returns (method, shot) -> weights."""
    root, weights, data = Path(config.run) / f"seed{seed}", {}, data_options(config)
    mark = f", seed {seed}" if len(config.seeds) > 1 else ""
    bases: dict[str, Path] = {}
    for method in config.methods:
        pool = base_of(method)
        if pool not in bases:
            folder = root / f"pretrain_{pool}"
            options = pretrain_options(config, str(folder), data, method, seed, config.machine)
            bases[pool] = stage(folder, f"pre-training, {POOL_TITLES[pool]}{mark}", options, pretrain, found, say)
    for method in config.methods:
        base, title = str(bases[base_of(method)]), METHODS[method].title
        for k in config.k_shot:
            episodic = METHODS[method].episodic
            folder = root / (f"{method}_{k}shot" if episodic else f"{method}_distill")
            options = adapt_options(config, str(folder), base, data, method, k, seed, config.machine)
            if options is None:
                weights[method, k] = Path(base)
                continue
            what, job = (f"{k}-shot episodes", meta_train) if episodic else ("self-distillation", self_distill)
            weights[method, k] = stage(folder, f"{title}, {what}{mark}", options, job, found, say)
    return weights


def test_all(
    config: Compare, seed: int, weights, tests: dict[str, Pictures], found: Comparison, say, first: bool
) -> None:
    """Test every method of one seed on every data set and shot, on the same episodes; draws pictures on the first."""
    fabric = session.open_fabric(config.machine, 0)
    options = _test_options(config, seed)
    loaded: dict[Path, Loaded] = {}
    for name, pictures in tests.items():
        features: dict[tuple[str, int], torch.Tensor] = {}
        heads: dict[tuple[str, int], torch.nn.Module] = {}
        computed: dict[Path, torch.Tensor] = {}
        for (method, k), path in weights.items():
            if path not in loaded:
                loaded[path] = load_encoder(path, say=lambda text: None, method=method)
                session.lay_out(loaded[path].encoder, config.machine)
                fabric.to_device(loaded[path].encoder.requires_grad_(False).eval())
            channels = loaded[path].encoder.out_dim
            head = loaded[path].load_head(create_head(method, k, channels, **config.head.get(method, {})))
            head = with_encoder(head, loaded[path].encoder, fabric.autocast)
            scores, computed[path] = score_set(
                name, options, loaded[path].encoder, {k: head}, pictures, fabric.device, features=computed.get(path)
            )
            found.scores.setdefault((method, name, k), []).append(scores[0])
            if not getattr(head, "adapts", False):  # such a head has no features that a picture could start from
                features[method, k], heads[method, k] = computed[path], head
        if first:
            found.pictures += _pictures(config, name, pictures, features, heads, options)
        best = max(config.methods, key=lambda m: found.scores[m, name, config.k_shot[0]][-1].cell().mean)
        say(f"  tested on {name}: {METHODS[best].title} leads at {config.k_shot[0]}-shot")


def _pictures(config: Compare, name: str, pictures: Pictures, features, heads, options) -> list[EpisodePicture]:
    """Collect one example episode a shot, with every method's answers."""
    result = []
    for k in config.k_shot:
        shown = [method for method in config.methods if (method, k) in features]
        if not shown:
            continue
        rows = {METHODS[m].title: features[m, k] for m in shown}
        tops = {METHODS[m].title: heads[m, k] for m in shown}
        sampler = episode_samplers(options, pictures, k)[0]
        result.append(picture_of(f"{name}, {k}-shot", pictures, sampler, 0, rows, tops))
    return result


def compare(config: Compare, say: Callable[[str], None] = print) -> Comparison:
    """Run the whole comparison; finished stages of an earlier, killed run are taken as they are."""
    tests = check(config)
    found = Comparison()
    for seed in config.seeds:
        say(f"seed {seed}" if len(config.seeds) > 1 else "training")
        weights = train_all(config, seed, found, say)
        test_all(config, seed, weights, tests, found, say, first=seed == config.seeds[0])
    return found


def make_table(config: Compare, found: Comparison, title: str) -> Table:
    """Pool the seeds: the mean over all episodes of all seeds, with the interval over those episodes."""
    cells = {}
    for (method, name, k), scores in found.scores.items():
        pooled = [a for score in scores for a in score.accuracies]
        mean, interval = mean_and_interval(pooled)
        seconds = sum(score.cell().seconds for score in scores)
        cells[METHODS[method].title, name, f"{k}-shot"] = Cell(mean, interval, len(pooled), seconds)
    groups = [(name, [f"{k}-shot" for k in config.k_shot]) for name in named_sets(config.test)]
    return Table(title, [METHODS[m].title for m in config.methods], groups, cells)
