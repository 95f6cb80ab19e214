"""What a finished run leaves behind for people: curves, a model card and a last sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from episodes.engine import Progressed
from episodes.run import RunFolder, write_text

CARD = "card.md"


def finish_training(
    run: RunFolder,
    state: Progressed,
    title: str,
    say: Callable[[str], None],
    facts: Mapping[str, Any] | None = None,
) -> dict:
    """Write `metrics.json`, `curves.png` and `card.md` of a training run and say where its weights are.

    facts: what else belongs into the metrics. Returns the metrics.
    """
    kept = next((row for row in state.history if row["epoch"] == state.best_epoch), None)
    metrics = {
        "epochs": state.epoch,
        "steps": state.step,
        "kept_epoch": state.best_epoch,
        "kept": kept,
        "seconds": round(sum(row["seconds"] for row in state.history), 1),
        "weights": str(run.best),
        **(facts or {}),
    }
    run.write_metrics(metrics)
    if run.main:
        from episodes.plots import plot_curves

        plot_curves(state.history, run.path / "curves.png", title)
        write_text(run.path / CARD, describe(run.best, run.config, metrics, read_versions(run.path)))
        say(f"kept epoch {state.best_epoch} of {state.epoch}: {run.best}")
    return metrics


def describe(weights: Path, config: dict[str, Any], metrics: dict, versions: dict[str, str]) -> str:
    """Return the model card of a training run's weights, as Markdown."""
    from fewshot.card import read_card
    from fewshot.methods import METHODS
    from fewshot.model_card import training_card, validation_sentence

    card = read_card(weights)
    if card["stage"] in ("video_ssl", "video_supervised"):
        from tools.video.source_report import describe_source

        return describe_source(card, weights.name, config, metrics, versions)
    if card["stage"] == "classify":
        from tools.classify_card import describe_classifier

        return describe_classifier(card, weights.name, config, metrics, versions)
    if card["stage"] == "video_tune":
        from tools.video.tune_card import describe_tuned

        return describe_tuned(card, weights.name, config, metrics, versions)
    training, own, optim, data = {}, config.get("episodes") or {}, config["optim"], config["data"]
    sizes = {name: config["validation"][name] or own.get(name) for name in config["validation"]}
    training["pictures"] = f"`{data['train']}`, augmentation {data['augment']}"
    training["classes"] = card.get("num_classes")
    training["validation pictures"] = f"`{data['val']}`" if data["val"] else None
    training["started from"] = config.get("checkpoint") or config["model"].get("weights")
    if own:
        training["episodes"] = f"{own['n_way']}-way {own['k_shot']}-shot, {own['n_query']} queries a class"
    training["optimiser"] = f"{optim['name']}, rate {optim['lr']}, weight decay {optim['weight_decay']}"
    training["schedule"] = f"{optim['schedule']}, {metrics['epochs']} epochs, {metrics['steps']:,} steps"
    training["kept"] = f"epoch {metrics['kept_epoch']}"
    training["seed"] = config["seed"]
    title = METHODS[card["method"]].title
    sentence = validation_sentence(metrics["kept"], sizes)
    return training_card(card, title, weights.name, training, sentence, versions)


def read_versions(folder: Path) -> dict[str, str]:
    """Return what the numbers of a run depend on besides its options, as its folder says."""
    facts = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    return {name: value for name, value in facts.items() if name != "command"}
