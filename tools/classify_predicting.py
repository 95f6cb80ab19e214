"""The job `predict` of `tools.classify`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch

from backbones import UserError
from classify.grid_plot import to_pixels
from classify.heat import heat_maps
from classify.heat_plot import ON_PAGE, plot_heat
from classify.mixing import single
from classify.networks import count_outputs, measure
from classify.scoring import refuse_nan
from classify.views import Shown
from episodes.progress import Progress
from episodes.run import write_text
from episodes.sources.loose import find_pictures, loose_set
from tools import classify_session, classify_testing, model_use, predictions, session
from tools.classify_config import ClassifyPredict, TestData


def predict(config: ClassifyPredict) -> dict:
    """Name the class of pictures as configured; returns what `metrics.json` holds."""
    session.check(config)
    if not config.query:
        raise UserError("there are no pictures to look at: name folders or files, --query")
    dataset, skipped = predictions.readable(loose_set(find_pictures(config.query)), config.skip_broken)
    fabric = session.open_fabric(model_use.one_device(config.machine), config.seed)
    trained = classify_session.read_network(config.checkpoint, config.network, config.size, print)
    measure(trained.network, trained.design.size)
    names = known_classes(trained, config.class_names)
    view = classify_testing.view_of(TestData(size=config.size), trained)
    pictures = Shown(dataset, view, trained.network.mean, trained.network.std)
    session.lay_out(trained.network, config.machine)
    network = trained.network.to(fabric.device).eval()
    run = session.open_run(config, fabric)
    for old in run.path.glob("heat_*.png"):
        old.unlink()  # of earlier answers, which --overwrite replaces, and which may have been more
    top, rows, pages = min(config.top, len(names)), [], []
    with Progress(len(dataset), "looking at pictures") as bar:
        for start in range(0, len(dataset), config.batch_size):
            items = list(range(start, min(start + config.batch_size, len(dataset))))
            images = pictures.load(items).to(fabric.device)
            warm = [item for item in items if item < config.heat]
            with fabric.autocast():
                if warm:
                    logits, heat = heat_maps(network, images)
                else:
                    with torch.no_grad():
                        logits = single(network(images))
            refuse_nan(logits)
            shares, places = logits.softmax(1).topk(top)
            answers = [
                [(names[place], share) for place, share in zip(*row, strict=True)]
                for row in zip(places.tolist(), shares.tolist(), strict=True)
            ]
            rows += [(str(dataset.names[item]), said) for item, said in zip(items, answers, strict=True)]
            if warm:
                pixels = to_pixels(images[: len(warm)], pictures.mean, pictures.std)
                pages += list(
                    zip(pixels, heat[: len(warm)].cpu().numpy(), rows[-len(items) :][: len(warm)], strict=True)
                )
            bar.advance(len(items))
    metrics = {
        "checkpoint": config.checkpoint or config.network.weights,
        "answers": {
            file: [{"class": name, "probability": round(share, 6)} for name, share in said] for file, said in rows
        },
        "skipped": skipped,
    }
    run.write_metrics(metrics)
    write_text(run.path / "answers.csv", as_table(rows))
    for number, start in enumerate(range(0, len(pages), ON_PAGE), 1):
        pixels, heat, said = zip(*pages[start : start + ON_PAGE], strict=True)
        title = f"what speaks for the likeliest class, {trained.design.name}"
        files, answers = [Path(file).name for file, _ in said], [answer for _, answer in said]
        plot_heat(pixels, heat, files, answers, run.path / f"heat_{number:03d}.png", title)
    for file, said in rows[:20]:
        print(f"{file}: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in said[:3]))
    print(f"{len(rows)} pictures; answers in {run.path}")
    return metrics


def known_classes(trained: classify_session.Trained, file: str | None) -> list[str]:
    """Return the names of the network's classes: of its card, of a file, or their numbers."""
    count = count_outputs(trained.network)
    if file is not None:
        path = Path(file)
        if not path.is_file():
            raise UserError(f"there is no file '{file}' of class names")
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UserError(f"'{file}' is not a text file: write one class name a line, in UTF-8") from error
        if len(names) != count:
            raise UserError(f"'{file}' names {len(names)} classes and the network tells {count} apart")
        return names
    return trained.class_names or [str(number) for number in range(count)]


def as_table(rows: list[tuple[str, list[tuple[str, float]]]]) -> str:
    """Return one line a picture: file, then classes and probabilities, likeliest first."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["file", *(x for n in range(1, len(rows[0][1]) + 1) for x in (f"class_{n}", f"probability_{n}"))])
    writer.writerows([file, *(x for name, share in said for x in (name, f"{share:.4f}"))] for file, said in rows)
    return table.getvalue()
