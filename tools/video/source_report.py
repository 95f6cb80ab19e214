"""Model cards for people of video weights: what a file is, how it was trained, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewshot.model_card import class_lines, table, validation_sentence

STAGES = {
    "video_ssl": "trained by reconstructing masked clips, without labels",
    "video_supervised": "trained by classifying clips",
    "video_tune": "tuned on episodes",
}
LIMITS = (
    "The licence and the origin of the training videos, and what they over- or under-represent, are not recorded here: "
    "find out before you publish or sell anything built on them.",
    "Clips of other sizes, frame rates or numbers of frames than those above are another task.",
)


def describe_source(
    card: Mapping[str, Any], file: str, config: Mapping[str, Any], metrics: Mapping[str, Any], versions: Mapping
) -> str:
    """Return the model card of a source training's weights, as Markdown.

    card: in the header of the file. config: the run's resolved options. metrics: of the run.
    """
    data, optim = config["data"], config["optim"]
    options = ", ".join(f"{name} = {value}" for name, value in (card.get("backbone_options") or {}).items())
    network = {
        "backbone": f"`{card['backbone']}`" + (f" ({options})" if options else ""),
        "clips": f"{card['frames']} frames, {card['size']} x {card['size']} pixels",
        "frames chosen by": card["sampling"] + (f", step {card['step']}" if card["sampling"] != "segments" else ""),
    }
    repeats = f", {optim['repeats']} clips of each" if optim["repeats"] > 1 else ""
    training = {
        "videos": f"`{data['train']}`, augmentation {data['augment']}",
        "classes": card.get("num_classes"),
        "hidden": f"{100 * card['mask_ratio']:g} % of the tubes" if "mask_ratio" in card else None,
        "validation videos": f"`{data['val']}`" if data["val"] else None,
        "started from": config.get("weights"),
        "optimiser": f"AdamW, rate {optim['lr']} for 256 videos a step, weight decay {optim['weight_decay']}, "
        f"layer decay {optim['layer_decay']}",
        "batch": f"{optim['batch_size'] * optim['accumulate']} videos{repeats}",
        "schedule": f"{optim['warmup_epochs']} epochs of warm-up, cosine, {metrics['epochs']} epochs, "
        f"{metrics['steps']:,} steps",
        "kept": f"epoch {metrics['kept_epoch']}",
        "seed": config["seed"],
    }
    lines = [f"# {card['backbone']}, {card['stage'].removeprefix('video_')}", ""]
    lines += [f"Source weights of a video network, {STAGES[card['stage']]}.", ""]
    lines += ["## Network", "", *table(network), "", "## Training", "", *table(training), ""]
    if card.get("class_names"):
        lines += [*class_lines(card["class_names"]), ""]
    lines += ["## How good it is", "", how_good(metrics["kept"], config), "", "## Use", "", "```sh"]
    if card["stage"] == "video_ssl":
        lines += [f"python -m tools.video_pretrain --stage supervised --weights {file} --data.train '[VIDEOS]'"]
    lines += [
        f"python -m tools.video_tune --checkpoint {file} --data.train '[VIDEOS]'",
        f"python -m tools.evaluate --checkpoint {file} --model.method protonet --test '[VIDEOS]' --run test",
        *("```", "", "## Limits", "", *(f"- {limit}" for limit in LIMITS), ""),
    ]
    return "\n".join([*lines, "## Made with", "", *table(versions), ""])


def how_good(kept: Mapping[str, Any] | None, config: Mapping[str, Any]) -> str:
    """Say how the kept weights did in validation: by reconstruction, on known classes, or on episodes of new ones."""
    if kept and "val_loss" in kept:
        return f"Mean squared error of normalised pixels {kept['val_loss']:.4f} on the validation videos."
    if kept and "val_videos" in kept:
        more = f", top-5 {100 * kept['val_top5']:.2f} %" if "val_top5" in kept else ""
        return (
            f"{100 * kept['val_accuracy']:.2f} ± {100 * kept['val_interval']:.2f} % (95 % interval) top-1{more} on "
            f"{kept['val_videos']:,} other videos of the training classes."
        )
    return validation_sentence(kept, config["validation"])
