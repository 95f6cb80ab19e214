"""What a finished run leaves behind for people: curves and a last sentence."""

from __future__ import annotations

from collections.abc import Callable

from episodes.engine import Progressed
from episodes.run import RunFolder


def finish_training(run: RunFolder, state: Progressed, title: str, say: Callable[[str], None]) -> dict:
    """Write `metrics.json` and `curves.png` of a training run and say where its weights are; returns the metrics."""
    kept = next((row for row in state.history if row["epoch"] == state.best_epoch), None)
    metrics = {
        "epochs": state.epoch,
        "steps": state.step,
        "kept_epoch": state.best_epoch,
        "kept": kept,
        "seconds": round(sum(row["seconds"] for row in state.history), 1),
        "weights": str(run.best),
    }
    run.write_metrics(metrics)
    if run.main:
        from episodes.plots import plot_curves

        plot_curves(state.history, run.path / "curves.png", title)
        say(f"kept epoch {state.best_epoch} of {state.epoch}: {run.best}")
    return metrics
