"""Landscapes recorded while a network trains, one line of JSON a probe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from backbones.classifier import ImageClassifier
from backbones.errors import UserError
from backbones.parts import split
from classify.landscape import probe_network
from episodes.engine import Progressed
from episodes.run import write_text


class LandscapeRecorder:
    """Probes a network on the batches of its training, before the step on them; the `watch` of `episodes.engine.fit`.

    network: the `ImageClassifier` that is trained. etas: step lengths along the gradient.
    every: steps between probes, counted anew in every epoch, as published.
    path: of the JSON lines; None: this process records nothing. A resumed training goes on with the file, from where
        its checkpoint stands.
    after, batch_norm: see `backbones.parts.split` and `probe_network`.
    Raises UserError for networks that cannot be cut in two, and for an unknown part.
    """

    def __init__(
        self,
        network: nn.Module,
        etas: Sequence[float],
        every: int,
        path: Path | None,
        after: str = "stem",
        batch_norm: str = "train",
    ) -> None:
        if not isinstance(network, ImageClassifier):
            raise UserError("landscapes are of networks with a map and a pooling layer, not of transformers' heads")
        self.network, self.etas, self.every, self.path = network, list(etas), every, path
        self.stem, self.tail = split(network, after)
        self.batch_norm, self.started = batch_norm, False

    def __call__(self, batch: Mapping[str, Tensor], state: Progressed) -> None:
        """Probe where it is time to."""
        if self.path is None:
            return
        if not self.started:
            kept = [line for line in read_lines(self.path) if line["step"] < state.step] if state.step else []
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
            self.started = True
        if state.in_epoch % self.every:
            return
        seen = probe_network(
            self.stem, self.tail, self.network, batch["images"], batch["labels"], self.etas, state.step, self.batch_norm
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(seen.record()) + "\n")


def read_lines(path: Path) -> list[dict]:
    """Return the records of a file, none where there is no file; a line that a kill cut short is left out."""
    if not Path(path).is_file():
        return []
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def compare_landscapes(first: Iterable[Mapping], second: Iterable[Mapping]) -> dict[str, float]:
    """Compare two trainings probe by probe, at the steps that both have.

    Returns mean widths of the loss and the gradient bands, the mean smoothness of each, and the share of probes at
    which the second one's band is narrower, or its smoothness lower.
    Raises UserError when no step is common.
    """
    theirs = {line["step"]: line for line in second}
    pairs = [(line, theirs[line["step"]]) for line in first if line["step"] in theirs]
    if not pairs:
        raise UserError("the two trainings were probed at no common step: give both the same batch size and data")

    def both(value) -> np.ndarray:
        return np.array([[value(one), value(other)] for one, other in pairs])

    found: dict[str, float] = {"probes": len(pairs)}
    for name, key in (("loss_width", "loss_band"), ("distance_width", "distance_band")):
        widths = both(lambda line, key=key: line[key][1] - line[key][0])
        found |= {f"{name}_first": widths[:, 0].mean(), f"{name}_second": widths[:, 1].mean()}
        found[f"{name}_narrower"] = (widths[:, 1] < widths[:, 0]).mean()
    smooth = both(lambda line: line["smoothness"])
    found |= {"smoothness_first": smooth[:, 0].mean(), "smoothness_second": smooth[:, 1].mean()}
    found["smoothness_lower"] = (smooth[:, 1] < smooth[:, 0]).mean()
    return {name: value if name == "probes" else float(value) for name, value in found.items()}
