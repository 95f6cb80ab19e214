"""The job `shards` of `tools.classify`."""

from __future__ import annotations

from pathlib import Path

from backbones import UserError
from classify.shard_writer import write_shards
from episodes.opening import open_dataset
from episodes.progress import Progress
from episodes.run import check_folder
from tools.classify_config import ClassifyShards
from tools.limits import check_numbers


def pack(config: ClassifyShards) -> list[str]:
    """Write shards as configured; returns their paths."""
    check_numbers(config)
    check_folder(config.out, "the folder of the shards", "--out")
    if Path(config.name).name != config.name:
        raise UserError(
            f"name is '{config.name}': it begins names of files, so leave out slashes; --out says where they go"
        )
    dataset = open_dataset(config.data, skip_broken=config.skip_broken, download=config.download)
    with Progress(len(dataset), "writing shards") as bar:
        paths = write_shards(
            dataset, Path(config.out), config.name, config.per_shard, config.size, config.quality, config.seed,
            config.overwrite, bar.advance,
        )  # fmt: skip
    last = f" to {paths[-1].name}" if len(paths) > 1 else ""
    print(f"{len(dataset)} pictures of {len(dataset.class_names)} classes in {paths[0]}{last}")
    return [str(path) for path in paths]
