"""Self-distillation: several generations in one command, each with a fresh student and the last one as teacher."""

from __future__ import annotations

import json

import pytest
import torch

from backbones import UserError, read_checkpoint
from backbones.checkpoint import to_official
from tests.tools import tiny
from tools.evaluate import evaluate
from tools.self_distill import self_distill


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, packs, pretrained):
    run = tmp_path_factory.mktemp("distilled")
    metrics = self_distill(tiny.distill_options(run, str(pretrained["meta_deepbdc"]), packs["train"], packs["val"]))
    return run, metrics


def weight(path) -> torch.Tensor:
    return read_checkpoint(path)[0]["backbone.blocks.0.0.weight"]


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_generation_has_a_whole_folder(distilled):
    run, metrics = distilled
    assert sorted(path.name for path in run.iterdir()) == ["born1", "born2"]
    for generation in (1, 2):
        folder = run / f"born{generation}"
        assert {"config.yaml", "metrics.json", "best.safetensors", "last.ckpt", "curves.png"} <= {
            path.name for path in folder.iterdir()
        }
        card = read_checkpoint(folder / "best.safetensors")[1]
        assert (card["stage"], card["generation"], card["num_classes"]) == ("distill", generation, 8)
        assert {"loss", "cross_entropy", "distillation", "val_accuracy"} <= log_of(folder)[0].keys()
    assert metrics["weights"] == str(run / "born2" / "best.safetensors")


def test_students_are_fresh_and_differ(distilled, pretrained):
    run, _ = distilled
    weights = [weight(pretrained["meta_deepbdc"]), *(weight(run / f"born{g}" / "best.safetensors") for g in (1, 2))]
    for i in range(3):
        for j in range(i):
            assert (weights[i] - weights[j]).abs().max() > 0.1


def test_the_teacher_of_a_generation_is_the_one_before(distilled, tmp_path, packs, pretrained):
    """Generation 2 alone, under generation 1, has its loss; under the first teacher it has another."""
    run, _ = distilled
    config = tiny.distill_options(tmp_path, str(pretrained["meta_deepbdc"]), packs["train"], packs["val"])
    (tmp_path / "born1").mkdir()
    for file in (run / "born1").iterdir():
        if file.is_file():
            (tmp_path / "born1" / file.name).write_bytes(file.read_bytes())
    config.resume = True
    self_distill(config)
    second = [log_of(folder / "born2")[0] for folder in (run, tmp_path)]
    assert second[0]["distillation"] == second[1]["distillation"]
    assert log_of(run / "born1")[0]["distillation"] != second[0]["distillation"]


def test_more_generations_go_on_from_the_finished_ones(distilled, tmp_path, packs, pretrained):
    teacher = str(pretrained["meta_deepbdc"])
    self_distill(tiny.distill_options(tmp_path, teacher, packs["train"], packs["val"], generations=1))
    first = weight(tmp_path / "born1" / "best.safetensors")
    self_distill(tiny.distill_options(tmp_path, teacher, packs["train"], packs["val"], resume=True))
    assert torch.equal(weight(tmp_path / "born1" / "best.safetensors"), first)
    assert torch.equal(
        weight(tmp_path / "born2" / "best.safetensors"), weight(distilled[0] / "born2" / "best.safetensors")
    )


def test_both_teacher_modes(tmp_path, packs, pretrained):
    """A teacher in train mode has other logits; the student's own start is the same."""
    losses = {}
    for mode in ("eval", "train"):
        config = tiny.distill_options(
            tmp_path / mode, str(pretrained["meta_deepbdc"]), packs["train"], teacher_mode=mode, generations=1,
            optim={"lr": 1e-30, "temperature_lr": 1e-30, "batch_size": 96},
        )  # fmt: skip
        self_distill(config)
        losses[mode] = log_of(tmp_path / mode / "born1")[0]
    assert losses["eval"]["cross_entropy"] == pytest.approx(losses["train"]["cross_entropy"])
    assert losses["eval"]["distillation"] != pytest.approx(losses["train"]["distillation"], rel=1e-3)


def test_a_student_can_be_tested(distilled, tmp_path, packs):
    metrics = evaluate(tiny.evaluate_options(tmp_path, distilled[1]["weights"], packs["test"], method="stl_deepbdc"))
    assert metrics["stage"] == "distill"
    assert metrics["scores"][0]["accuracy"] > 0.3


def test_a_teacher_without_a_card_in_the_official_layout(tmp_path, packs, pretrained):
    state = to_official(read_checkpoint(pretrained["meta_deepbdc"])[0])
    torch.save({"state": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "last_model.tar")
    config = tiny.distill_options(tmp_path / "run", str(tmp_path / "last_model.tar"), packs["train"], generations=1)
    assert self_distill(config)["steps"] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generations": 0}, "generations must be at least 1, not 0"),
        ({"checkpoint": None}, "needs a teacher"),
        ({"checkpoint": "no/such.safetensors"}, "no checkpoint at"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, packs, pretrained, change, message):
    config = tiny.distill_options(tmp_path, str(pretrained["meta_deepbdc"]), packs["train"])
    for key, value in change.items():
        setattr(config, key, value)
    with pytest.raises(UserError, match=message):
        self_distill(config)


def test_a_teacher_of_other_classes_is_refused(tmp_path, packs, pretrained):
    config = tiny.distill_options(tmp_path, str(pretrained["meta_deepbdc"]), packs["val"])
    with pytest.raises(UserError, match="knows 8 classes, but .* has 6"):
        self_distill(config)


def test_a_meta_trained_model_has_no_classifier_to_learn_from(tmp_path, packs, pretrained):
    from tools.meta_train import meta_train

    weights = meta_train(tiny.meta_options(tmp_path / "m", str(pretrained["meta_deepbdc"]), packs["train"]))["weights"]
    with pytest.raises(UserError, match="no classifier to learn from"):
        self_distill(tiny.distill_options(tmp_path / "d", weights, packs["train"]))


def test_a_released_cub_teacher_has_a_dead_output_between_any_two(tmp_path, packs, pretrained):
    """Its 200 outputs stand for all classes, and only the even ones were trained."""
    state, _ = read_checkpoint(pretrained["meta_deepbdc"])
    for key in ("classifier.weight", "classifier.bias"):
        wide = torch.full((2 * len(state[key]), *state[key].shape[1:]), 1e3)
        wide[::2] = state[key]
        state[key] = wide
    torch.save({"epoch": 1, "state": to_official(state)}, tmp_path / "teacher.tar")
    options = tiny.distill_options(tmp_path / "all", str(tmp_path / "teacher.tar"), packs["train"])
    with pytest.raises(UserError, match="knows 16 classes"):
        self_distill(options)
    options = tiny.distill_options(
        tmp_path / "even", str(tmp_path / "teacher.tar"), packs["train"], teacher_classes="even"
    )
    self_distill(options)
    assert read_checkpoint(tmp_path / "even" / "born1" / "best.safetensors")[0]["classifier.bias"].shape == (8,)
    assert log_of(tmp_path / "even" / "born1")[-1]["distillation"] < 1e3
