"""Work on two processes (gloo, on the CPU) is the work of one, and what goes wrong on one of them ends both."""

from __future__ import annotations

import math
import warnings

import lightning_fabric
import numpy as np
import pytest
import torch
from torch import nn

from episodes.dataset import ArraySet
from episodes.engine import Plan, fit
from episodes.errors import Elsewhere, UserError
from episodes.evaluate import evaluate
from episodes.features import open_features
from episodes.loaders import BatchImages, EpisodeImages, Pictures, numbered_loader
from episodes.optim import build_optimizer, build_schedule
from episodes.processes import ALONE, Team, as_lost, collect, leading, lost, team_of, together
from episodes.run import RunFolder
from episodes.sampler import EpisodeSampler
from episodes.shards import evaluate_shared, extract_shared, gather

CLASSES, ITEMS = 3, 5


class NearestMean(nn.Module):
    """Logits: minus the distances to the class means."""

    def forward(self, support, support_labels, query, n_way=None):
        member = nn.functional.one_hot(support_labels, n_way).to(support.dtype).transpose(1, 2)
        return -torch.cdist(query, member @ support / member.sum(-1, keepdim=True))


def pictures(augment: str = "none", classes: int = CLASSES, items: int = ITEMS) -> Pictures:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (classes * items, 3, 4, 4), generator=generator, dtype=torch.uint8)
    data = ArraySet(images, np.repeat(np.arange(classes), items), [str(number) for number in range(classes)])
    return Pictures(data, 4, (0.5,) * 3, (0.3,) * 3, augment)


def classify(model, batch):
    logits = model(batch["images"])
    right = (logits.argmax(1) == batch["labels"]).float().mean()
    return {"loss": nn.functional.cross_entropy(logits, batch["labels"]), "accuracy": right}


def answer(model, batch):
    """A mean over the episodes of a step, each of the same size."""
    return {"loss": (model(batch["images"].flatten(0, 1)) - 1).square().mean()}


def broken_in(step, plain, rank, how):
    """`plain`, but it goes wrong in one step (counted from 0) of one process, or of all where rank is None."""
    count = iter(range(step))

    def run(model, batch):
        values = plain(model, batch)
        if next(count, None) is None and rank in (None, torch.distributed.get_rank()):
            if how == "input":
                raise UserError("picture 17 is broken")
            values["loss"] = values["loss"] * math.nan
        return values

    return run


def train(fabric, kind: str, folder, step=None, resume: bool = False, **plan):
    """Run on each process; returns the final weights and the history without what the clock says."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    rank, world, data = fabric.global_rank, fabric.world_size, pictures("standard")
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    if kind == "batches":  # 15 images in batches of 7: the last batch leaves one process without an image
        numbered, plain = BatchImages(data, 7, 0, 0, rank, world), classify
    else:  # 7 episodes, two a step: the last step leaves one process without an episode
        sampler = EpisodeSampler(data.dataset.labels, 2, 1, 2, 7, rank=rank, world_size=world)
        numbered, plain = EpisodeImages(data, sampler, 2), answer
    optimizer = build_optimizer(model, 0.01)
    tests = EpisodeSampler(data.dataset.labels, 3, 1, 4, 9, rank=rank, world_size=world)

    def validate(module):
        result = evaluate_shared(team_of(fabric), module, NearestMean(), pictures(), tests)
        return {"val_accuracy": result.mean, "val_interval": result.interval}

    state = fit(
        fabric, model, step or plain, numbered, lambda batches, start: numbered_loader(batches, start=start), optimizer,
        build_schedule(optimizer, "constant"), Plan(**{"epochs": 2, "accumulate": 2, **plan}),
        RunFolder(folder, {}, resume, main=fabric.is_global_zero), validate, say=lambda text: None,
    )  # fmt: skip
    history = [{k: v for k, v in row.items() if k not in ("seconds", "wait_share")} for row in state.history]
    return [parameter.detach().numpy().copy() for parameter in model.parameters()], history


def alone(function, *args, **options):
    return function(lightning_fabric.Fabric(accelerator="cpu", devices=1), *args, **options)


def by_two(function, *args, **options):
    """Run a function on two processes; returns what the first one returns."""
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")
    return fabric.launch(function, *args, **options)


def assert_same_training(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert [row.keys() for row in one[1]] == [row.keys() for row in other[1]]
    for a, b in zip(one[1], other[1], strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def failures(fabric, function, *args, **options):
    """What all processes run into: the kinds of their errors and the texts."""
    try:
        function(fabric, *args, **options)
        mine = None
    except UserError as error:
        mine = (type(error).__name__, str(error))
    return collect(team_of(fabric), mine)


@pytest.mark.parametrize("kind", ["batches", "episodes"])
def test_two_processes_equal_one(tmp_path, kind):
    """Weights, losses, accuracies and validation, with augmentation and accumulated gradients."""
    assert_same_training(by_two(train, kind, tmp_path / "two"), alone(train, kind, tmp_path / "one"))
    assert (tmp_path / "two" / "best.safetensors").is_file()
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("resume", [by_two, alone])
def test_a_run_of_two_goes_on_with_any_number(tmp_path, resume):
    """Stopped after step 5 of 6, in the middle of the second epoch, with a checkpoint of step 4 whose sums count."""
    stop = broken_in(5, classify, None, "input")
    said = by_two(failures, train, kind="batches", folder=tmp_path, step=stop, save_steps=1)
    assert [text for _, text in said] == ["picture 17 is broken"] * 2
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["model"].keys() == {"1.weight", "1.bias"}
    gone_on = resume(train, "batches", tmp_path, resume=True, save_steps=1)
    assert_same_training(gone_on, alone(train, "batches", tmp_path / "whole"))


@pytest.mark.parametrize("how", ["loss", "input"])
@pytest.mark.parametrize("rank", [0, 1])
def test_what_goes_wrong_on_one_ends_both_with_its_sentence(tmp_path, rank, how):
    step = broken_in(4, classify, rank, how)
    said = by_two(failures, train, kind="batches", folder=tmp_path, step=step)
    (kind, text), (other_kind, other_text) = said[rank], said[1 - rank]
    assert (kind, other_kind) == ("UserError", "Elsewhere")
    assert text == other_text
    assert text.startswith("picture 17" if how == "input" else "the loss became nan at step 5 (epoch 2, batch 2)")
    if how == "loss":
        assert str(tmp_path / "last.ckpt") in text
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["progress"].startswith('{"epoch": 1, "step": 3')


def unreadable(fabric):
    """One process meets a picture that it cannot read, while it fetches its batch."""

    class Broken(BatchImages):
        def __getitem__(self, number):
            if number == 1 and self.rank == 1:
                raise UserError("a.png cannot be read")
            return super().__getitem__(number)

    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    optimizer = build_optimizer(model, 0.01)
    fit(
        fabric, model, classify, Broken(pictures(), 7, 0, 0, fabric.global_rank, 2),
        lambda batches, start: numbered_loader(batches, start=start), optimizer,
        build_schedule(optimizer, "constant"), Plan(epochs=1), say=lambda text: None,
    )  # fmt: skip


def test_a_picture_that_one_process_cannot_read_ends_both():
    text = "a.png cannot be read"
    assert by_two(failures, unreadable) == [("Elsewhere", text), ("UserError", text)]


def first_pixels(images):
    return images.flatten(1)[:, :7]


def scores(fabric, episodes: int, memory: int):
    team, data = team_of(fabric), pictures(classes=6, items=50)
    sampler = EpisodeSampler(data.dataset.labels, 5, 2, 6, episodes, rank=team.rank, world_size=team.size)
    found = evaluate_shared(team, first_pixels, NearestMean(), data, sampler, memory)
    assert all(np.array_equal(found.accuracies, other) for other in collect(team, found.accuracies))
    return found.numbers, found.accuracies, found.confusion, extract_shared(team, first_pixels, data).numpy()


@pytest.mark.parametrize(("episodes", "memory"), [(25, 4 << 30), (25, 0), (1, 4 << 30)])
def test_every_episode_is_scored_once_with_the_result_of_one_process(episodes, memory):
    """From features, from images, and with fewer episodes than processes."""
    numbers, accuracies, confusion, features = by_two(scores, episodes, memory)
    data = pictures(classes=6, items=50)
    sampler = EpisodeSampler(data.dataset.labels, 5, 2, 6, episodes)
    whole = evaluate(first_pixels, NearestMean(), data, sampler, show=False)
    assert numbers.tolist() == list(range(episodes))
    assert np.array_equal(accuracies, whole.accuracies)
    assert np.array_equal(confusion, whole.confusion)
    assert confusion.sum() == episodes * 30
    assert np.array_equal(features, first_pixels(data.load(np.arange(300))))


def test_shares_that_overlap_are_refused():
    data = pictures(classes=6, items=50)
    part = evaluate(first_pixels, NearestMean(), data, EpisodeSampler(data.dataset.labels, 5, 2, 6, 4), show=False)
    assert gather(ALONE, part) is part
    said = by_two(failures, lambda fabric: gather(team_of(fabric), part))
    assert all("scored by two processes" in text for _, text in said)


def store(fabric, folder, broken: int | None = None):
    """Rows of a store that both processes fill, in blocks of 64 of 300 items."""
    team, data, done = team_of(fabric), pictures(classes=6, items=50), []

    def encode(images):
        done.append(len(images))
        return first_pixels(images) / (0.0 if team.rank == broken else 1.0)

    found = open_features(encode, data, "w", folder, block_rows=64, show=False, say=lambda text: None, team=team)
    return found.gather(np.arange(300)).numpy(), collect(team, sum(done))


def test_a_store_is_filled_by_both_and_opened_by_both(tmp_path):
    rows, done = by_two(store, tmp_path)
    assert np.array_equal(rows, first_pixels(pictures(classes=6, items=50).load(np.arange(300))))
    assert done == [64 + 64 + 44, 64 + 64]
    assert by_two(store, tmp_path)[1] == [0, 0]
    assert np.array_equal(alone(store, tmp_path)[0], rows)


@pytest.mark.parametrize("broken", [0, 1])
def test_features_that_are_not_finite_on_one_process_end_both(tmp_path, broken):
    said = by_two(failures, store, folder=tmp_path, broken=broken)
    assert said[broken][0] == "UserError"
    assert said[1 - broken][0] == "Elsewhere"
    assert "not finite" in said[0][1]
    assert by_two(store, tmp_path)[1] == [172, 128]


def test_a_store_that_cannot_be_written_ends_both(tmp_path):
    (tmp_path / "file").write_text("no folder")
    said = by_two(failures, store, folder=tmp_path / "file")
    assert [kind for kind, _ in said] == ["UserError", "Elsewhere"]
    assert "cannot keep features" in said[1][1]


def meet(fabric):
    """The first of several errors is told by its process, and nobody waits."""
    team = team_of(fabric)
    with together(team):
        raise UserError(f"rank {team.rank}")


def test_the_first_process_speaks_when_all_fail():
    assert by_two(failures, meet) == [("UserError", "rank 0"), ("Elsewhere", "rank 0")]


def test_alone_everything_is_as_without_processes():
    with pytest.raises(UserError, match="mine") as raised, together(ALONE):
        raise UserError("mine")
    assert not isinstance(raised.value, Elsewhere)
    with leading(ALONE, lambda item: item * 2) as share:
        assert list(share([1, 2, 3])) == [(1, 2), (2, 4), (3, 6)]
    assert collect(Team(), 5) == [5]


def test_the_loss_of_a_process_is_told_from_other_errors():
    gloo = "[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:2548: Connection reset by peer"
    assert "has ended" in lost(RuntimeError(gloo))
    assert "did not answer" in lost(RuntimeError("Timed out waiting 5000ms for recv operation to complete"))
    assert lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert as_lost(RuntimeError(gloo)) is None  # this process has no others
