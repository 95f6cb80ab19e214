"""python -m tools.benchmark: a grid of sources, targets, methods, shots, kinds of episodes and seeds."""

from __future__ import annotations

from tools.cli import run_tool
from tools.config import Benchmark


def benchmark(config: Benchmark) -> dict:
    """Run the grid, or what is left of it, and write its tables and pictures; returns what `metrics.json` holds."""
    import time
    from dataclasses import asdict
    from pathlib import Path

    import filelock

    from backbones import UserError
    from episodes.run import RunFolder
    from tools.grid.check import check
    from tools.grid.report import Journal, report
    from tools.grid.results import collect

    started = time.perf_counter()
    jobs, root = check(config), Path(config.run)
    if config.dry_run:
        return show_plan(config, jobs, root)
    run = RunFolder(config.run, asdict(config), overwrite=True)
    lock = filelock.FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(f"another benchmark is running in {root}: wait for it, or give another --run") from error
    with lock:
        journal = Journal(root / "benchmark.log", jobs)
        outcomes = run_jobs(config, jobs, root, journal)
        found = collect(config, jobs, outcomes, root)
        return report(run, found, jobs, time.perf_counter() - started)


def run_jobs(config: Benchmark, jobs, root, journal) -> dict:
    """Do all jobs on the engine that was asked for; returns their outcomes by name."""
    outcomes = {}

    def tell(outcome) -> None:
        outcomes[outcome.name] = outcome
        journal.say(outcome)

    if config.engine == "ray":
        from tools.grid.plan import machine_of
        from tools.grid.ray_engine import Room, run_ray

        devices = int(config.machine.devices) if str(config.machine.devices).isdigit() else 1
        room = Room(config.address, machine_of(config).threads, config.gpus_per_job, devices)
        run_ray(jobs, root, tell, room)
    else:
        from tools.grid.local_engine import run_local

        run_local(jobs, root, tell)
    return outcomes


def show_plan(config: Benchmark, jobs, root) -> dict:
    """Print every job and whether it is done."""
    from tools.grid.job import count
    from tools.grid.local_engine import settled

    done = {outcome.name for outcome in settled(jobs, root)}
    for job in jobs:
        cells = f", {count(len(job.cells), 'cell')}" if job.cells else ""
        print(f"{'done ' if job.name in done else 'to do'}  {job.title}{cells}")
    cells = sum(len(job.cells) for job in jobs)
    print(f"{count(len(jobs), 'job')}, {len(done)} done, {count(cells, 'cell')}; {root}")
    return {"jobs": len(jobs), "done": len(done), "cells": cells, "failed": []}


def main() -> None:
    """Exit with 1 when a cell failed."""
    metrics = run_tool(Benchmark, "benchmark", benchmark)
    raise SystemExit(1 if metrics["failed"] else 0)


if __name__ == "__main__":
    main()
