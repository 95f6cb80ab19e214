"""python -m tools.robustness score|corrupt: errors of trained networks on corrupted pictures, and such pictures."""

from __future__ import annotations

import sys

from tools import study_config
from tools.cli import run_tool, stop

USAGE = """usage: python -m tools.robustness JOB [--config RECIPE.yaml] [--OPTION VALUE ...]

jobs:
  score    test networks on corrupted pictures and perturbed sequences: raw errors, mCE, mFR, mT5D
  corrupt  write corrupted pictures into folders

python -m tools.robustness JOB --help lists the options of a job."""


def score(config: study_config.RobustScore) -> dict:
    """Test networks; returns what `metrics.json` holds."""
    from dataclasses import asdict

    from backbones import UserError
    from episodes.run import RunFolder, write_text
    from tools import session, study_parts, study_report
    from tools.study_page import write_study_page

    session.check(config)
    study_parts.check_robust(config.robust)
    if not config.checkpoints:
        raise UserError(
            "there is no network to test: name checkpoints, --checkpoints '{mine: runs/x/best.safetensors}'"
        )
    if config.data.test is None:
        raise UserError("there are no pictures to test on: name a data set, --data.test")
    fabric = session.open_fabric(config.machine, config.seed)
    tested = study_parts.Tested(
        config.checkpoints, config.data.test, config.data, config.robust, config.seed, fabric, session.speaker(fabric)
    )  # fmt: skip
    run = RunFolder(config.run, asdict(config), overwrite=config.overwrite, main=fabric.is_global_zero)
    found = study_parts.robustness(tested, run.path, config.folder)
    run.write_metrics(found)
    if run.main:
        section = study_report.robust_section(found, run.path)
        write_text(run.path / "report.md", section.to_markdown())
        write_study_page(run.path / "index.html", "Robustness", [], [section], {"pictures": config.data.test})
        print(f"open {run.path / 'index.html'}")
    return found


def corrupt(config: study_config.CorruptFolder) -> dict:
    """Write corrupted pictures; returns how many."""
    from episodes.run import check_folder
    from tools.limits import check_numbers
    from tools.study_folders import write_corrupted
    from tools.study_parts import check_names

    check_numbers(config)
    check_folder(config.out, "the folder of the corrupted pictures", "--out")
    check_names(config.corruptions, None, config.severities)
    found = write_corrupted(config)
    print(f"{found['written']} files of {found['pictures']} pictures written to {config.out}")
    return found


JOBS = {"score": (study_config.RobustScore, score), "corrupt": (study_config.CorruptFolder, corrupt)}


def main(arguments: list[str]) -> None:
    """Run the job that the first argument names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if arguments else 2)
    job, *rest = arguments
    if job not in JOBS:
        stop(f"'{job}' is no job of tools.robustness: name one of {', '.join(JOBS)}")
    kind, function = JOBS[job]
    run_tool(kind, f"robustness {job}", function, rest)


if __name__ == "__main__":
    main(sys.argv[1:])
