"""python -m tools.evaluate: score a checkpoint, or a library network as it is, on test episodes."""

from __future__ import annotations

from tools.cli import run_tool
from tools.config import Evaluate


def evaluate(config: Evaluate) -> dict:
    """Run the evaluation as configured; returns what `metrics.json` holds."""
    import torch

    from episodes.fingerprint import weights_key
    from episodes.processes import team_of
    from fewshot.maml import with_encoder
    from tools import session
    from tools.heads import build_heads, centre_on_base, notes_of
    from tools.kinds import episode_samplers, kind_notes, said_of_file, settled, write_all
    from tools.picturing import draw_tests
    from tools.scoring import score_set
    from tools.tested import open_tested

    session.check(config)
    config = settled(config)
    fabric = session.open_fabric(config.machine, config.seed)
    say, team = session.speaker(fabric), team_of(fabric)
    with session.together(fabric):
        tested = open_tested(config, say)
        config, loaded = tested.config, tested.loaded
        heads = build_heads(config, loaded)
        session.lay_out(loaded.encoder, config.machine)
        encoder = fabric.to_device(loaded.encoder.requires_grad_(False).eval())
        heads = {k: with_encoder(head, encoder, fabric.autocast) for k, head in heads.items()}

        def encode(images: torch.Tensor) -> torch.Tensor:
            with fabric.autocast():
                parts = [encoder(part) for part in images.split(tested.batch)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)

        sets = {name: tested.open(name) for name in config.test}
        base = tested.open(config.base) if config.base else None
        for name, pictures in sets.items():
            tested.warn(name, pictures)
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
    size = tested.batch
    if base:
        centre_on_base(heads.values(), config, encode, base, weights, fabric.device, show=team.main, batch_size=size)
    for name, pictures in sets.items():
        some, features = score_set(
            name, config, encode, heads, pictures, fabric.device, weights=weights, team=team, batch_size=size
        )
        scores += some
        with session.together(fabric):
            if config.pictures and team.main:
                place = run.path / "pictures" / safe_name(name)
                draw_tests(place, config, pictures, some, features, heads, fabric.device)
    notes = {**tested.notes, **notes_of(heads), **kind_notes(config, first, heads.values())}
    return finish(run, tested, scores, first, notes)


def finish(run, tested, scores, sampler, notes: dict[str, str]) -> dict:
    """Write metrics, per-episode results and the table; print the table.

    tested: `tools.tested.Tested`. sampler: of one of the tests, for what the episodes are like.
    """
    from dataclasses import replace

    from rich.console import Console

    from episodes.run import write_text
    from tools.kinds import describe, kind_record
    from tools.table import Table
    from tools.tested import methods_of

    config, loaded = tested.config, tested.loaded
    method = loaded.architecture.method
    find, _ = methods_of(loaded)
    row = find(method).title
    groups: dict[str, list[str]] = {name: [] for name in config.test}
    cells = {}
    for score in scores:
        groups[score.test].append(score.column)
        cells[row, score.test, score.column] = score.cell()
        if score.auroc is not None:
            groups[score.test].append(f"{score.column} AUROC")
            # both come of one test, whose seconds are told once
            cells[row, score.test, f"{score.column} AUROC"] = replace(score.cell("auroc"), seconds=None)
    what = ", ".join(filter(None, [row, describe(config, sampler), tested.said]))
    table = Table(what, [row], list(groups.items()), cells, notes)
    metrics = {
        "method": method,
        "checkpoint": config.checkpoint,
        "stage": loaded.card.get("stage"),
        **kind_record(config, sampler),
        **tested.record,
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
