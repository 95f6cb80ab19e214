"""What the bench prints: progress while it measures, a table for people, JSON lines for machines."""

from __future__ import annotations

import json
import math
import platform
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tools.bench.case import Case, Row, call_count, measure

JSON_KEYS = ("case", "shape", "ours_s", "other_s", "ratio", "ours_mb", "other_mb")


def watched(case: Case) -> Row:
    """Measure a case and show how far it is on stderr: a bar in a terminal, else one line."""
    console = Console(stderr=True)
    title = f"{case.name} {case.shape}, against {case.other_name}"
    if not console.is_terminal:
        print(f"{title}: {call_count(case)} calls ...", file=console.file, flush=True)
        return measure(case)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # stdout is left alone: it may be a pipe that waits for JSON
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(title, total=call_count(case))
        return measure(case, lambda: progress.advance(task))


def json_line(row: Row) -> str:
    """Return one row as a JSON object on one line; an unknown memory is null."""
    values = {key: getattr(row, key) for key in JSON_KEYS}
    if row.clock != "wall":
        values["clock"] = row.clock
    if row.parts:
        values["parts"] = {
            name: dict(zip(("ours_s", "other_s"), pair, strict=True)) for name, pair in row.parts.items()
        }
    if row.facts:
        values["facts"] = row.facts
    return json.dumps({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()})


def show_table(rows: list[Row], title: str, console: Console | None = None) -> None:
    """Print the rows; each says how many times ours is faster and smaller. Fits 80 columns."""
    console = console or Console()
    caption = (
        "Time of one pass, step, clip or episode, on the wall (cpu: CPU time of the process): medians over rounds, "
        "both sides in turns. Memory: peak above what was there before, in MB. faster, smaller: other / ours."
    )
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("case", overflow="fold")
    for heading in ("ours", "other", "faster", "ours MB", "other MB", "smaller"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row.case} {row.shape}\n  {row.other_name}, {row.repeats} rounds" + ", cpu" * (row.clock != "wall"),
            *(duration(row.ours_s), duration(row.other_s), times(row.ratio)),
            *(megabytes(row.ours_mb), megabytes(row.other_mb)),
            times(row.other_mb / row.ours_mb if row.ours_mb else math.nan),
        )
        for name, (ours, other) in row.parts.items():
            table.add_row(f"  {name}", duration(ours), duration(other), times(other / ours))
    console.print(table)
    for case in dict.fromkeys(row.case for row in rows if row.facts):
        show_facts([row for row in rows if row.case == case and row.facts], console)


def show_facts(rows: list[Row], console: Console) -> None:
    """Print what else is to be told of the rows of a case, one column a fact."""
    names = list(dict.fromkeys(name for row in rows for name in row.facts))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"{rows[0].case}, other figures", overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.shape, *(row.facts.get(name, "-") for name in names))
    console.print(table)


def duration(seconds: float) -> str:
    """Show seconds with a unit that leaves three digits: '1.23 s', '45.6 ms', '7.89 us'."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us" if seconds else "0"


def times(ratio: float) -> str:
    """Show a ratio: '12.3x'."""
    return "-" if math.isnan(ratio) else f"{ratio:.1f}x"


def megabytes(value: float) -> str:
    """Show memory: '1234', or '12.3' below a hundred."""
    return "-" if math.isnan(value) else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def machine(device: str, threads: int) -> str:
    """Name what computed: device, threads and the version of torch."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    return f"{device}: {name}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"


def processor() -> str:
    """Return the CPU's name, or its architecture where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
