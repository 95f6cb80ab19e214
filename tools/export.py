"""python -m tools.export: write a model as a file that runs without covey, and check that it gives the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.cli import run_tool, stop
from tools.deployment import Export


def export(config: Export) -> dict:
    """Export and check as configured; returns what `metrics.json` holds.

    Exits with code 1 when the file deviates by more than the tolerance; it is then not kept.
    """
    from backbones import UserError
    from episodes.sources.folder import folder_set
    from episodes.sources.loose import find_pictures, loose_set
    from fewshot import exporting
    from fewshot.methods import METHODS
    from tools import exports, model_use, predictions, session

    session.check(config)
    if config.format == "onnx":
        exporting.need_onnx()
    support = folder_set(Path(config.support)) if config.support else None
    if config.what == "classifier" and support is None:
        raise UserError("a classifier has its supports built in: name their folder, one sub-folder a class, --support")
    if support is not None and len(support.class_names) < 2:
        raise UserError(f"'{config.support}' has one class folder: give two classes at least")
    pictures = loose_set(find_pictures(config.pictures)) if config.pictures else None
    support, pictures = (predictions.readable(part, config.skip_broken)[0] for part in (support, pictures))

    machine = model_use.one_device(config.machine, accelerator="cpu")
    fabric = session.open_fabric(machine, config.seed)
    loaded = model_use.read_model(config, print)
    plan = loaded.architecture
    if loaded.card.get("stage") == "classify":
        print("a classification network: its backbone is exported, its own pooling and classifier are left behind")
    graph, facts = exports.build(config, loaded, support)
    run = session.open_run(config, fabric)
    file = run.path / f"{config.what}{exporting.SUFFIXES[config.format]}"
    card = exports.card_of(config, loaded, graph, facts)
    draft = run.path / f".draft-{file.name}"  # becomes the file when it has passed the check
    try:
        exporting.save_program(graph, draft, config.format, card, config.opset)
        checks = exports.compare(graph, draft, plan.size, support, pictures, config.seed, config.n_way)
        worst = max(check["deviation"] for check in checks)
        if worst <= config.tolerance:
            draft.replace(file)
            written = exporting.open_program(file)[1]
    finally:
        draft.unlink(missing_ok=True)
    if worst > config.tolerance:
        file.unlink(missing_ok=True)  # what an earlier run left is not what this one says
        stop(_too_far(worst, config.tolerance, config.format), code=1)
    metrics: dict[str, Any] = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "largest_deviation": worst,
        "tolerance": config.tolerance,
        "checks": checks,
        "card": written,
    }
    run.write_metrics(metrics)
    exports.write_card(run.path, file, METHODS[plan.method].title, metrics)
    print(
        f"{file}: {metrics['bytes'] / 2**20:.1f} MB, deviates by {worst:.1e} of the largest number at most, "
        f"in {len(checks)} checks"
    )
    return metrics


def _too_far(worst: float, tolerance: float, kind: str) -> str:
    return (
        f"the {kind} file deviates by {worst:.1e} of the largest number, more than the tolerance of {tolerance:.1e}: "
        "no file is kept; raise --tolerance if that is good enough"
    )


if __name__ == "__main__":
    run_tool(Export, "export", export)
