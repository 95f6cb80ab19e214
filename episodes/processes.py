"""The processes of one run: they stop together, wait for each other, and share work.

A run on one process pays nothing for any of this: every function returns at once where the team has one member. Small
messages travel by CPU tensors, so that a GPU never waits for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from episodes.errors import Elsewhere, UserError

Item, Result = TypeVar("Item"), TypeVar("Result")
# How torch's two libraries word the loss of a peer; gloo raises a plain RuntimeError for it.
ENDED = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "Connection refused",
    "remote process exited",
    "pair closure",
)
SILENT = ("Timed out", "Timeout", "timed out")


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them: rank in 0..size-1, and the device that it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device | str = "cpu"

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0


ALONE = Team()


class ProcessLost(UserError):
    """Another process of the run has ended, or does not answer."""


def team_of(fabric) -> Team:
    """Return the team of a launched `lightning_fabric.Fabric`."""
    return Team(fabric.global_rank, fabric.world_size, fabric.device)


def agree(team: Team, error: Exception | None = None) -> None:
    """Meet all processes; when one of them has an error, all raise: the first one that has its own, the rest its words.

    One all-reduce of one number where nobody has an error.
    """
    if team.size == 1:
        if error is not None:
            raise error
        return
    failed = torch.tensor([error is not None], dtype=torch.int32, device=_small(team))
    dist.all_reduce(failed, op=dist.ReduceOp.MAX)
    if not failed.item():
        return
    texts: list[str | None] = [None] * team.size
    dist.all_gather_object(texts, None if error is None else str(error))
    first = next(rank for rank, text in enumerate(texts) if text is not None)
    raised = error if first == team.rank else Elsewhere(texts[first])
    raised.agreed = True
    raise raised from (None if raised is error else error)


def _small(team: Team) -> torch.device | str:
    """Where small tensors travel: the CPU, unless the process group knows the accelerator alone."""
    return "cpu" if "cpu" in str(dist.get_backend_config()) else team.device


def sum_up(team: Team, values: dict[str, float]) -> dict[str, float]:
    """Add the named numbers of all processes up; all must have the same names in the same order."""
    if team.size == 1 or not values:
        return dict(values)
    sums = torch.tensor(list(values.values()), dtype=torch.float64, device=_small(team))
    dist.all_reduce(sums)
    return dict(zip(values, sums.tolist(), strict=True))


@contextlib.contextmanager
def together(team: Team) -> Iterator[None]:
    """Do the block on every process and meet at its end; bad input or a full disk on one of them stops all.

    The block itself must not meet anybody, except through functions of this module.
    """
    try:
        yield
    except (UserError, OSError) as error:
        if getattr(error, "agreed", False) or isinstance(error, ProcessLost):
            raise
        agree(team, error)
    else:
        agree(team)


def wait(team: Team) -> None:
    """Wait until every process is here."""
    agree(team)


def same(team: Team, value: Any) -> bool:
    """Return whether all processes have the same value."""
    return len({repr(one) for one in collect(team, value)}) == 1


def collect(team: Team, value: Any) -> list[Any]:
    """Return the values of all processes in the order of their ranks, on every process."""
    if team.size == 1:
        return [value]
    values: list[Any] = [None] * team.size
    dist.all_gather_object(values, value)
    return values


def from_main(team: Team, value: Any = None) -> Any:
    """Return the main process's value on every process."""
    if team.size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


@torch.no_grad()
def spread_buffers(team: Team, module: torch.nn.Module) -> None:
    """Give every process the main one's buffers (running statistics), as its checkpoints have them."""
    if team.size == 1:
        return
    learned = {name for name, _ in module.named_parameters()}
    for name, value in module.state_dict().items():
        if name not in learned:
            dist.broadcast(value, src=0)


@contextlib.contextmanager
def leading(
    team: Team, work: Callable[[Item], Result]
) -> Iterator[Callable[[Sequence[Item]], Iterator[tuple[Item, Result]]]]:
    """On the main process: yield a function that shares items out, to be called once; the others `assist`.

    The function yields each item with its result, in order. Each process works on one item a round, so that no more
    than `size` results are held at a time.
    """
    begun = False

    def share(items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
        nonlocal begun
        begun = True
        from_main(team, list(items))
        for start in range(0, len(items), team.size):
            part = items[start : start + team.size]
            yield from zip(part, _round(team, work, part), strict=True)

    try:
        yield share
    finally:
        if not begun:  # nothing was to do, or it went wrong before: nobody need wait
            from_main(team, [])


def assist(team: Team, work: Callable[[Item], Result]) -> None:
    """On every other process: work on what `leading` shares out, until all is done."""
    items = from_main(team)
    for start in range(0, len(items), team.size):
        _round(team, work, items[start : start + team.size])


def _round(team: Team, work: Callable[[Item], Result], part: Sequence[Item]) -> list[Result]:
    result = None
    with together(team):
        if team.rank < len(part):
            result = work(part[team.rank])
    if team.size == 1:
        return [result]
    results: list[Any] | None = [None] * team.size if team.main else None
    dist.gather_object(result, results, dst=0)
    return results[: len(part)] if results is not None else []


@contextlib.contextmanager
def contact(hint: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn the loss of another process into a `ProcessLost`; `hint` says how to go on."""
    try:
        yield
    except RuntimeError as error:
        if (told := as_lost(error, hint)) is None:
            raise
        raise told from error


def as_lost(error: Exception, hint: Callable[[], str] = lambda: "") -> UserError | None:
    """Return the sentence for an error that is about another process that is gone or silent; None for any other."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1 or not (what := lost(error)):
        return None
    place = f"process {dist.get_rank()} (of 0 to {dist.get_world_size() - 1})"
    # the first process may be the one that is gone, so the second one speaks as well
    kind = ProcessLost if dist.get_rank() < 2 else Elsewhere
    return kind(f"{place} ends, since {what}" + (f"; {hint()}" if hint() else ""))


def lost(error: Exception) -> str | None:
    """Say what happened when the error is about another process that is gone or silent; None for any other."""
    text = str(error)
    if any(word in text for word in SILENT):
        return "another process of this run did not answer in time (see --machine.timeout_minutes)"
    if isinstance(error, dist.DistError) or any(word in text for word in ENDED):
        return "another process of this run has ended"
    return None


def leave() -> None:
    """Meet a last time and part: without it a process may end while another needs it, which ends with noise."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
