"""The job `compare` of `tools.classify`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from backbones import UserError
from backbones.pooled import Cost, cost
from classify.comparison import Rival, summary, time_in_turns, train_step
from classify.comparison_plot import plot_comparison
from classify.confusion import write_answers
from classify.scoring import ClassScorer, Scores, match_classes
from classify.views import Shown
from episodes.run import RunFolder, write_text
from tools import classify_session, classify_testing, session
from tools.classify_compare_config import ClassifyCompare
from tools.classify_compare_jobs import Entry, Trainings, check_entries, make_entries
from tools.classify_config import ClassifyTrain, Network, TestData
from tools.study_page import PlainTable, Section, write_study_page

TITLE = "Networks trained alike"


def compare(config: ClassifyCompare) -> dict:
    """Train, test and time all networks, and write the report; returns what `metrics.json` holds."""
    started = time.perf_counter()
    session.check(config)
    entries = make_entries(config)
    test = config.test or config.data.val
    if test is None:
        raise UserError("there are no pictures to test on: name a data set, --test")
    check_entries(entries)
    fabric = session.open_fabric(config.machine, config.seeds[0])
    if fabric.world_size > 1:
        raise UserError("tools.classify compare works in one process: give --devices 1")
    tester = Tester(fabric, test, config)  # before the folder is made: what is refused leaves none behind
    run = RunFolder(config.run, asdict(config), config.resume, config.overwrite)
    trainings = Trainings(run.path, config.resume, print)
    rivals, weights = [], {}
    for entry in entries:
        rate, tried = trainings.choose(entry, config.seeds[0])
        jobs = [entry.job(run.path, seed, rate) for seed in config.seeds]
        metrics = [trainings.train(job) for job in jobs]
        right = [tester.right(job) for job in jobs]
        rival = Rival(
            entry.name, torch.tensor(right).numpy(), entry.against, tester.cost.parameters,
            tester.cost.multiply_adds, jobs[0].optim.lr, tried, sum(m["seconds"] for m in metrics) / len(metrics),
        )  # fmt: skip
        mean, width = rival.accuracy
        print(f"{entry.name}: top-1 {100 * mean:.2f} ± {100 * width:.2f} %")
        rivals.append(rival)
        weights[entry.name] = Path(jobs[0].run) / "best.safetensors"
    if config.timed_steps:
        for name, seconds in time_steps(entries, weights, config, fabric).items():
            next(rival for rival in rivals if rival.name == name).step_s = seconds
    found = {
        "test": test,
        "pictures": tester.count,
        "networks": summary(rivals),
        "seconds": round(time.perf_counter() - started, 1),
    }
    run.write_metrics(found)
    write_report(run.path, config, rivals, found, fabric)
    print(f"{found['seconds']:.0f} s in all; open {run.path / 'index.html'}")
    return found


class Tester:
    """Tests trained networks on the same pictures. count: of the pictures; cost: of the last network."""

    def __init__(self, fabric, test: str, config: ClassifyCompare) -> None:
        self.fabric, self.test, self.config, self.count, self.cost = fabric, test, config, 0, Cost(0, 0)
        size = config.data.size or 224
        self._dataset = classify_session.open_classes(test, config.data, size)
        listed = replace(config.data, in_memory=False)  # what does not fit is refused now, not after the trainings
        known = classify_session.open_classes(config.data.train, listed, size).class_names
        match_classes(known, self._dataset, test)
        if config.data.val is not None:
            match_classes(known, classify_session.open_classes(config.data.val, listed, size), config.data.val)

    def right(self, job: ClassifyTrain) -> list[bool]:
        """Return, for every picture, whether the network of a training is right; its answers lie beside it."""
        trained = classify_session.read_network(f"{job.run}/best.safetensors", Network(), None, lambda _: None)
        self.cost = cost(trained.network, trained.design.size)
        view = classify_testing.view_of(TestData(), trained)
        shown = Shown(self._dataset, view, trained.network.mean, trained.network.std)
        scorer = ClassScorer(
            self.fabric, shown, trained.class_names, self.test, job.optim.batch_size, self.config.data.workers
        )  # fmt: skip
        scores: Scores = scorer.score(trained.network.to(self.fabric.device).eval())
        self.count = len(scores.labels)
        files = getattr(self._dataset, "names", None) or range(self.count)
        write_answers(scores, [str(file) for file in files], Path(job.run) / "answers.csv")
        return (scores.best[:, 0] == scores.labels).tolist()


def time_steps(entries: list[Entry], weights: dict[str, Path], config: ClassifyCompare, fabric) -> dict[str, float]:
    """Return name -> median seconds of a training step, all networks in turns on the same random batch."""
    steps: dict[str, Callable[[], None]] = {}
    images = labels = None
    for entry in entries:
        trained = classify_session.read_network(str(weights[entry.name]), Network(), None, lambda _: None)
        network = trained.network.to(fabric.device).train()
        session.lay_out(network, config.machine)
        batch, size = entry.options.optim.batch_size, trained.design.size
        if images is None or images.shape != (batch, 3, size, size):
            generator = torch.Generator().manual_seed(0)
            images = torch.randn(batch, 3, size, size, generator=generator).to(fabric.device)
            labels = torch.randint(len(trained.class_names), (batch,), generator=generator).to(fabric.device)
        steps[entry.name] = train_step(network, images, labels)
    return time_in_turns(steps, config.timed_steps)


def write_report(path: Path, config: ClassifyCompare, rivals: list[Rival], found: dict, fabric) -> None:
    """Write picture, page and Markdown."""
    plot_comparison(rivals, path / "comparison.png")
    sections = [Section("Accuracy and cost", words(config, rivals, found["test"], found["pictures"]), tables(rivals))]
    sections[0].figures.append(
        ("Left: mean over the seeds, 95 % interval over pictures, a dot for each seed", path / "comparison.png")
    )
    facts = {
        "trained on": config.data.train,
        "tested on": found["test"],
        "training": f"{config.optim.epochs} epochs, {config.optim.batch_size} pictures a step",
        "seeds": ", ".join(map(str, config.seeds)),
        "device": torch.cuda.get_device_name() if fabric.device.type == "cuda" else "CPU",
        "wall time": f"{found['seconds']:.0f} s",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_study_page(path / "index.html", TITLE, [], sections, facts)
    write_text(path / "report.md", f"# {TITLE}\n\n{sections[0].to_markdown()}")


def words(config: ClassifyCompare, rivals: list[Rival], test: str, pictures: int) -> list[str]:
    """Say how the figures are to be read, and what their rates were chosen from."""
    seeds = f"{len(config.seeds)} seeds" if len(config.seeds) > 1 else "one seed"
    said = [
        f"Top-1 accuracy in percent on {pictures} pictures, mean of {seeds}. Intervals (95 %) are over "
        "pictures, with the answers of the seeds averaged: they say what other pictures would change. The standard "
        "deviation over the seeds says what another training would change; believe no difference within either.",
    ]
    if chosen := [rival for rival in rivals if rival.tried]:
        each = "; ".join(
            f"{rival.name}: " + ", ".join(f"{rate:g} ({100 * value:.1f} %)" for rate, value in rival.tried.items())
            for rival in chosen
        )
        said.append(f"Rates were chosen with seed {config.seeds[0]} by the accuracy on validation pictures. {each}.")
    if test == config.data.val and (chosen or config.select == "best"):
        said.append(
            "The test pictures are those of the validation, from which rates or epochs were chosen: the accuracies are "
            "too high. Name others with --test."
        )
    return said


def tables(rivals: list[Rival]) -> list[PlainTable]:
    """Return the accuracies with their cost, and the differences."""
    by_name = {rival.name: rival for rival in rivals}
    rows, differences = [], []
    for rival in rivals:
        mean, width = rival.accuracy
        step = "–" if rival.step_s is None else f"{1000 * rival.step_s:.0f}"
        rows.append(
            [
                rival.name, f"{100 * mean:.2f} ± {100 * width:.2f}", f"{100 * rival.spread:.2f}",
                " / ".join(f"{100 * value:.2f}" for value in rival.by_seed), f"{rival.parameters:,}",
                f"{rival.multiply_adds / 1e6:.1f}", step, f"{rival.rate:g}",
            ]
        )  # fmt: skip
        if rival.against != rival.name:
            mean, width, by_seed = rival.ahead_of(by_name[rival.against])
            each = " / ".join(f"{100 * value:+.2f}" for value in by_seed)
            differences.append([f"{rival.name} − {rival.against}", f"{100 * mean:+.2f} ± {100 * width:.2f}", each])
    columns = ["", "top-1", "SD of seeds", "each seed", "parameters", "M multiply-adds", "ms a step", "rate"]
    found = [PlainTable("Accuracy, size, time of a training step, learning rate.", columns, rows)]
    if differences:
        found.append(PlainTable("Differences on the same pictures, points.", ["", "mean", "each seed"], differences))
    return found
