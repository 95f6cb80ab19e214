"""The options of the scripts that put a trained model to use. No heavy import here, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tools.groups import Machine, Model
from tools.video_groups import View


@dataclass
class Predict:
    """Tell which class each picture or video is of, from a few labelled ones of every class.

    Args:
        run: folder of the results.
        support: folder with a sub-folder of pictures for each class; for a model of videos, of videos.
        query: folders of pictures (or videos), in depth, and single files.
        checkpoint: weights to use; null takes the backbone named in model (timm:NAME with its own weights, say).
        method: episode head; null takes the method of the checkpoint, and good_embed for a library network.
        unknown_below: pictures whose best probability is below this are called unknown; null names a class for each.
        size: side of the pictures in pixels; null takes the checkpoint's.
        batch_size: pictures at a time; of clips 16 at most.
        workers: processes that read ahead.
        sheets: pages of the picture sheet to draw, 24 queries each (14 videos); 0 draws none.
        skip_broken: leave out files that cannot be read, with their names in the results.
        overwrite: replace results in the folder.
        seed: of random weights, where a network has no others.
        model: for checkpoints without a card, and the arguments of the head
        video: how clips are cut, for models of videos
        machine: the machine
    """

    run: str = "runs/predict"
    support: str = ""
    query: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    method: str | None = None
    unknown_below: float | None = None
    size: int | None = None
    batch_size: int = 64
    workers: int = 0
    sheets: int = 5
    skip_broken: bool = False
    overwrite: bool = False
    seed: int = 1
    model: Model = field(default_factory=Model)
    video: View = field(default_factory=View)
    machine: Machine = field(default_factory=Machine)


@dataclass
class Export:
    """Write a model as a file that runs without covey, and check that it gives the same numbers.

    Args:
        run: folder of the exported file and its card.
        checkpoint: weights to export; null takes the backbone named in model (timm:NAME with its own weights, say).
        method: episode head; null takes the method of the checkpoint, and good_embed for a library network.
        format: onnx, or torch for a program of torch.export (.pt2).
        what: encoder (pictures to features), classifier (pictures to class logits, the supports built in) or episode
            (supports, their labels and queries to logits).
        support: folder with a sub-folder of pictures for each class, for a classifier.
        pictures: further pictures, folders and files, to check the exported file with.
        n_way: classes of an exported episode.
        k_shot: supports of each class that the head of an exported episode is built for.
        size: side of the pictures in pixels; null takes the checkpoint's.
        opset: version of the ONNX operators; null takes the exporter's.
        tolerance: largest deviation from covey's own numbers, relative to the largest of these.
        skip_broken: leave out pictures that cannot be read, with their names in a warning.
        overwrite: replace a file in the folder.
        seed: of the numbers that the check is made with, and of random weights where a network has no others.
        model: for checkpoints without a card, and the arguments of the head
        machine: the machine; files are made and checked on the CPU
    """

    run: str = "runs/export"
    checkpoint: str | None = None
    method: str | None = None
    format: Literal["onnx", "torch"] = "onnx"
    what: Literal["encoder", "classifier", "episode"] = "classifier"
    support: str | None = None
    pictures: list[str] = field(default_factory=list)
    n_way: int = 5
    k_shot: int = 1
    size: int | None = None
    opset: int | None = None
    tolerance: float = 1e-4
    skip_broken: bool = False
    overwrite: bool = False
    seed: int = 1
    model: Model = field(default_factory=Model)
    machine: Machine = field(default_factory=Machine)
