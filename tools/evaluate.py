"""python -m tools.evaluate: score a checkpoint, or a library network as it is, on test episodes."""

from __future__ import annotations

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
    from tools.kinds import episode_samplers, kind_notes, said_of_file, settled, write_all
    from tools.picturing import draw_tests
    from tools.scoring import score_set

    session.check(config)
    config = settled(config)
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
            for k in config.k_shot:  # refuses classes that are too few or too small, before any work
                first = episode_samplers(config, pictures, k)[0]
        if config.episode_file is not None:
            say(said_of_file(config, first))
        run = session.open_run(config, fabric)
        if config.write_episodes and run.main:
            for name, pictures in sets.items():
                for path in write_all(run.path / "episodes", name, config, pictures, safe_name(name)):
                    say(f"episodes written to {path}")
    scores = []
    weights = weights_key(encoder, config.machine.precision) if config.cache == "disk" else ""
    if base:
        centre_on_base(heads.values(), config, encode, base, weights, fabric.device, show=team.main)
    for name, pictures in sets.items():
        some, features = score_set(name, config, encode, heads, pictures, fabric.device, weights=weights, team=team)
        scores += some
        with session.together(fabric):
            if config.pictures and team.main:
                place = run.path / "pictures" / safe_name(name)
                draw_tests(place, config, pictures, some, features, heads, fabric.device)
    notes = {**notes_of(heads), **kind_notes(config, first, heads.values())}
    return finish(run, config, method, loaded, scores, first, notes)


def finish(run, config: Evaluate, method: str, loaded, scores, sampler, notes: dict[str, str]) -> dict:
    """Write metrics, per-episode results and the table; print the table.

    sampler: of one of the tests, for what the episodes are like.
    """
    from dataclasses import replace

    from rich.console import Console

    from episodes.run import write_text
    from fewshot.methods import METHODS
    from tools.kinds import describe, kind_record
    from tools.table import Table

    row = METHODS[method].title
    groups: dict[str, list[str]] = {name: [] for name in config.test}
    cells = {}
    for score in scores:
        groups[score.test].append(score.column)
        cells[row, score.test, score.column] = score.cell()
        if score.auroc is not None:
            groups[score.test].append(f"{score.column} AUROC")
            # both come of one test, whose seconds are told once
            cells[row, score.test, f"{score.column} AUROC"] = replace(score.cell("auroc"), seconds=None)
    table = Table(f"{row}, {describe(config, sampler)}", [row], list(groups.items()), cells, notes)
    metrics = {
        "method": method,
        "checkpoint": config.checkpoint,
        "stage": loaded.card.get("stage"),
        **kind_record(config, sampler),
        "notes": notes,
        "scores": [score.row() for score in scores],
    }
    run.write_metrics(metrics)
    if not run.main:
        return metrics
    write_text(run.path / "table.md", table.to_markdown())
    open_set = scores[0].auroc is not None
    lines = ["test,k_shot,repeat,episode,accuracy" + (",auroc" if open_set else "") + ",way,supports,queries"]
    for score in scores:
        for repeat, part in enumerate(score.evaluations):
            columns = [part.accuracies, part.auroc] if open_set else [part.accuracies]
            rows = zip(part.numbers.tolist(), part.sizes.tolist(), *(c.tolist() for c in columns), strict=True)
            for number, sizes, *values in rows:
                figures = ",".join([*(f"{value:.6f}" for value in values), *map(str, sizes)])
                lines.append(f'"{score.test}",{score.k_shot},{repeat},{number},{figures}')
    write_text(run.path / "episodes.csv", "\n".join(lines) + "\n")
    Console().print(table.to_rich())
    print(f"results in {run.path}")
    return metrics


def safe_name(spec: str) -> str:
    """Turn the text that names a data set into a file name."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in spec)
    return kept.strip("_.")[-60:] or "set"


if __name__ == "__main__":
    run_tool(Evaluate, "evaluate", evaluate)
