"""python -m tools.demo: compare few-shot methods on pictures that need no download, and make a page to look at."""

from __future__ import annotations

from tools.cli import run_tool
from tools.config import Compare


def demo(config: Compare) -> dict:
    """Compare, print the table and write the page; returns what `metrics.json` holds."""
    import platform
    import time
    from dataclasses import asdict
    from pathlib import Path

    import torch
    from rich.console import Console

    from episodes.run import RunFolder, write_text
    from tools.compare import compare, make_table, named_sets
    from tools.detail import detail, episodes_csv
    from tools.page import write_page

    started = time.perf_counter()
    run = RunFolder(config.run, asdict(config), overwrite=True)
    print(f"comparing {', '.join(config.methods)} on {', '.join(named_sets(config.test))}; {run.path}")
    found = compare(config)
    seconds = time.perf_counter() - started
    title = f"{config.n_way}-way episodes after training on {config.train}"
    table = make_table(config, found, title)
    Console().print(table.to_rich())
    metrics = {"seconds": round(seconds, 1), "rows": table.rows(), "stages": found.seconds}
    run.write_metrics(metrics)
    write_text(run.path / "table.md", table.to_markdown() + detail(config, found))
    write_text(run.path / "episodes.csv", episodes_csv(config, found))
    write_text(run.path / "table.csv", table.to_csv())
    facts = {
        "trained on": config.train,
        "network": f"{config.backbone}, {config.size} px",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _threads(torch.get_num_threads()),
        "wall time": f"{seconds:.0f} s",
        "seeds": ", ".join(map(str, config.seeds)),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    page = Path(run.path / "index.html")
    write_page(
        page, title="Few-shot learning with second-order statistics", intro=INTRODUCTION, table=table,
        curves=found.curves, episodes=found.pictures, facts=facts, commands=COMMANDS,
    )  # fmt: skip
    print(f"{seconds:.0f} s in all; open {page} to look at episodes, curves and the table")
    return metrics


def _threads(count: int) -> str:
    return f"{count} CPU thread{'s' if count > 1 else ''}"


INTRODUCTION = (
    "Each method saw the base classes only. In a test episode it gets a few labelled pictures of five classes that are "
    "new to it, and names the class of fifteen more pictures of each. Average pooling keeps the mean of each channel; "
    "BDC keeps how the channels depend on each other."
)
COMMANDS = [
    "# Each of the three paths is a folder that holds one sub-folder of pictures per class.\n"
    "python -m tools.pretrain --model.method meta_deepbdc --data.train path/to/train --data.val path/to/val "
    "--run runs/mine",
    "python -m tools.meta_train --checkpoint runs/mine/best.safetensors --data.train path/to/train "
    "--data.val path/to/val --run runs/mine_meta",
    "python -m tools.evaluate --checkpoint runs/mine_meta/best.safetensors --test '[path/to/test]'",
]


if __name__ == "__main__":
    run_tool(Compare, "demo", demo)
