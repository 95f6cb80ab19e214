"""python -m tools.evaluate: score a checkpoint, or a library network as it is, on test episodes."""

from __future__ import annotations

from pathlib import Path

from tools.cli import run_tool
from tools.config import Evaluate
from tools.groups import Data


def evaluate(config: Evaluate) -> dict:
    """Run the evaluation as configured; returns what `metrics.json` holds."""
    import torch

    from episodes.fingerprint import weights_key
    from episodes.loaders import Pictures
    from episodes.processes import team_of
    from fewshot.maml import with_encoder
    from tools import session
    from tools.heads import build_heads, centre_on_base, notes_of
    from tools.scoring import episode_samplers, score_set

    session.check(config)
    fabric = session.open_fabric(config.machine, config.seed)
    say, team = session.speaker(fabric), team_of(fabric)
    with session.together(fabric):
        loaded = session.read_model(config.checkpoint, config.model, config.size, say, config.method)
        method = loaded.architecture.method
        heads = build_heads(config, loaded)
        session.lay_out(loaded.encoder, config.machine)
        encoder = fabric.to_device(loaded.encoder.requires_grad_(False).eval())
        heads = {k: with_encoder(head, encoder, fabric.autocast) for k, head in heads.items()}

        def encode(images: torch.Tensor) -> torch.Tensor:
            with fabric.autocast():
                return encoder(images)

        size, backbone = loaded.architecture.size, encoder.backbone
        data = Data(skip_broken=config.skip_broken, download=config.download)

        def pictures_of(name: str) -> Pictures:
            return Pictures(session.open_set(name, data, size), size, backbone.mean, backbone.std)

        sets = {name: pictures_of(name) for name in config.test}
        base = pictures_of(config.base) if config.base else None
        for name, pictures in sets.items():
            session.warn_shared(
                loaded.card.get("class_names", []), pictures.dataset.class_names, f"{name} has", "training"
            )
            for k in config.k_shot:
                episode_samplers(config, pictures, k)  # refuses classes that are too few or too small, before any work
        run = session.open_run(config, fabric)
    scores = []
    weights = weights_key(encoder, config.machine.precision) if config.cache == "disk" else ""
    if base:
        centre_on_base(heads.values(), config, encode, base, weights, fabric.device, show=team.main)
    for name, pictures in sets.items():
        some, features = score_set(name, config, encode, heads, pictures, fabric.device, weights=weights, team=team)
        scores += some
        with session.together(fabric):
            if config.pictures and team.main:
                draw(run.path, name, config, pictures, some, features, heads, fabric.device)
    return finish(run, config, method, loaded, scores, notes_of(heads))


def finish(run, config: Evaluate, method: str, loaded, scores, notes: dict[str, str]) -> dict:
    """Write metrics, per-episode results and the table; print the table."""
    from rich.console import Console

    from episodes.run import write_text
    from fewshot.methods import METHODS
    from tools.table import Table

    groups = [(name, [f"{k}-shot" for k in config.k_shot]) for name in config.test]
    title = f"{METHODS[method].title}, {config.n_way}-way, {config.n_query} queries a class"
    cells = {(METHODS[method].title, s.test, f"{s.k_shot}-shot"): s.cell() for s in scores}
    table = Table(title, [METHODS[method].title], groups, cells, notes)
    metrics = {
        "method": method,
        "checkpoint": config.checkpoint,
        "stage": loaded.card.get("stage"),
        "n_way": config.n_way,
        "n_query": config.n_query,
        "seed": config.seed,
        "notes": notes,
        "scores": [score.row() for score in scores],
    }
    run.write_metrics(metrics)
    if not run.main:
        return metrics
    write_text(run.path / "table.md", table.to_markdown())
    lines = ["test,k_shot,repeat,episode,accuracy"]
    for score in scores:
        for repeat, part in enumerate(score.evaluations):
            pairs = zip(part.numbers.tolist(), part.accuracies.tolist(), strict=True)
            lines += [f'"{score.test}",{score.k_shot},{repeat},{number},{a:.6f}' for number, a in pairs]
    write_text(run.path / "episodes.csv", "\n".join(lines) + "\n")
    Console().print(table.to_rich())
    print(f"results in {run.path}")
    return metrics


def draw(folder: Path, name: str, config: Evaluate, pictures, scores, features, heads, device) -> None:
    """Draw confusion, per-class accuracy, example episodes and an embedding map of one data set."""
    import numpy as np

    from episodes.episode_plot import plot_episode
    from episodes.evaluate import take
    from episodes.plots import plot_confusion, plot_embedding, plot_per_class
    from tools.scoring import episode_samplers, picture_of

    names, place = pictures.dataset.class_names, folder / "pictures" / safe_name(name)
    place.mkdir(parents=True, exist_ok=True)
    for score in scores:
        shots = f"{score.k_shot}shot"
        np.save(place / f"confusion_{shots}.npy", score.confusion)
        plot_confusion(score.confusion, names, place / f"confusion_{shots}.png")
        plot_per_class(score.evaluations[0].per_class, names, place / f"per_class_{shots}.png")
        if features is not None:
            sampler = episode_samplers(config, pictures, score.k_shot)[0]
            shown = picture_of(name, pictures, sampler, 0, {"": features}, {"": heads[score.k_shot]}, device=device)
            plot_episode(
                shown.support_images, shown.support_labels, shown.query_images, shown.query_labels,
                shown.predictions[""], shown.class_names, place / f"episode_{shots}.png",
            )  # fmt: skip
    if features is not None and len(features.shape) == 2:
        chosen = np.flatnonzero(pictures.dataset.labels < 10)
        plot_embedding(
            take(features, chosen).cpu().numpy(), pictures.dataset.labels[chosen], names[:10], place / "map.png"
        )


def safe_name(spec: str) -> str:
    """Turn the text that names a data set into a file name."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in spec)
    return kept.strip("_.")[-60:] or "set"


if __name__ == "__main__":
    run_tool(Evaluate, "evaluate", evaluate)
