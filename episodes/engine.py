"""The one training loop, for pre-training, distillation and episodes: fetch, forward, loss, backward, step, log.

Everything random in a step is seeded by (seed, step, process) and the order of data by (seed, epoch), so a run that was
killed and resumed gives the numbers of one that was not. Several processes meet before the forward pass and before the
backward pass of every step, so that bad input or a broken loss on one of them ends all with the same sentence.
"""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from backbones.checkpoint import save_tensors, write_atomically
from episodes.errors import UserError
from episodes.processes import Team, contact, same, spread_buffers, sum_up, team_of, together, wait
from episodes.progress import Progress
from episodes.run import RunFolder
from episodes.seeds import MODEL, derive

STATE_FORMAT = 1


class Batches(Protocol):
    """Numbered batches of an epoch, as in `episodes.loaders`."""

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int: ...


@dataclass
class Plan:
    """How long to train and what to keep.

    epochs: passes. clip_norm: largest gradient norm, None = no clipping.
    accumulate: steps whose gradients are averaged before the optimiser moves.
    validate_from: epochs before the first validation. select: 'best' validation accuracy or the 'last' epoch.
    save_steps: also write the resume checkpoint every so many steps; 0 = at the end of every epoch only.
    seed: of dropout and everything else random inside the model.
    schedule_steps: the schedule moves with every step of the optimiser, and not after every epoch.
    items: what a batch holds, in the plural ("clips"): their number a second is then logged and told; None leaves it.
    """

    epochs: int
    clip_norm: float | None = None
    accumulate: int = 1
    validate_from: int = 0
    select: str = "best"
    save_steps: int = 0
    seed: int = 1
    schedule_steps: bool = False
    items: str | None = None


@dataclass(frozen=True)
class Kept:
    """What the weights file of a training holds: its card, and which tensors of the model."""

    card: dict
    weights: Callable[[nn.Module], dict[str, Tensor]]


@dataclass
class Progressed:
    """Where training stands; saved and restored as a whole.

    epoch, step: how many are done, steps over the whole training.
    in_epoch: steps of this epoch that are done; sums: their running totals, of this process.
    waited: seconds that this process waited for data in the epoch.
    best_epoch: whose weights are kept, counted from 1 as in the history and all messages; 0 = none yet.
    """

    epoch: int = 0
    step: int = 0
    in_epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    waited: float = 0.0
    history: list[dict] = field(default_factory=list)


def fit(
    fabric,
    model: nn.Module,
    step: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]],
    batches: Batches,
    loader: Callable[[Batches, int], Iterable[dict[str, Tensor]]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    plan: Plan,
    run: RunFolder | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    card: dict | None = None,
    say: Callable[[str], None] = print,
    weights: Callable[[nn.Module], dict[str, Tensor]] | None = None,
    watch: Callable[[dict[str, Tensor], Progressed], None] | None = None,
) -> Progressed:
    """Train a model and return where it ended, with one history row an epoch.

    fabric: `lightning_fabric.Fabric`, launched; decides device, precision and processes.
    step: (model, batch) -> named scalars; 'loss' is minimised, all are averaged into the log.
    loader: (batches, first step) -> iterable of batches of the current epoch.
    validate: module in eval mode -> numbers for the log; 'val_accuracy' selects the best epoch.
    card: facts about the model that are written into the header of its weights.
    weights: model -> the tensors to keep of the chosen epoch, for what is tuned beside a frozen network; None: all.
    watch: called before every step with its batch and where training stands; it must leave the model as it finds it.
    Raises UserError, on every process, when the loss or a weight of any is no longer finite, or when another process
    has ended; the checkpoints before it stay.
    """
    team = team_of(fabric)
    with contact(lambda: _way_on(run)):
        keep = Kept(card or {}, weights or nn.Module.state_dict)
        return _fit(
            fabric, team, model, step, batches, loader, optimizer, schedule, plan, run, validate, keep, say, watch
        )  # fmt: skip


def _fit(
    fabric, team, model, step, batches, loader, optimizer, schedule, plan, run, validate, keep, say, watch
) -> Progressed:  # fmt: skip
    module = model
    model, optimizer = fabric.setup(model, optimizer)
    state = _start(fabric, team, module, optimizer, schedule, run, say)
    writer = run.tensorboard(purge_step=state.epoch + 1) if run is not None else None
    while state.epoch < plan.epochs:
        started = time.perf_counter()
        module.train()
        _train_epoch(fabric, team, model, module, step, batches, loader, optimizer, schedule, plan, state, run, watch)
        row = _epoch_row(team, state, optimizer, time.perf_counter() - started, plan.items)
        spread_buffers(team, module)  # before validation, which is to test the weights that are written
        with together(team):
            _check_weights(module, state, run)
        if validate is not None and state.epoch >= plan.validate_from:
            module.eval()
            with torch.no_grad():
                row.update(validate(module))
        state.history.append(row)
        _select(module, plan, state, row, run, keep, fabric)
        if not plan.schedule_steps:
            schedule.step()
        state.epoch, state.in_epoch, state.sums = state.epoch + 1, 0, {}
        if run is not None:
            run.write_history(state.history)
            save_state(run, module, optimizer, schedule, fabric, state)
        if fabric.is_global_zero:
            say(_sentence(row, plan.epochs, plan.items))
            _to_tensorboard(writer, row)
    if writer is not None:
        writer.close()
    module.eval()
    wait(team)  # nobody reads the weights before they are written
    return state


def _start(fabric, team: Team, module, optimizer, schedule, run: RunFolder | None, say) -> Progressed:
    """Return the beginning, or the state of the run's last checkpoint."""
    with together(team):
        if run is None or not run.resuming:
            state = Progressed()
        else:
            state = load_state(run, module, optimizer, schedule, fabric)
            if not team.main:
                state.sums = dict.fromkeys(state.sums, 0.0)  # the file holds the sums of all processes
    if run is None:
        return state
    if not same(team, run.resuming):
        raise UserError(
            f"the run folder {run.path} is not the same for all processes: put --run on a disk that all nodes share"
        )
    if run.resuming:
        say(f"resuming {run.path} at epoch {state.epoch + 1}, step {state.step + 1}")
    elif run.wants_resume:
        say(f"there is no checkpoint in {run.path} yet: starting from the beginning")
    return state


def _train_epoch(
    fabric, team, model, module, step, batches, loader, optimizer, schedule, plan, state, run, watch
) -> None:  # fmt: skip
    """Run the rest of the current epoch, from `state.in_epoch` on."""
    batches.set_epoch(state.epoch)
    total = len(batches)
    waited, last = 0.0, time.perf_counter()
    with Progress(
        total, f"epoch {state.epoch + 1}/{plan.epochs}", done=state.in_epoch, on=fabric.is_global_zero
    ) as bar:
        for batch in _fetched(team, loader(batches, state.in_epoch), total - state.in_epoch):
            batch = fabric.to_device(batch)
            waited += time.perf_counter() - last
            if watch is not None:
                with together(team):
                    watch(batch, state)
            torch.manual_seed(derive(MODEL, plan.seed, state.step, fabric.global_rank))
            moves = (state.in_epoch + 1) % plan.accumulate == 0 or state.in_epoch + 1 == total
            group = min(plan.accumulate, total - state.in_epoch // plan.accumulate * plan.accumulate)
            with contextlib.nullcontext() if moves else fabric.no_backward_sync(model):
                with together(team):
                    values = step(model, batch)
                    loss = values["loss"]
                    _check_loss(loss, state, run)
                fabric.backward(loss * batch.get("weight", 1.0) / group)
            if moves:
                if plan.clip_norm is not None:
                    fabric.clip_gradients(model, optimizer, max_norm=plan.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if plan.schedule_steps:
                    schedule.step()
            size = len(batch["images"]) * (float(batch.get("weight", 1.0)) > 0)
            _add(state.sums, {**{k: float(v.detach()) * size for k, v in values.items()}, "size": size})
            state.step, state.in_epoch = state.step + 1, state.in_epoch + 1
            bar.advance(loss=state.sums["loss"] / max(state.sums["size"], 1))
            if run is not None and plan.save_steps and state.step % plan.save_steps == 0 and moves:
                with together(team):
                    _check_weights(module, state, run)  # a checkpoint must be one to go on from
                save_state(run, module, optimizer, schedule, fabric, state)
            last = time.perf_counter()
    state.waited = waited


def _fetched(team: Team, batches: Iterable[dict[str, Tensor]], count: int) -> Iterator[dict[str, Tensor]]:
    """Yield `count` batches, each when every process has its own."""
    batches = iter(batches)
    for _ in range(count):
        with together(team):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _add(sums: dict[str, float], values: dict[str, float]) -> None:
    for key, value in values.items():
        sums[key] = sums.get(key, 0.0) + value


def _epoch_row(team: Team, state: Progressed, optimizer, seconds: float, items: str | None) -> dict[str, float]:
    """Average the epoch over its samples and all processes."""
    values, waited = sum_up(team, state.sums), state.waited
    size = values.pop("size")
    row = {"epoch": state.epoch + 1, "lr": optimizer.param_groups[0]["lr"]}
    row |= {name: value / size for name, value in values.items()}
    row |= {"seconds": round(seconds, 3), "wait_share": round(waited / max(seconds, 1e-9), 4)}
    return row if items is None else {**row, f"{items}_per_second": round(size / max(seconds, 1e-9), 1)}


def _check_loss(loss: Tensor, state: Progressed, run: RunFolder | None) -> None:
    if not math.isfinite(loss.item()):
        place = f"step {state.step + 1} (epoch {state.epoch + 1}, batch {state.in_epoch + 1})"
        raise UserError(
            f"the loss became {loss.item()} at {place}: "
            f"{_last_good(run)}; lower the rate or clip gradients (lr, clip_norm)"
        )


def _check_weights(module: nn.Module, state: Progressed, run: RunFolder | None) -> None:
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(
                f"{name} is no longer finite after step {state.step} (epoch {state.epoch + 1}): {_last_good(run)}; "
                "lower the rate or clip gradients (lr, clip_norm)"
            )


def _last_good(run: RunFolder | None) -> str:
    kept = run is not None and run.last.is_file()
    return f"the last good checkpoint is {run.last}" if kept else "no checkpoint had been written yet"


def _way_on(run: RunFolder | None) -> str:
    """Say how to go on after another process has ended."""
    if run is None:
        return ""
    return f"{_last_good(run)}: go on with --resume true" if run.last.is_file() else _last_good(run)


def _select(module, plan: Plan, state: Progressed, row: dict, run, keep: Kept, fabric) -> None:
    """Write the weights when this epoch is the one to keep so far."""
    score = row.get("val_accuracy")
    if plan.select == "last":
        better = True
    elif score is None:  # before the first validation the newest weights are kept
        better = state.best == -math.inf
    else:
        better = score > state.best
    if not better:
        return
    state.best_epoch = state.epoch + 1
    state.best = state.best if score is None else score
    if run is not None and fabric.is_global_zero:
        facts = {"epoch": state.best_epoch, "val_accuracy": score}
        save_tensors(keep.weights(module), run.best, {**keep.card, **facts})


def save_state(run: RunFolder, module, optimizer, schedule, fabric, state: Progressed) -> None:
    """Write the resume checkpoint: weights, optimiser, schedule, loss scale, position. Read back without unpickling.

    All processes must call it; the first one writes.
    """
    sums = sum_up(team_of(fabric), state.sums)  # so that any number of processes can go on
    if not fabric.is_global_zero:
        return
    content = {
        "format": STATE_FORMAT,
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "precision": fabric.strategy.precision.state_dict(),
        "progress": json.dumps({**vars(state), "sums": sums}),
    }
    content["schedule"].pop("milestones", None)  # a Counter, which a weights-only reader refuses; the recipe has it
    write_atomically(run.last, lambda name: torch.save(content, name))


def load_state(run: RunFolder, module, optimizer, schedule, fabric) -> Progressed:
    """Restore everything that `save_state` wrote; raises UserError for a damaged file or another model."""
    try:
        content = torch.load(run.last, map_location="cpu", weights_only=True)
        progress = Progressed(**json.loads(content["progress"]))
        module.load_state_dict(content["model"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot resume from {run.last}, which is half written or of another model ({reason}): "
            "delete it to start again, or --overwrite true"
        ) from error
    optimizer.load_state_dict(content["optimizer"])
    schedule.load_state_dict(content["schedule"])
    fabric.strategy.precision.load_state_dict(content["precision"])
    return progress


def _sentence(row: dict, epochs: int, items: str | None = None) -> str:
    text = f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}"
    if "accuracy" in row:
        text += f"  train {100 * row['accuracy']:.2f} %"
    if "val_accuracy" in row:
        text += f"  validation {100 * row['val_accuracy']:.2f} ± {100 * row.get('val_interval', 0):.2f} %"
    elif "val_loss" in row:
        text += f"  validation loss {row['val_loss']:.4f}"
    text += f"  ({row['seconds']:.1f} s"
    if items is None:
        return text + ")"
    return text + f", {row[f'{items}_per_second']:.1f} {items}/s, {100 * row['wait_share']:.0f} % waiting for them)"


def _to_tensorboard(writer, row: dict) -> None:
    if writer is not None:
        for name, value in row.items():
            writer.add_scalar(name, value, row["epoch"])
        writer.flush()
