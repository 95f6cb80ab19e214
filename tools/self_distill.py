"""python -m tools.self_distill: generations of students, each taught by the one before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tools.cli import run_tool
from tools.config import SelfDistill
from tools.limits import check_numbers


def self_distill(config: SelfDistill) -> dict:
    """Run all generations; returns what the last one's `metrics.json` holds."""
    from backbones import UserError
    from tools import session

    check_numbers(config)
    if config.generations < 1:
        raise UserError("generations must be at least 1, not 0")
    if not config.checkpoint:
        raise UserError("self-distillation needs a teacher: give --checkpoint of a pre-trained model")
    for generation in range(1, config.generations + 1):
        session.check(replace(config, run=str(Path(config.run) / f"born{generation}")))
    fabric = session.open_fabric(config.machine, config.seed)
    teacher, result = Path(config.checkpoint), {}
    for generation in range(1, config.generations + 1):
        folder = Path(config.run) / f"born{generation}"
        result = _generation(replace(config, run=str(folder)), fabric, teacher, generation)
        teacher = folder / "best.safetensors"
    return result


def _generation(config: SelfDistill, fabric, teacher_path: Path, generation: int) -> dict:
    import torch

    from backbones import UserError, read_checkpoint
    from backbones.checkpoint import from_official, load_state
    from episodes.engine import fit
    from episodes.loaders import BatchImages
    from episodes.seeds import INIT, derive
    from fewshot.distill import distillation_step
    from fewshot.encoder import PretrainModel
    from fewshot.methods import find_method
    from tools import session
    from tools.report import finish_training

    say = session.speaker(fabric)
    with session.together(fabric):
        session.check_share(config.optim.batch_size, "optim.batch_size", fabric)
        state, card = read_checkpoint(teacher_path)
        plan = session.read_model(str(teacher_path), config.model, config.data.size, say=lambda text: None).architecture
        state = from_official(state)
        if config.teacher_classes == "even" and generation == 1:
            state = {key: value[::2] if key.startswith("classifier.") else value for key, value in state.items()}
        if "classifier.weight" not in state:
            raise UserError(
                f"{teacher_path} has no classifier to learn from: give a pre-trained model, not a meta-trained one"
            )
        teacher = PretrainModel(
            plan.build(), len(state["classifier.weight"]), card.get("dropout", config.model.dropout)
        )
        say(str(load_state(teacher, state, teacher_path)))
        torch.manual_seed(derive(INIT, config.seed, generation))
        student = PretrainModel(
            plan.build(), len(state["classifier.weight"]), card.get("dropout", config.model.dropout)
        )
        train, val = session.open_pictures(config.data, student.backbone, plan.size)
        if len(train.dataset.class_names) != teacher.classifier.out_features:
            raise UserError(
                f"the teacher {teacher_path} knows {teacher.classifier.out_features} classes, but {config.data.train} "
                f"has {len(train.dataset.class_names)}: distil on the data that it was trained on"
            )
        head = find_method(plan.method).validation_head(config.validation.k_shot)
        validate = session.make_validator(fabric, val, config.validation, head, config.seed)
        optimizer, schedule = session.make_training(student, config.optim, config.machine)
        run = session.open_run(config, fabric)
    say(f"generation {generation}: teacher {teacher_path} in {config.teacher_mode} mode; {run.path}")
    step = distillation_step(
        teacher.to(fabric.device), config.teacher_mode, config.distill_temperature, config.ce_weight, config.kd_weight
    )
    facts = {"num_classes": teacher.classifier.out_features, "generation": generation, "dropout": student.dropout.p}
    state = fit(
        fabric,
        student,
        step,
        BatchImages(train, config.optim.batch_size, config.seed, 0, fabric.global_rank, fabric.world_size),
        session.make_loader(config.data, fabric),
        optimizer,
        schedule,
        session.make_plan(config.optim, derive(config.seed, generation), "last"),
        run,
        validate,
        plan.card("distill", data=config.data.train, **facts),
        say,
    )
    return finish_training(run, state, f"self-distillation, generation {generation}", say)


if __name__ == "__main__":
    run_tool(SelfDistill, "self_distill", self_distill)
