"""The card of a classification network, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewshot.model_card import class_lines, table

LIMITS = (
    "The weights were chosen by accuracy on the validation pictures, so it is a little too good: test on others.",
    "Probabilities are softmaxes of the logits. Nobody has calibrated them.",
    "The licence and the origin of the training pictures, and what they over- or under-represent, are not recorded "
    "here: find out before you publish or sell anything built on them.",
)


def describe_classifier(
    card: Mapping[str, Any], file: str, config: Mapping[str, Any], metrics: Mapping[str, Any], versions: Mapping
) -> str:
    """Return the model card of classification weights, as Markdown."""
    design, optim, data, regular = card["design"], config["optim"], config["data"], config["regular"]
    options = {**design["options"], **design["pool_options"]}
    shape = {
        "network": f"`{design['name']}`" + (f" with `{design['pool']}`" if design["pool"] else ", as published"),
        "options": ", ".join(f"{name} = {value}" for name, value in options.items()) or None,
        "last stride": design["last_stride"],
        "reduction": design["reduction"],
        "Newton-Schulz steps": card.get("iterations"),
        "order of the triangles": card.get("order"),
        "pictures": f"RGB, {card['size']} px, minus mean {_numbers(card['mean'])}, over {_numbers(card['std'])}",
        "parameters": _beside(card, "parameters"),
        "multiply-adds for a picture": _beside(card, "multiply_adds"),
    }
    steps = f"{metrics['epochs']} epochs, {metrics['steps']:,} steps of {optim['batch_size'] * optim['accumulate']}"
    mixing = [f"{name} {regular[name]}" for name in ("mixup", "cutmix", "label_smoothing") if regular[name]]
    training = {
        "pictures": f"`{data['train']}`, augmentation {data['augment']}",
        "validation pictures": f"`{data['val']}`" if data["val"] else None,
        "started from": config["network"]["weights"],
        "optimiser": f"{optim['name']}, rate {optim['lr']}, weight decay {optim['weight_decay']}",
        "schedule": f"{optim['schedule']}, {steps}",
        "regularisation": ", ".join(mixing) or None,
        "average of the weights": regular["average"],
        "kept": f"epoch {metrics['kept_epoch']}",
        "seed": config["seed"],
    }
    test = f"python -m tools.classify eval --checkpoint {file} --data.test PICTURES --run test"
    lines = [f"# {design['name']}" + (f" + {design['pool']}" if design["pool"] else ""), ""]
    lines += ["Weights of an image classifier.", "", "## Network", "", *table(shape), ""]
    lines += ["## Training", "", *table(training), "", *class_lines(card["class_names"]), ""]
    lines += ["## How good it is", "", _sentence(metrics.get("validation"), data["val"]), ""]
    lines += ["## Use", "", "```sh", test]
    lines += [f"python -m tools.classify predict --checkpoint {file} --query PICTURES --run answers"]
    lines += ["# as the backbone of few-shot heads, for classes that are new", "python -m tools.evaluate "]
    lines[-1] += f"--checkpoint {file} --method good_embed --test '[DATASET]' --run few_shot"
    lines += ["```", "", "## Limits", "", *(f"- {limit}" for limit in (LIMITS if data["val"] else LIMITS[1:])), ""]
    lines += ["## Made with", "", *table(versions), ""]
    return "\n".join(lines)


def _numbers(values) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _beside(card: Mapping[str, Any], name: str) -> str | None:
    """Print a figure beside that of average pooling."""
    if name not in card:
        return None
    return f"{card[name]:,} ({card[f'gap_{name}']:,} with average pooling)"


def _sentence(validation: Mapping[str, float] | None, data: str | None) -> str:
    if validation is None:
        return "There was no validation: how well these weights do is not known."
    text = f"Top-1 {100 * validation['accuracy']:.2f} ± {100 * validation['interval']:.2f} %"
    if "top5" in validation:
        text += f", top-5 {100 * validation['top5']:.2f} ± {100 * validation['top5_interval']:.2f} %"
    return f"{text} on the validation pictures of `{data}` (95 % intervals over the pictures)."
