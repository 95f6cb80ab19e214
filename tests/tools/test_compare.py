"""Stages of a comparison are kept or trained anew; pictures in memory have the size of the network's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from episodes.run import write_text
from tools.compare import Comparison, stage
from tools.config import MetaTrain
from tools.groups import Data
from tools.session import open_set


def test_a_stage_is_repeated_when_the_weights_it_starts_from_have_changed(tmp_path: Path):
    base, folder, calls = tmp_path / "base.bin", tmp_path / "meta", []

    def job(options: MetaTrain) -> dict:
        calls.append((options.overwrite, options.resume))
        folder.mkdir(exist_ok=True)
        write_text(folder / "log.jsonl", '{"loss": 1.0}\n')
        (folder / "last.ckpt").touch()
        (folder / "best.safetensors").touch()
        return {"weights": str(folder / "best.safetensors")}

    def run() -> Path:
        return stage(folder, "meta", MetaTrain(str(folder), str(base)), job, Comparison(), lambda text: None)

    base.write_bytes(b"first")
    assert run() == run() == folder / "best.safetensors"
    assert calls == [(True, False)]
    base.write_bytes(b"second")
    run()
    assert calls[1:] == [(True, False)]  # not resumed: the old last epoch would pass for the new one


def test_large_arrays_in_memory_are_shrunk_once(tmp_path: Path):
    images = np.full((2, 105, 105), 255, dtype=np.uint8)
    images[:, :, 50:53] = 0  # a stroke of three pixels
    names = np.array(["A/a", "A/b"])
    np.savez(tmp_path / "ink.npz", images=images, label=np.array([0, 1], dtype=np.int16), class_names=names)
    small = open_set(str(tmp_path / "ink.npz"), Data(in_memory=True), 32)
    assert small.images.shape[-2:] == (35, 35)
    assert (255 - small.images[0, 0].float()).sum(1).min() > 0  # every line of the stroke is still there
    assert open_set(str(tmp_path / "ink.npz"), Data(), 32).images.shape[-2:] == (105, 105)
