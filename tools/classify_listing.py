"""The job `networks` of `tools.classify`: which published networks there are, and what they cost."""

from __future__ import annotations

import fnmatch

import torch
from rich.console import Console
from rich.table import Table

from backbones import NETWORKS, UserError, create_network
from backbones.errors import nearest
from classify.networks import HEADS, POOLS, costs
from tools.classify_compare_config import ClassifyNetworks
from tools.limits import check_numbers


def list_networks(config: ClassifyNetworks) -> list[dict]:
    """Print the published networks whose names fit; returns a row of each: name, parameters, and costs where asked."""
    check_numbers(config)
    names = [name for name in NETWORKS if fnmatch.fnmatch(name, config.pattern)]
    if not names:
        raise UserError(f"no published network is named '{config.pattern}'{nearest(config.pattern, NETWORKS)}")
    rows = [describe(name, config) for name in names]
    table = Table(title=f"Published networks, {config.num_classes} classes", title_justify="left", box=None)
    table.add_column("network", no_wrap=True)
    for key in list(rows[0])[1:]:
        table.add_column(key.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    console = Console()
    console.print(table)
    console.print(
        f"Use one with --network.name. Any backbone takes a layer too: --network.pool {', '.join([*POOLS, *HEADS])}.",
        highlight=False,
    )
    return rows


def describe(name: str, config: ClassifyNetworks) -> dict:
    """Return name, parameters, and with `costs` multiply-adds of a picture, beside those with average pooling."""
    if not config.costs:
        with torch.device("meta"):
            network = create_network(name, config.num_classes)
        return {"name": name, "parameters": sum(p.numel() for p in network.parameters())}
    network = create_network(name, config.num_classes)
    own, plain = costs(network, config.size or network.input_size)
    return {
        "name": name,
        "parameters": own.parameters,
        "with_GAP": plain.parameters,
        "multiply_adds": own.multiply_adds,
        "GAP's": plain.multiply_adds,
    }
