"""Run the jobs of a grid in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tools.grid.job import Outcome, finished, run_job
from tools.grid.plan import Job


def run_local(jobs: list[Job], root: Path, tell: Callable[[Outcome], None]) -> None:
    """Do every job whose needs were met. jobs: each after those that it needs. tell: hears of every outcome."""
    by_name, outcomes, sets = {job.name: job for job in jobs}, {}, {}
    for job in jobs:
        if (outcome := unmet(job, by_name, outcomes)) is None:
            outcome = run_job(job, root, needed(job, by_name), sets)
        outcomes[job.name] = outcome
        tell(outcome)


def needed(job: Job, by_name: dict[str, Job]) -> Job | None:
    """Return the job that this one starts from."""
    return by_name[job.needs[0]] if job.needs else None


def unmet(job: Job, by_name: dict[str, Job], outcomes: dict[str, Outcome]) -> Outcome | None:
    """Return the outcome of a job that cannot start, because what it needs has failed; None if it can."""
    for name in job.needs:
        outcome = outcomes.get(name)
        if outcome is not None and (reason := outcome.reason) is not None:
            started = reason if reason.startswith("needs ") else f"needs {by_name[name].title}, which failed: {reason}"
            return Outcome(job.name, started, fresh=False)
    return None


def settled(jobs: list[Job], root: Path) -> Iterator[Outcome]:
    """Yield the outcome of every job that is done already, in order."""
    by_name, done = {job.name: job for job in jobs}, set()
    for job in jobs:
        if done.issuperset(job.needs) and (outcome := finished(job, root, needed(job, by_name))) is not None:
            done.add(job.name)
            yield outcome
