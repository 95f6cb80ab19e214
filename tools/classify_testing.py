"""The job `eval` of `tools.classify`."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from typing import Any

from backbones import UserError
from classify.confusion import draw_confusion, write_answers, write_classes
from classify.networks import count_outputs, measure
from classify.scoring import ClassScorer, Scores
from classify.views import Shown, View
from tools import classify_session, session
from tools.classify_config import ClassifyEval, TestData
from tools.classify_session import Trained


def evaluate(config: ClassifyEval) -> dict:
    """Test a checkpoint as configured; returns what `metrics.json` holds."""
    session.check(config)
    if config.data.test is None:
        raise UserError("there are no pictures to test on: name a data set, --data.test")
    fabric = session.open_fabric(config.machine, config.seed)
    say = session.speaker(fabric)
    with session.together(fabric):
        trained = classify_session.read_network(config.checkpoint, config.network, config.data.size, say)
        measure(trained.network, trained.design.size)
        view = view_of(config.data, trained)
        dataset = classify_session.open_classes(config.data.test, config.data, view.size)
        names = class_names(trained, dataset, config.data.test)
        pictures = Shown(dataset, view, trained.network.mean, trained.network.std, config.data.views)
        scorer = ClassScorer(
            fabric, pictures, names, config.data.test, config.data.batch_size, config.data.workers
        )  # fmt: skip
        costs = classify_session.tell_costs(trained.network, trained.design.size, say) if fabric.is_global_zero else {}
        run = session.open_run(config, fabric)
    session.lay_out(trained.network, config.machine)
    scores = scorer.score(trained.network.to(fabric.device).eval())
    if len(dataset.class_names) < len(names):
        say(f"the pictures are of {len(dataset.class_names)} of the network's {len(names)} classes")
    metrics = {
        "checkpoint": config.checkpoint or config.network.weights,
        "test": config.data.test,
        "pictures": len(dataset),
        "classes": len(names),
        "views": config.data.views,
        "view": {name: value for name, value in asdict(view).items() if name in ("size", "resize", "squash")},
        **scores.summary(),
        **costs,
    }
    run.write_metrics(metrics)
    with session.together(fabric):
        if run.main:
            files = getattr(dataset, "names", None) or range(len(dataset))
            write_answers(scores, [str(file) for file in files], run.path / "answers.csv")
            write_classes(scores, run.path / "classes.csv")
            if config.pictures:
                draw_confusion(scores, run.path / "confusion.png")
    say(f"{sentence(scores)}; {run.path}")
    return metrics


def sentence(scores: Scores) -> str:
    """Say how many were right."""
    share, width = scores.top()
    text = f"top-1 {100 * share:.2f} ± {100 * width:.2f} %"
    if len(scores.class_names) > 5:
        share, width = scores.top(5)
        text += f", top-5 {100 * share:.2f} ± {100 * width:.2f} %"
    return f"{text} on {len(scores.labels)} pictures (95 % intervals)"


def view_of(data: TestData, trained: Trained) -> View:
    """Return how test pictures are shown: as in the training's validation, where the options say nothing else."""
    own = View(**{**trained.card.get("view", {}), "size": trained.design.size})
    given = {name: getattr(data, name) for name in ("resize", "squash", "interpolation")}
    view = replace(own, **{name: value for name, value in given.items() if value is not None})
    if data.size is not None and data.size != trained.card.get("size") and data.resize is None:
        view = replace(view, resize=None)  # that of the training belongs to another size
    return view


def class_names(trained: Trained, dataset: Any, what: str) -> list[str]:
    """Return the names of the network's classes; of files that name none they are the data set's, in its order.

    Raises UserError where these are not as many.
    """
    if trained.class_names is not None:
        return trained.class_names
    count = count_outputs(trained.network)
    if len(dataset.class_names) != count:
        raise UserError(
            f"the network tells {count} classes apart and {what} has {len(dataset.class_names)}: the file does not "
            "name its classes, so the pictures must be of all of them, in the order of their names"
        )
    warnings.warn(
        "the file does not name its classes: they are taken to be those of the pictures, in this order", stacklevel=2
    )
    return list(dataset.class_names)
