"""Data and a pre-trained model that the tests of the scripts share, since none of them changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools import tiny


@pytest.fixture(scope="session")
def packs(tmp_path_factory) -> dict[str, str]:
    """Packs train (8 classes), val and test (6 classes each), with different classes."""
    root = tmp_path_factory.mktemp("packs")
    sizes = {"train": 8, "val": 6, "test": 6}
    return {name: tiny.pack(root / f"{name}.npz", sizes[name], seed=i) for i, name in enumerate(sizes)}


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, packs) -> dict[str, Path]:
    """Weights of short pre-trainings: with BDC and with average pooling."""
    from tools.pretrain import pretrain

    root = tmp_path_factory.mktemp("pretrained")
    return {
        method: Path(pretrain(tiny.pretrain_options(root / method, packs["train"], method=method))["weights"])
        for method in ("meta_deepbdc", "protonet")
    }
