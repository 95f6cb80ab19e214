"""python -m tools.classify train|eval|predict|compare|networks|shards: image classification."""

from __future__ import annotations

import sys

from tools import classify_config
from tools.classify_compare_config import ClassifyCompare, ClassifyNetworks
from tools.cli import run_tool, stop

USAGE = """usage: python -m tools.classify JOB [--config RECIPE.yaml] [--OPTION VALUE ...]

jobs:
  train    train a network on pictures of known classes
  eval     test a checkpoint: top-1 and top-5 with intervals, confusion, answers
  predict  name the class of pictures, with heat maps
  compare  train several networks alike, several seeds each: accuracy, size, time of a step
  networks list the published networks, with parameters and multiply-adds
  shards   pack a data set into WebDataset shards

python -m tools.classify JOB --help lists the options of a job."""


def train(config: classify_config.ClassifyTrain) -> dict:
    """Train a network; returns what `metrics.json` holds."""
    from tools import classify_training

    return classify_training.train(config)


def evaluate(config: classify_config.ClassifyEval) -> dict:
    """Test a checkpoint; returns what `metrics.json` holds."""
    from tools import classify_testing

    return classify_testing.evaluate(config)


def predict(config: classify_config.ClassifyPredict) -> dict:
    """Name the class of pictures; returns what `metrics.json` holds."""
    from tools import classify_predicting

    return classify_predicting.predict(config)


def compare(config: ClassifyCompare) -> dict:
    """Compare networks that are trained alike; returns what `metrics.json` holds."""
    from tools import classify_comparing

    return classify_comparing.compare(config)


def networks(config: ClassifyNetworks) -> list[dict]:
    """List the published networks; returns a row of each."""
    from tools import classify_listing

    return classify_listing.list_networks(config)


def shards(config: classify_config.ClassifyShards) -> list[str]:
    """Write shards; returns their paths."""
    from tools import classify_packing

    return classify_packing.pack(config)


JOBS = {
    "train": (classify_config.ClassifyTrain, train),
    "eval": (classify_config.ClassifyEval, evaluate),
    "predict": (classify_config.ClassifyPredict, predict),
    "compare": (ClassifyCompare, compare),
    "networks": (ClassifyNetworks, networks),
    "shards": (classify_config.ClassifyShards, shards),
}


def main(arguments: list[str]) -> None:
    """Run the job that the first argument names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if arguments else 2)
    job, *rest = arguments
    if job not in JOBS:
        stop(
            f"'{job}' is no job of tools.classify: name one of {', '.join(JOBS)} (see python -m tools.classify --help)"
        )
    kind, function = JOBS[job]
    run_tool(kind, f"classify {job}", function, rest)


if __name__ == "__main__":
    main(sys.argv[1:])
