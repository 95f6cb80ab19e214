"""What `tools.gcp_study` measures on trained networks: gaps of fast schedules, robustness, curvature."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from backbones import UserError
from backbones.errors import nearest
from classify.corruptions import corrupt, find_corruption
from classify.curvature import curvature
from classify.grid_plot import plot_grid
from classify.robust_scoring import Trial, score_corruptions, score_perturbations
from classify.robustness import (
    ALEXNET,
    CORRUPTIONS,
    PERTURBATIONS,
    VALIDATION_CORRUPTIONS,
    Baseline,
    baseline_of,
    corruption_scores,
    perturbation_scores,
    read_baseline,
    write_baseline,
)
from classify.scoring import match_classes
from classify.views import Shown
from episodes.run import write_json
from tools import classify_session, classify_testing
from tools.classify_config import ClassData, Network, TestData
from tools.classify_session import Trained
from tools.study_config import Robust
from tools.study_folders import score_folder
from tools.study_training import Job

Say = Callable[[str], None]
CURVATURE_PICTURES = 128
SEEN = "corrupted.png"  # two pictures under every corruption
FIGURES = ("mean_error", "mCE", "relative_mCE", "mFP", "mFR", "mT5D")


def accuracies(metrics: Mapping[Job, Mapping]) -> dict[str, dict[str, list[float]]]:
    """Return network -> schedule -> validation accuracy (a fraction) of every seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for job, values in metrics.items():
        found.setdefault(job.network, {}).setdefault(job.schedule, []).append(values["validation"]["accuracy"])
    return found


def gaps(reached: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, dict]]:
    """Return schedule -> network -> {"mean", "spread", "seeds"}: what it loses against the first schedule, in points.

    The difference is taken seed by seed ("seeds"); spread is their standard deviation, None for one seed.
    """
    found: dict[str, dict[str, dict]] = {}
    for network, by_schedule in reached.items():
        first, *others = by_schedule
        for schedule in others:
            lost = 100 * (np.array(by_schedule[first]) - np.array(by_schedule[schedule]))
            one = {"mean": float(lost.mean()), "spread": _spread(lost.tolist()), "seeds": lost.tolist()}
            found.setdefault(schedule, {})[network] = one
    return found


def _spread(values: Sequence[float | None]) -> float | None:
    """Return the standard deviation over the seeds, None where there is one seed or a number is missing."""
    if len(values) < 2 or any(value is None for value in values):
        return None
    return float(np.std(values, ddof=1))


def check_robust(options: Robust) -> None:
    """Refuse unknown names and files that cannot be read, before anything is trained."""
    check_names(options.corruptions, options.perturbations, options.severities)
    if options.difficulty > 3:
        raise UserError(f"robust.difficulty is {options.difficulty}: difficulties are 1 to 3")
    open_frost(options.frost)
    open_baseline(options.baseline)


def check_names(
    corruptions: Sequence[str] | None, perturbations: Sequence[str] | None, severities: Sequence[int]
) -> None:
    """Raise UserError for unknown corruptions, perturbations and severities, and for lists without any."""
    for what, names in (("corruptions", corruptions), ("perturbations", perturbations)):
        if names is not None and not names:
            raise UserError(f"{what} is an empty list: name at least one, or null for all")
    for name in corruptions or ():
        find_corruption(name)
    for name in perturbations or ():
        if name not in PERTURBATIONS:
            raise UserError(f"perturbation '{name}' is unknown{nearest(name, PERTURBATIONS)}")
    if max(severities) > 5:
        raise UserError(f"severities is {severities}: severities are 1 to 5")


def open_frost(folder: str | None) -> list[np.ndarray]:
    """Return the photographs of a folder, (H, W, 3) in [0, 1], in the order of their names; none without a folder."""
    if folder is None:
        return []
    from PIL import Image, UnidentifiedImageError

    if not Path(folder).is_dir():
        raise UserError(f"robust.frost {folder} is no folder: name one with photographs of frost, or leave it out")
    photographs = []
    for file in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        try:
            with Image.open(file) as image:
                photographs.append(np.asarray(image.convert("RGB")) / 255.0)
        except UnidentifiedImageError:
            continue  # a readme, a licence
    if not photographs:
        raise UserError(f"robust.frost {folder} holds no pictures: name a folder with photographs of frost")
    return photographs


def open_baseline(file: str | None) -> Baseline:
    """Return the baseline of a file; AlexNet on ImageNet without one."""
    if file is None:
        return ALEXNET
    try:
        return read_baseline(json.loads(Path(file).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read the baseline {file}: {error}") from error
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


class Tested:
    """Trained networks and the pictures that they are tested on, as all of them see them."""

    def __init__(
        self, checkpoints: Mapping[str, str | Path], test: str, data: ClassData | TestData, options: Robust, seed: int,
        fabric, say: Say, groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:  # fmt: skip
        """Read the networks and open the pictures.

        checkpoints: name -> weights of covey, of the same classes. test: data set; data: how it is opened.
        groups: name -> checkpoints that are one network, trained by several seeds, whose errors are averaged; None:
            each stands for itself.
        Raises UserError for networks that differ in classes, size or normalisation.
        """
        read = {
            name: classify_session.read_network(str(path), Network(), None, say) for name, path in checkpoints.items()
        }
        self.groups = groups or {name: [name] for name in checkpoints}
        self.options, self.data, self.seed, self.fabric, self.say = options, data, seed, fabric, say
        _check_alike(read)
        self.networks = {name: fabric.setup_module(trained.network.eval()) for name, trained in read.items()}
        self.bare = {name: trained.network for name, trained in read.items()}
        first = next(iter(read.values()))
        view = classify_testing.view_of(TestData(), first)
        dataset = classify_session.open_classes(test, data, view.size)
        self.shown = Shown(dataset, view, first.network.mean, first.network.std)
        self.class_names = first.class_names or list(dataset.class_names)
        self.labels = match_classes(self.class_names, dataset, test)[np.asarray(dataset.labels)]

    def trial(self, limit: int | None) -> Trial:
        """Return what is to be scored: a fixed choice of `limit` pictures."""
        return Trial(
            self.fabric, self.networks, self.shown, self.labels, self.options.batch_size, self.data.workers,
            self.seed, limit, open_frost(self.options.frost), self.options.scale_lengths, self.say,
        )  # fmt: skip


def _check_alike(read: Mapping[str, Trained]) -> None:
    """Refuse networks that cannot be shown the same pictures."""
    (first, one), *others = read.items()
    for name, other in others:
        same = {
            "classes": one.class_names == other.class_names,
            "size of pictures": one.design.size == other.design.size,
            "normalisation": (tuple(one.network.mean), tuple(one.network.std))
            == (tuple(other.network.mean), tuple(other.network.std)),
        }
        if not all(same.values()):
            differs = next(what for what, alike in same.items() if not alike)
            raise UserError(f"{first} and {name} differ in {differs}: test them one at a time")


def _mean_of(tables: Sequence):
    """Return the mean of numbers, of lists of them, or of tables of those, place by place."""
    if isinstance(tables[0], Mapping):
        return {key: _mean_of([table[key] for table in tables]) for key in tables[0]}
    return np.mean(tables, axis=0).tolist()


def robustness(tested: Tested, folder: Path, corrupted: str | None = None) -> dict:
    """Score the networks under corruptions and perturbations; writes the baseline that the first of them makes.

    corrupted: folder of pictures that are corrupted already, see `tools.study_folders`; None: they are made.
    Errors of the seeds of a network are averaged; all figures are linear in them. "spread" has their standard
    deviations.
    """
    options = tested.options
    names = list(options.corruptions or CORRUPTIONS)
    others = [name for name in VALIDATION_CORRUPTIONS if options.validation_corruptions and name not in names]
    trial = tested.trial(options.limit)
    if corrupted is None:
        draw_corrupted(trial, names + others, sorted(options.severities)[len(options.severities) // 2], folder)
        found = score_corruptions(trial, names + others, options.severities)
    else:
        found = score_folder(tested, corrupted, names + others, options.severities)
    videos: dict[str, dict] = {name: {"flips": {}, "top5": {}, "zipf": {}} for name in tested.networks}
    if options.sequences:
        sequences = tested.trial(options.sequences)
        videos = score_perturbations(sequences, options.perturbations or PERTURBATIONS, options.difficulty)
    seeds = {group: [{**found[name], **videos[name]} for name in names] for group, names in tested.groups.items()}
    found = {group: _mean_of(each) for group, each in seeds.items()}
    first = next(iter(found))
    own = baseline_of(
        f"{first} here", found[first]["clean_error"], found[first]["errors"], found[first]["flips"],
        found[first]["top5"],
    )  # fmt: skip
    given = open_baseline(options.baseline)
    write_json(folder / f"baseline_{first}.json", write_baseline(own))
    scores = {}
    for network, values in found.items():
        figures, spread = {}, {}
        for key, baseline in (("given", given), ("own", own)):
            figures[key] = _scores(values, names, baseline)
            each = [_scores(one, names, baseline) for one in seeds[network]]
            spread[key] = {figure: _spread([one[figure] for one in each]) for figure in FIGURES}
        spread["clean_error"] = _spread([one["clean_error"] for one in seeds[network]])
        scores[network] = {**values, **figures, "spread": spread}
    return {
        "pictures": len(trial.items) if corrupted is None else len(tested.labels),
        "generated": corrupted is None,
        "sequences": min(options.sequences, len(tested.labels)),
        "seeds": max(len(each) for each in seeds.values()),
        "counted": names,
        "baseline": given.name,
        "own_baseline": own.name,
        "frost": options.frost or "made textures",
        "networks": scores,
    }


def draw_corrupted(trial: Trial, names: Sequence[str], severity: int, folder: Path) -> None:
    """Draw two of the pictures under every corruption, as the networks see them."""
    pixels, titles = [], []
    for item in map(int, trial.items[:: max(1, len(trial.items) // 2)][:2]):
        clean = trial.shown.pixels(item).permute(1, 2, 0).numpy()
        options = (severity, trial.seed, item, trial.frost, trial.scale_lengths)
        pixels += [clean, *(corrupt(clean, name, *options) for name in names)]
        titles += ["clean", *(name.replace("_", " ") for name in names)]
    plot_grid(np.stack(pixels), titles, folder / SEEN, f"corrupted pictures, severity {severity}", 8)


def _scores(values: Mapping, counted: Sequence[str], baseline: Baseline) -> dict:
    """Return all the figures against one baseline; those that it has no numbers for are None."""
    found: dict = dict.fromkeys(FIGURES)
    errors = {name: values["errors"][name] for name in counted}
    if set(errors) <= set(baseline.errors):
        found |= corruption_scores(errors, values["clean_error"], baseline)
    if values["flips"] and set(values["flips"]) <= set(baseline.flips):
        found |= perturbation_scores(values["flips"], values["top5"], baseline)
    return _finite(found)


def _finite(values: Mapping) -> dict:
    """Replace numbers that are none by None, which JSON can hold."""
    return {
        key: _finite(value)
        if isinstance(value, Mapping)
        else None
        if value is None or not np.isfinite(value)
        else value
        for key, value in values.items()
    }


@torch.no_grad()
def measure_curvature(tested: Tested) -> dict:
    """Compare gradients on one batch of validation pictures, in the network with covariance pooling."""
    network = tested.bare["GCP"]
    items = tested.trial(CURVATURE_PICTURES).items
    images = tested.fabric.to_device(tested.shown.load(items))
    labels = torch.from_numpy(tested.labels[items]).to(images.device)
    features = network.backbone(images)
    if network.pool.reduce is not None:
        features = network.pool.reduce(features)
    return {
        "pictures": len(items),
        **curvature(features.cpu(), labels.cpu(), network.classifier.weight.cpu(), network.classifier.bias.cpu()),
    }
