"""Run one job of a grid; as a program, python -m tools.grid.job SPEC.json, one training on several devices."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import traceback
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

if typing.TYPE_CHECKING:
    from tools.grid.plan import Job

SPEC, RESULT, ERROR = "spec.json", "result.json", "error.txt"


@dataclass
class Outcome:
    """How a job ended, plain values only.

    reason: why it failed, in one sentence; None when it was done. cells: reason of each cell that failed, by name.
    said: what it reached. fresh: whether it was run, and not found finished.
    """

    name: str
    reason: str | None = None
    cells: dict[str, str] = field(default_factory=dict)
    said: str = ""
    fresh: bool = True


def count(number: float, noun: str) -> str:
    """Return a number with its noun: 1 cell, 2 cells."""
    return f"{number:g} {noun}" if number == 1 else f"{number:,g} {noun}s"


def build(group: type, plain: Mapping[str, Any]) -> Any:
    """Build a dataclass of options, with the groups in it, from the dictionary that `asdict` made of it."""
    kinds = typing.get_type_hints(group)
    return group(**{key: build(kinds[key], value) if is_dataclass(kinds[key]) else value
                    for key, value in plain.items()})  # fmt: skip


def training_options(job: Job, root: Path, checkpoint: Path | None) -> Any:
    """Return the options of a training in its folder, from the weights it starts from."""
    from tools.grid.training import JOBS

    name = "weights" if job.kind == "video_pretrain" else "checkpoint"
    start = {} if checkpoint is None else {name: str(checkpoint)}
    return build(JOBS[job.kind], {**job.options, "run": str(root / job.name), **start})


def finished(job: Job, root: Path, before: Job | None) -> Outcome | None:
    """Return the outcome of a job that is done already, without loading anything heavy; None if there is work.

    before: the job that it starts from, which is done itself.
    """
    from tools.grid.cells import missing
    from tools.grid.stage import read_done, sentence, stage_key

    if job.kind == "given":
        return Outcome(job.name, said=job.options["checkpoint"], fresh=False)
    start = last_weights(before, root) if before else None
    if before and start is None:
        return None
    if job.kind == "test":
        left = missing(job, root, start[1])
        return None if left else Outcome(job.name, said=f"{count(len(job.cells), 'cell')} kept", fresh=False)
    stage = read_done(root / job.name, stage_key(training_options(job, root, start and start[0]), job.data))
    return Outcome(job.name, said=f"{sentence(stage)}, kept", fresh=False) if stage else None


def last_weights(job: Job, root: Path) -> tuple[Path, str] | None:
    """Return path and hash of the weights that a finished training left, or of those that were given."""
    from tools.grid.stage import file_hash, note

    if job.kind == "given":
        return Path(job.options["checkpoint"]), file_hash(job.options["checkpoint"])
    weights = root / job.name / note(root / job.name).get("weights", "")
    return (weights, file_hash(weights)) if weights.is_file() else None


def run_job(job: Job, root: Path, before: Job | None, sets: dict | None = None) -> Outcome:
    """Do a job, or what is left of it, in its own folder; whatever goes wrong becomes its reason.

    before: the job that it starts from, which is done. sets: opened pictures, kept for the next job of this process.
    """
    import filelock

    from tools.grid.cells import test_cells
    from tools.grid.stage import run_stage, sentence

    if job.kind == "given":
        return finished(job, root, before)
    folder = root / job.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".lock"):  # a killed engine's worker may live a little longer than it
            (folder / ERROR).unlink(missing_ok=True)
            if (done := finished(job, root, before)) is not None:
                return done
            checkpoint, weights = last_weights(before, root) if before else (None, None)
            if job.kind == "test":
                explain = Explain(folder)
                failed = test_cells(job, root, checkpoint, weights, {} if sets is None else sets, explain)
                said = f"{len(job.cells) - len(failed)} of {count(len(job.cells), 'cell')}"
                return Outcome(job.name, cells=failed, said=said)
            options = training_options(job, root, checkpoint)
            stage = run_stage(folder, options, lambda options: launch(job.kind, options, folder), job.data)
            return Outcome(job.name, said=sentence(stage))
    except Exception as error:  # the other jobs go on
        return Outcome(job.name, Explain(folder)("", error))


class Explain:
    """Says in one sentence what was raised; what is no user's mistake leaves its traceback in the job's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, cell: str, error: Exception) -> str:
        """Return the reason; `cell` is the name of the cell that failed, empty for the whole job."""
        from backbones.errors import UserError

        if isinstance(error, UserError):
            return " ".join(str(error).split())
        with open(self.folder / ERROR, "a", encoding="utf-8") as file:
            file.write(f"{cell or 'the job'}\n{''.join(traceback.format_exception(error))}\n")
        first = (str(error).strip().splitlines() or [""])[0]
        return f"{type(error).__name__}: {first} (details in {self.folder / ERROR})"


def launch(kind: str, options: Any, folder: Path) -> dict:
    """Train in this process; on several devices in a program of its own, which Fabric can start once for each device.

    The program's standard input is a pipe that nobody writes to: it ends when this process does, however it does.
    """
    from backbones.errors import UserError
    from episodes.run import write_json
    from tools.grid.training import train

    if str(options.machine.devices) == "1":
        return train(kind, options)
    result = folder / RESULT
    result.unlink(missing_ok=True)
    write_json(folder / SPEC, {"kind": kind, "options": asdict(options), "result": str(result)})
    home = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
    program = [sys.executable, "-m", "tools.grid.job", str(folder / SPEC)]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": path, "COVEY_WATCH": "1"},
    ) as process:  # fmt: skip
        said = process.stdout.read()
        code = process.wait()
    if code == 0 and result.is_file():
        return json.loads(result.read_text())
    sentences = [line.partition("error: ")[2] for line in said.splitlines() if line.startswith("error: ")]
    if code == 2 and sentences:
        raise UserError(sentences[0])
    raise RuntimeError(f"the program of the training ended with {code}\n{said}")


def main(argv: list[str] | None = None) -> None:
    """Do the training that a file describes; every process of a training on several devices comes through here."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.grid.job", description="One training of a benchmark; `tools.benchmark` starts it."
    )
    parser.add_argument("spec", type=Path, help="JSON file with kind, options and where the result goes")
    spec = json.loads(parser.parse_args(argv).spec.read_text())
    if os.environ.get("COVEY_WATCH"):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    from backbones.errors import UserError
    from episodes.run import write_json
    from tools.grid.training import JOBS, train

    try:
        metrics = train(spec["kind"], build(JOBS[spec["kind"]], spec["options"]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error
    if os.environ.get("LOCAL_RANK", "0") == "0":
        write_json(Path(spec["result"]), metrics)


def _end_with_parent() -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock would keep the interpreter from ending
    os._exit(1)


if __name__ == "__main__":
    main()
