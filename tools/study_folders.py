"""Corrupted pictures in folders, CORRUPTION/SEVERITY/CLASS/FILE: written, and read, the official data set included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from backbones import UserError
from backbones.checkpoint import write_atomically
from classify.corruptions import CORRUPTIONS, corrupt
from classify.scoring import ClassScorer
from classify.views import Shown, View
from episodes.opening import open_dataset
from episodes.progress import Progress
from tools.study_config import CorruptFolder

if TYPE_CHECKING:
    from tools.study_parts import Tested


def score_folder(tested: Tested, folder: str, corruptions: Sequence[str], severities: Sequence[int]) -> dict[str, dict]:
    """Score networks on corrupted pictures of a folder; the result is that of `classify.score_corruptions`.

    Pictures of the networks' size are only normalised; others are resized and cropped as in tests.
    Raises UserError, before anything is scored, where a corruption or severity has no folder.
    """
    places = {(name, severity): Path(folder) / name / str(severity) for name in corruptions for severity in severities}
    absent = [path for path in places.values() if not path.is_dir()]
    if absent:
        raise UserError(
            f"{folder} has no {absent[0].relative_to(folder)}: folders are CORRUPTION/SEVERITY/CLASS/FILE; choose what "
            "is there with robust.corruptions and robust.severities"
        )

    def errors(shown: Shown, what: str, names: Sequence[str]) -> dict[str, float]:
        scorer = ClassScorer(
            tested.fabric, shown, names, what, tested.options.batch_size, tested.data.workers
        )  # fmt: skip
        return {name: 1 - scorer.score(network).top()[0] for name, network in tested.networks.items()}

    clean = errors(tested.shown, "the clean pictures", tested.class_names)
    names = [folder_name(name) for name in tested.class_names]
    found: dict[str, dict] = {name: {"clean_error": value, "errors": {}} for name, value in clean.items()}
    view = View(tested.shown.view.size)
    for (corruption, severity), path in places.items():
        dataset = open_dataset(f"folder:{path}")
        values = errors(Shown(dataset, view, tested.shown.mean, tested.shown.std), str(path), names)
        for name, value in values.items():
            found[name]["errors"].setdefault(corruption, []).append(value)
        tested.say(f"{corruption} {severity}: error " + ", ".join(f"{n} {100 * v:.1f} %" for n, v in values.items()))
    return found


def folder_name(class_name: str) -> str:
    """Return the folder of a class: its name, without what would make a folder in a folder."""
    return class_name.replace("/", "_")


def write_corrupted(config: CorruptFolder) -> dict:
    """Write the corrupted pictures of a data set; files that are there already are kept. Returns what was done."""
    from tools.study_parts import open_frost

    dataset = open_dataset(config.data, skip_broken=config.skip_broken)
    shown = Shown(dataset, View(config.size, config.resize), (0.0,) * 3, (1.0,) * 3)
    photographs, names = open_frost(config.frost), list(config.corruptions or CORRUPTIONS)
    suffix = "png" if config.quality is None else "jpg"
    width, written = len(str(len(dataset) - 1)), 0
    with Progress(len(dataset), "corrupting", on=True) as bar:
        for item, label in enumerate(np.asarray(dataset.labels).tolist()):
            paths = {
                (name, severity): Path(config.out, name, str(severity), folder_name(dataset.class_names[label]))
                / f"{item:0{width}d}.{suffix}"
                for name in names
                for severity in config.severities
            }
            missing = {what: path for what, path in paths.items() if not path.is_file()}
            pixels = shown.pixels(item).permute(1, 2, 0).numpy() if missing else None
            for (name, severity), path in missing.items():
                image = corrupt(pixels, name, severity, config.seed, item, photographs, config.scale_lengths)
                path.parent.mkdir(parents=True, exist_ok=True)
                _save(image, path, config.quality)
                written += 1
            bar.advance()
    return {"pictures": len(dataset), "written": written, "out": config.out}


def _save(image: np.ndarray, path: Path, quality: int | None) -> None:
    options = {"format": "PNG"} if quality is None else {"format": "JPEG", "quality": quality}
    write_atomically(path, lambda name: Image.fromarray(image).save(name, **options))
