"""The training loop: what a step does, what is kept, and that a resumed run is the run that was not stopped."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from backbones import read_checkpoint
from episodes.errors import UserError
from episodes.run import RunFolder
from tests.episodes.training import Rows, cross_entropy, network, numbers, train


class Stop(Exception):
    """Stands for a killed process."""


def stopping(at: int):
    """A step that is cut short after the forward pass number `at`."""
    done = iter(range(at))

    def step(model, batch):
        if next(done, None) is None:
            raise Stop
        return cross_entropy(model, batch)

    return step


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_loss_falls_and_every_epoch_has_a_row():
    state = train(network(), Rows(), epochs=6)
    assert [row["epoch"] for row in state.history] == list(range(1, 7))
    assert state.history[-1]["loss"] < 0.8 * state.history[0]["loss"]
    assert state.step == 6 * 5
    assert {"lr", "loss", "accuracy", "seconds", "wait_share"} <= state.history[0].keys()


def test_the_rate_follows_the_schedule():
    state = train(network(), Rows(), epochs=4)
    assert [row["lr"] for row in state.history] == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_accumulated_steps_equal_a_large_batch():
    small, large = network(), network()
    train(small, Rows(24, 4), accumulate=3, epochs=2)
    train(large, Rows(24, 12), epochs=2)
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_last_group_of_accumulated_steps_is_averaged_over_its_own_number():
    """5 batches in groups of 2: the last group is one batch, whose gradient counts whole."""
    model, rows, oracle = network(), Rows(20, 4, shuffle=False), network()
    train(model, rows, accumulate=2, epochs=1, optimizer={"momentum": 0.0, "nesterov": False, "weight_decay": 0.0})
    for group in ([0, 1], [2, 3], [4]):
        losses = [cross_entropy(oracle, rows[number])["loss"] for number in group]
        gradients = torch.autograd.grad(torch.stack(losses).mean(), list(oracle.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(oracle.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    for a, b in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_clipping_bounds_the_step():
    model = network()
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])

    def steep(model, batch):
        return {"loss": 1e4 * cross_entropy(model, batch)["loss"]}

    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    train(model, Rows(4, 4), steep, epochs=1, clip_norm=0.5, optimizer=plain)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_the_last_partial_batch_is_used_and_weighs_by_its_size():
    model, rows = network(), Rows(10, 4)
    state = train(model, rows, epochs=1, optimizer={"lr": 1e-30})
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(rows.images), rows.labels).item()
    assert state.step == 3
    assert state.history[0]["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("at", [7, 10, 13], ids=["mid-epoch", "epoch boundary", "third epoch"])
@pytest.mark.parametrize("save_steps", [0, 3])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_resumed_equals_uninterrupted(tmp_path, at, save_steps, name):
    options = {"optimizer": {"name": name, "lr": 0.05}, "save_steps": save_steps, "epochs": 4}
    whole, rows = network(dropout=0.5), Rows()
    expected = train(whole, rows, run=RunFolder(tmp_path / "whole", {}), **options)
    with pytest.raises(Stop):
        train(network(dropout=0.5), Rows(), stopping(at), RunFolder(tmp_path / "cut", {}), **options)
    model = nn.Sequential(*network(dropout=0.5))
    nn.init.zeros_(model[0].weight)  # whatever it starts from, the checkpoint decides
    again = train(model, Rows(), run=RunFolder(tmp_path / "cut", {}, resume=True), **options)
    assert same(model, whole)
    assert numbers(again.history) == numbers(expected.history)
    kept, _ = read_checkpoint(tmp_path / "cut" / "best.safetensors")
    for key, value in read_checkpoint(tmp_path / "whole" / "best.safetensors")[0].items():
        assert torch.equal(kept[key], value)


@pytest.mark.parametrize("schedule", ["multistep", "cosine"])
def test_the_schedule_goes_on_where_it_was(tmp_path, schedule):
    options = {"schedule": {"name": schedule}, "epochs": 4}
    expected = train(network(), Rows(), **options)
    with pytest.raises(Stop):
        train(network(), Rows(), stopping(12), RunFolder(tmp_path, {}), **options)
    again = train(network(), Rows(), run=RunFolder(tmp_path, {}, resume=True), **options)
    assert numbers(again.history) == numbers(expected.history)


def test_a_run_stopped_between_the_last_step_and_the_end_of_its_epoch(tmp_path):
    """The checkpoint of step 5 of 5 holds a whole epoch that has no row yet."""

    def dying(model):
        raise Stop

    def score(model):
        return {"val_accuracy": model[0].bias.sum().item()}

    expected = train(network(), Rows(), validate=score)
    with pytest.raises(Stop):
        train(network(), Rows(), run=RunFolder(tmp_path, {}), validate=dying, save_steps=5)
    again = train(network(), Rows(), run=RunFolder(tmp_path, {}, resume=True), validate=score)
    assert numbers(again.history) == numbers(expected.history)


def test_a_finished_run_resumes_to_itself(tmp_path):
    first = train(network(), Rows(), run=RunFolder(tmp_path, {}))
    again = train(network(), Rows(), stopping(0), RunFolder(tmp_path, {}, resume=True))
    assert again.history == first.history


def test_a_loss_that_is_not_finite_stops_with_step_batch_and_last_good_checkpoint(tmp_path):
    run = RunFolder(tmp_path / "run", {})

    def breaking(model, batch):
        values = cross_entropy(model, batch)
        bad = batch["number"] == 2 and len(seen) >= 5
        seen.append(1)
        return {**values, "loss": values["loss"] * (math.nan if bad else 1.0)}

    seen: list[int] = []
    with pytest.raises(UserError, match=r"nan at step 8 \(epoch 2, batch 3\).*last good checkpoint is .*last\.ckpt"):
        train(network(), Rows(), breaking, run)
    content = torch.load(run.last, weights_only=True)
    assert all(value.isfinite().all() for value in content["model"].values())
    assert not list(run.path.glob("*.tmp")) + list(run.path.glob(".*.tmp"))


def test_a_first_step_that_fails_says_that_there_is_no_checkpoint():
    with pytest.raises(UserError, match="step 1 .*no checkpoint had been written"):
        train(network(), Rows(), lambda model, batch: {"loss": cross_entropy(model, batch)["loss"] * math.inf})


def test_broken_weights_never_replace_a_good_checkpoint(tmp_path):
    """The loss of the step is finite, its gradient is not."""
    run = RunFolder(tmp_path, {})

    def poisoned(model, batch):
        values = cross_entropy(model, batch)
        seen.append(1)
        if len(seen) == 8:
            next(model.parameters()).register_hook(lambda gradient: gradient * math.nan)
        return values

    seen: list[int] = []
    with pytest.raises(UserError, match=r"0\.weight is no longer finite after step 8 \(epoch 2\).*last\.ckpt"):
        train(network(), Rows(), poisoned, run, save_steps=2)
    content = torch.load(run.last, weights_only=True)
    assert all(value.isfinite().all() for value in content["model"].values())


def test_a_half_written_checkpoint_is_named(tmp_path):
    run = RunFolder(tmp_path, {})
    train(network(), Rows(), run=run)
    run.last.write_bytes(run.last.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cannot resume from .*last\.ckpt, which is half written"):
        train(network(), Rows(), run=RunFolder(tmp_path, {}, resume=True))


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    train(network(), Rows(), run=RunFolder(tmp_path, {}))
    with pytest.raises(UserError, match="of another model"):
        train(nn.Sequential(nn.Linear(6, 3)), Rows(), run=RunFolder(tmp_path, {}, resume=True))


def scores(values: list[float]):
    """A validation that returns these accuracies, one an epoch."""
    rest = iter(values)
    return lambda model: {"val_accuracy": next(rest)}


@pytest.mark.parametrize(
    ("select", "accuracies", "kept"),
    [("best", [0.2, 0.5, 0.5, 0.4], 1), ("last", [0.2, 0.5, 0.5, 0.4], 3), ("best", [0.9, 0.1, 0.1, 0.1], 0)],
    ids=["first of equals", "last", "first"],
)
def test_the_weights_of_the_right_epoch_are_kept(tmp_path, select, accuracies, kept):
    run = RunFolder(tmp_path, {})
    state = train(network(), Rows(), run=run, validate=scores(accuracies), epochs=4, select=select)
    assert state.best_epoch == kept + 1
    assert read_checkpoint(run.best)[1]["epoch"] == kept + 1
    alone = network()
    train(alone, Rows(), epochs=kept + 1)
    for key, value in read_checkpoint(run.best)[0].items():
        assert torch.equal(value, alone.state_dict()[key])


def test_validation_waits_for_its_first_epoch(tmp_path):
    run = RunFolder(tmp_path, {})
    state = train(network(), Rows(), run=run, validate=scores([0.3, 0.2]), epochs=4, validate_from=2)
    assert ["val_accuracy" in row for row in state.history] == [False, False, True, True]
    assert state.best_epoch == 3


def test_validation_sees_eval_mode_and_training_does_not():
    modes = []

    def look(model):
        modes.append(model.training)
        return {"val_accuracy": 0.0}

    def step(model, batch):
        modes.append(model.training)
        return cross_entropy(model, batch)

    train(network(), Rows(4, 4), step, validate=look, epochs=2)
    assert modes == [True, False, True, False]


def test_the_seed_decides_the_dropout():
    def end(**plan):
        model = network(dropout=0.5)
        train(model, Rows(), epochs=1, **plan)
        return model

    assert same(end(seed=1), end(seed=1))
    assert not same(end(seed=1), end(seed=2))
