"""The model card for people of tuned video weights: what the file is, what it needs, how it was tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewshot.model_card import class_lines, table, validation_sentence
from tools.video.methods import find_video_method
from tools.video.source_report import LIMITS

WHAT = {
    "adapters": "adapters and head, tuned around a frozen network that is in another file",
    "head": "what stands behind a frozen network that is in another file",
    "all": "the whole network, fine-tuned",
}


def describe_tuned(
    card: Mapping[str, Any], file: str, config: Mapping[str, Any], metrics: Mapping[str, Any], versions: Mapping
) -> str:
    """Return the model card of a tuning's weights, as Markdown.

    card: in the header of the file. config: the run's resolved options. metrics: of the run.
    """
    method = find_video_method(card["method"])
    lines = [f"# {method.title}, {card['backbone']}", ""]
    lines += [f"Weights of a few-shot video classifier: {WHAT[card['tune']]}.", ""]
    lines += ["## Network", "", *table(_network(card, method.title, metrics)), ""]
    lines += ["## Tuning", "", *table(_tuning(config, metrics)), "", *class_lines(card["class_names"]), ""]
    own, rules = config["episodes"], config["validation"]
    sizes = {name: value or own.get(name) for name, value in rules.items()}
    lines += ["## How good it is", "", validation_sentence(metrics["kept"], sizes), "", "## Use", "", "```sh"]
    source = f" --video.source {card['source']}" if card.get("source") else ""
    lines += [f"python -m tools.evaluate --checkpoint {file}{source} --test '[VIDEOS]' --run test", "```", ""]
    if source:
        lines += ["The frozen network is looked for where the file says, unless it is named.", ""]
    lines += ["## Limits", "", *(f"- {limit}" for limit in LIMITS), ""]
    return "\n".join([*lines, "## Made with", "", *table(versions), ""])


def _network(card: Mapping[str, Any], title: str, metrics: Mapping[str, Any]) -> dict[str, object]:
    def plain(options: Mapping[str, Any] | None) -> str:
        return ", ".join(f"{name} = {value}" for name, value in (options or {}).items())

    backbone, between, head = (plain(card.get(name)) for name in ("backbone_options", "options", "head"))
    step = "" if card["sampling"] == "segments" else f", step {card['step']}"
    return {
        "method": f"{title} (`{card['method']}`)",
        "backbone": f"`{card['backbone']}`" + (f" ({backbone})" if backbone else ""),
        "between backbone and head": between or None,
        "head": head or None,
        "clips": f"{card['frames']} frames ({card['sampling']}{step}), {card['size']} x {card['size']} pixels",
        "parameters": f"{metrics['parameters']:,}, of which {metrics['trained_parameters']:,} were trained",
        "frozen network": f"`{card['source']}`" if card.get("source") else None,
        "its hash": f"`{card['source_key']}`" if card.get("source_key") else None,
    }


def _tuning(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, object]:
    data, optim, own = config["data"], config["optim"], config["episodes"]
    end = f" that ends after {optim['t_max'] or optim['epochs']}" if optim["schedule"] == "cosine" else ""
    stored = f"stored, of {' and '.join(metrics['stored'])} videos" if metrics["stored"] else "computed anew every time"
    return {
        "videos": f"`{data['train']}`, augmentation {data['augment']}",
        "validation videos": f"`{data['val']}`" if data["val"] else None,
        "started from": f"`{config['checkpoint']}`" if config["checkpoint"] else "random or library weights",
        "episodes": f"{own['n_way']}-way {own['k_shot']}-shot, {own['n_query']} queries a class",
        "optimiser": f"{optim['name']}, rate {optim['lr']}, weight decay {optim['weight_decay']}",
        "schedule": f"{optim['schedule']}{end}; {metrics['epochs']} epochs, {metrics['steps']:,} steps",
        "the frozen part": stored,
        "kept": f"epoch {metrics['kept_epoch']}",
        "seed": config["seed"],
    }
