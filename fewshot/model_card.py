"""Model cards for people: what a weights file or an exported program is, how to use it, and what is not known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from episodes.transforms import resize_for

STAGES = {
    "pretrain": "pre-trained: backbone and linear classifier on the base classes",
    "meta": "meta-trained on episodes",
    "distill": "self-distilled: taught by the generation before it",
}
KINDS = {  # of exported programs
    "encoder": "A feature extractor for few-shot image classification: pictures in, one feature of each out.",
    "classifier": "A few-shot image classifier with its classes built in: pictures in, one score of each class out.",
    "episode": "A few-shot image classifier that gets the labelled pictures of its classes at every call.",
}
MOST_CLASSES = 60  # named one by one
LIMITS = (
    "Accuracy on the validation classes chose these weights, so it is a little too good: test on other classes.",
    "Probabilities are softmaxes of the head's scores. Nobody has calibrated them for classes that are new.",
    "The licence and the origin of the training pictures, and what they over- or under-represent, are not recorded "
    "here: find out before you publish or sell anything built on them.",
)
FEATURES = "Features say nothing by themselves: a head compares them, and how well it does depends on head and classes."


def table(rows: Mapping[str, object]) -> list[str]:
    """Return the lines of a Markdown table of names and values; those that are None are left out."""
    kept = {name: str(value).replace("|", "\\|") for name, value in rows.items() if value is not None}
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in kept.items())]


def architecture_rows(card: Mapping[str, Any], title: str) -> dict[str, object]:
    """Return what the card in a weights file says about the network."""
    options = ", ".join(f"{name} = {value}" for name, value in (card.get("backbone_options") or {}).items())
    return {
        "method": f"{title} (`{card['method']}`)",
        "backbone": f"`{card['backbone']}`" + (f" ({options})" if options else ""),
        "map at that size": " x ".join(map(str, card["map_size"])) if "map_size" in card else None,
        "channels of the BDC matrix": card.get("reduce_dim"),
        "pictures": preparation(card["size"], card.get("mean"), card.get("std")),
    }


def preparation(size: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> str:
    """Say how pictures are prepared for the network."""
    text = f"RGB, shorter side to {resize_for(size)} px (bilinear, antialiased), centre crop of {size} px"
    if mean is None or std is None:
        return text
    numbers = (", ".join(f"{x:.4g}" for x in values) for values in (mean, std))
    return text + ", numbers 0 to 1, minus mean ({}), over deviation ({})".format(*numbers)


def class_lines(names: Sequence[str]) -> list[str]:
    """Return a sentence that lists classes, the first ones where they are many."""
    shown = ", ".join(names[:MOST_CLASSES])
    more = f", and {len(names) - MOST_CLASSES} more (in the file)" if len(names) > MOST_CLASSES else ""
    return [f"{len(names)} classes: {shown}{more}."]


def validation_sentence(kept: Mapping[str, Any] | None, episodes: Mapping[str, Any]) -> str:
    """Say how the kept weights did in validation.

    kept: the history row of the kept epoch. episodes: n_way, k_shot, n_query and episodes of the validation.
    """
    if not kept or kept.get("val_accuracy") is None:
        return "There was no validation: how well these weights do is not known."
    return (
        f"{100 * kept['val_accuracy']:.2f} ± {100 * kept.get('val_interval', 0.0):.2f} % in validation: mean and 95 % "
        f"interval over {episodes['episodes']:,} episodes, {episodes['n_way']}-way {episodes['k_shot']}-shot with "
        f"{episodes['n_query']} queries a class."
    )


def training_card(
    card: Mapping[str, Any],
    title: str,
    file: str,
    training: Mapping[str, object],
    validation: str,
    versions: Mapping[str, str],
) -> str:
    """Write the card of trained weights as Markdown.

    card: in the header of the file. title: of the method. training: rows about the training. validation: a sentence.
    versions: of the code and the libraries.
    """
    lines = [f"# {title}, {card['backbone']}", ""]
    lines += [f"Weights of a few-shot image classifier, {STAGES.get(card['stage'], card['stage'])}.", ""]
    lines += ["## Network", "", *table(architecture_rows(card, title)), ""]
    lines += ["## Training", "", *table(training), ""]
    if card.get("class_names"):
        lines += [*class_lines(card["class_names"]), ""]
    lines += ["## How good it is", "", validation, ""]
    lines += ["## Use", "", "```python", "from fewshot import load_classifier", ""]
    lines += [f'classifier = load_classifier("{file}")  # the path of the file beside this card']
    lines += ['classifier.fit("supports")  # a folder with a sub-folder of pictures for each new class']
    lines += ['names = classifier.predict("pictures")', "```", "", "```sh"]
    lines += [f"python -m tools.predict --checkpoint {file} --support supports --query pictures --run predictions"]
    lines += [f"python -m tools.evaluate --checkpoint {file} --test '[DATASET]' --run test", "```", ""]
    limits = LIMITS if "in validation" in validation else LIMITS[1:]
    lines += ["## Limits", "", *(f"- {limit}" for limit in limits), ""]
    lines += ["## Made with", "", *table(versions), ""]
    return "\n".join(lines)


def export_card(card: Mapping[str, Any], title: str, file: str, kind: str, parity: Mapping[str, object]) -> str:
    """Write the card of an exported program as Markdown.

    card: in the file. kind: 'onnx' or 'torch'. parity: rows about the check against covey's own numbers.
    """
    lines = [f"# {title}, {card['backbone']}: {card['what']} as {kind} program", ""]
    source = card.get("weights_file")
    origin = {
        "stage": STAGES.get(card.get("stage"), card.get("stage")),
        "trained on": f"`{card['trained_on']}`" if card.get("trained_on") else "not recorded",
        "weights file": f"`{source['name']}`, SHA-256 `{source['sha256']}`" if source else None,
        "SHA-256 of network and weights": f"`{card['weights']}`" if card.get("weights") else None,
    }
    lines += [f"{KINDS[card['what']]} It runs without covey.", ""]
    lines += [*table({**architecture_rows(card, title), **origin}), ""]
    lines += ["Pictures go in as numbers from 0 to 1; the program normalises them itself.", ""]
    rows = {f"input `{entry['name']}`": f"{entry['dtype']} {entry['shape']}" for entry in card["inputs"]}
    out = card["output"]
    lines += ["## Inputs and output", "", *table({**rows, f"output `{out['name']}`": f"float32 {out['shape']}"}), ""]
    if card.get("class_names"):
        lines += ["Columns of the output, in order: " + class_lines(card["class_names"])[0], ""]
    lines += [
        "## Use",
        "",
        "```python",
        *_loading(file, kind, [entry["name"] for entry in card["inputs"]], out["name"]),
    ]
    lines += ["```", "", "## Check", "", *table(parity), "", "## Limits", ""]
    limits = [FEATURES, *LIMITS[2:]] if card["what"] == "encoder" else LIMITS[1:]
    lines += [*(f"- {limit}" for limit in limits), "", "## Made with", "", *table(card["versions"]), ""]
    return "\n".join(lines)


def _loading(file: str, kind: str, inputs: Sequence[str], output: str) -> list[str]:
    """Return the lines of code that run the program."""
    if kind == "onnx":
        feeds = ", ".join(f'"{name}": {name}' for name in inputs)
        return [
            "import json",
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
            'card = json.loads(session.get_modelmeta().custom_metadata_map["covey"])  # class names and more',
            f"({output},) = session.run(None, {{{feeds}}})",
        ]
    return [
        "import json",
        "import torch",
        "",
        'extra = {"covey.json": ""}',
        f'program = torch.export.load("{file}", extra_files=extra).module()',
        'card = json.loads(extra["covey.json"])  # class names and more',
        f"{output} = program({', '.join(inputs)})",
    ]
