"""python -m tools.pretrain: train backbone, pooling and a linear classifier on the base classes."""

from __future__ import annotations

from tools.cli import run_tool
from tools.config import Pretrain


def pretrain(config: Pretrain) -> dict:
    """Run pre-training as configured; returns what `metrics.json` holds."""
    from backbones import freeze, load_weights
    from episodes.engine import fit
    from episodes.loaders import BatchImages
    from fewshot.encoder import PretrainModel, classification_step
    from fewshot.methods import find_method
    from tools import session
    from tools.report import finish_training

    session.check(config)
    fabric = session.open_fabric(config.machine, config.seed)
    say = session.speaker(fabric)
    with session.together(fabric):
        session.check_share(config.optim.batch_size, "optim.batch_size", fabric)
        plan, encoder = session.new_model(config.model, config.data.size)
        train, val = session.open_pictures(config.data, encoder.backbone, plan.size)
        names = train.dataset.class_names
        model = PretrainModel(encoder, len(names), config.model.dropout)
        if config.model.weights:
            load_weights(model, config.model.weights, drop=("classifier.",), allow_missing=("classifier.",), say=say)
        if config.model.frozen:
            freeze(model.backbone)
        head = find_method(config.model.method).validation_head(config.validation.k_shot)
        validate = session.make_validator(fabric, val, config.validation, head, config.seed)
        optimizer, schedule = session.make_training(model, config.optim, config.machine)
        run = session.open_run(config, fabric)
    say(
        f"pre-training {config.model.method} with {config.model.backbone} on {len(train.dataset)} pictures of "
        f"{len(names)} classes at {plan.size} px; {run.path}"
    )
    batches = BatchImages(train, config.optim.batch_size, config.seed, 0, fabric.global_rank, fabric.world_size)
    card = plan.card(
        "pretrain", num_classes=len(names), class_names=names, dropout=config.model.dropout, data=config.data.train
    )
    state = fit(
        fabric,
        model,
        classification_step,
        batches,
        session.make_loader(config.data, fabric),
        optimizer,
        schedule,
        session.make_plan(config.optim, config.seed, config.select, config.validate_from),
        run,
        validate,
        card,
        say,
    )
    return finish_training(run, state, f"pre-training, {config.model.method}", say)


if __name__ == "__main__":
    run_tool(Pretrain, "pretrain", pretrain)
