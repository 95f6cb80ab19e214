"""Pictures, a network and options of `tools.classify` so small that a whole training takes a second or two."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tools.tiny import CPU, NETWORK
from tools.classify_config import ClassData, ClassifyEval, ClassifyTrain, ClassOptim, Network, Regular, TestData


def network(pool: str = "isqrt", **options) -> Network:
    return Network("conv4", pool, dict(NETWORK), **{"reduction": 6, **options})


def train_options(run: Path, train: str, val: str | None = None, **options) -> ClassifyTrain:
    """Options of a training of two epochs."""
    optim = {"epochs": 2, "batch_size": 16, "lr": 0.05, "schedule": "cosine", **options.pop("optim", {})}
    return ClassifyTrain(
        str(run),
        data=ClassData(train, val, **{"augment": "none", "size": 16, **options.pop("data", {})}),
        network=options.pop("network", None) or network(),
        optim=ClassOptim(**optim),
        regular=Regular(**options.pop("regular", {})),
        machine=options.pop("machine", CPU),
        **{"pictures": False, **options},
    )


def eval_options(run: Path, checkpoint: Path | str, test: str, **options) -> ClassifyEval:
    data = TestData(test, **options.pop("data", {}))
    return ClassifyEval(str(run), str(checkpoint), data=data, machine=CPU, **{"pictures": False, **options})


def history(run: Path) -> list[dict]:
    """Rows of the log without those that a clock makes."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    clock = ("seconds", "wait_share", "images_per_second")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]
