"""python -m tools.video_pretrain: train a video network on a source, by masked reconstruction or classification."""

from __future__ import annotations

from tools.cli import run_tool
from tools.video_config import VideoPretrain


def video_pretrain(config: VideoPretrain) -> dict:
    """Run a source stage as configured; returns what `metrics.json` holds."""
    from torch.nn import SyncBatchNorm

    from episodes.engine import Plan, fit
    from tools import session
    from tools.report import finish_training
    from tools.video.session import open_videos
    from tools.video.source_pictures import draw_clips
    from tools.video.stages import STAGES, build_model, card_of, design, load_start, make_optimizer, resolve
    from video.pretraining import BatchNormed, SourceBatches, ssl_step, supervised_step

    session.check(config)
    config = resolve(config)
    ssl, stage = config.stage == "ssl", STAGES[config.stage]
    fabric = session.open_fabric(config.machine, config.seed)
    say = session.speaker(fabric)
    with session.together(fabric):
        session.check_share(config.optim.batch_size * config.optim.repeats, "optim.batch_size", fabric)
        plan, network, grid = design(config)
        train, val = open_videos(config.data, network, plan.size, new_classes=False)
        names = list(train.dataset.class_names)
        _check_classes(config, names)
        model = build_model(config, network, names)
        if config.weights:
            load_start(model, config.weights, names, say)
        plain = model
        if config.batch_norm and not ssl:
            model = BatchNormed(plain)
        masks = {"grid": grid, "mask_ratio": config.mask_ratio} if ssl else {}
        batches = SourceBatches(
            train, config.optim.batch_size, config.optim.repeats, config.seed,
            fabric.global_rank, fabric.world_size, **masks,
        )  # fmt: skip
        session.lay_out(model, config.machine)
        if config.machine.sync_batchnorm:
            model = SyncBatchNorm.convert_sync_batchnorm(model)
        steps = -(-len(batches) // config.optim.accumulate)
        optimizer, schedule = make_optimizer(config, model, steps, getattr(network, "depth", None))
        validate, how = _validator(config, fabric, val, names, grid)
        run = session.open_run(config, fabric)
    _announce(config, plan, train, run.path, how, say)
    with session.together(fabric):
        if config.pictures and run.main:
            draw_clips(batches, run.path / "clips.png", config.data.augment)
    facts = {"data": config.data.train, "class_names": None if ssl else names}
    more = {"mask_ratio": config.mask_ratio, "decoder": config.decoder} if ssl else {"num_classes": len(names)}
    step = ssl_step if ssl else supervised_step(len(names), config.mixup, config.cutmix, config.label_smoothing)
    optim, select = config.optim, "last" if ssl else config.select
    plan_of_steps = Plan(
        optim.epochs, optim.clip_norm, optim.accumulate, config.validate_from, select, optim.save_steps, config.seed,
        schedule_steps=True, items="clips",
    )  # fmt: skip
    state = fit(
        fabric,
        model,
        step,
        batches,
        session.make_loader(config.data, fabric),
        optimizer,
        schedule,
        plan_of_steps,
        run,
        validate,
        card_of(plan, config.stage, **facts, **more),
        say,
        BatchNormed.folded if plain is not model else None,
    )
    if config.pictures:
        _draw_results(config, fabric, plain, val or train, validate, grid, run)
    return finish_training(run, state, f"{stage.title}, {config.backbone}", say)


def _check_classes(config: VideoPretrain, names: list[str]) -> None:
    """Refuse a classification without classes."""
    from backbones import UserError

    if config.stage == "supervised" and len(names) < 2:
        raise UserError(
            f"{config.data.train} has one class: classification needs two at least, masked pre-training none"
        )


def _validator(config: VideoPretrain, fabric, val, names: list[str], grid):
    """Return what validates, None without validation videos, and a sentence that says how."""
    from tools import session
    from tools.video.session import warn_seen
    from tools.video.validation import ClassValidator, episode_validator, reconstruction_validator

    workers, episodes = config.data.workers, config.validation
    if val is None:
        return None, "none, the last epoch is kept"
    count, classes = len(val.dataset), list(val.dataset.class_names)
    if config.stage == "ssl":
        return (
            reconstruction_validator(fabric, val, grid, config.mask_ratio, workers),
            f"loss on {count} videos under masks that stay the same; the last epoch is kept",
        )
    if set(classes) <= set(names):
        how = f"top-1 on {count} videos of {len(classes)} of the {len(names)} classes"
        return ClassValidator(fabric, val, names, workers), how
    warn_seen(names, classes, f"{config.data.val} has")
    session.check_share(episodes.episodes, "validation.episodes", fabric)
    how = (
        f"{episodes.episodes} episodes, {episodes.n_way}-way {episodes.k_shot}-shot, of {len(classes)} other classes, "
    )
    return episode_validator(fabric, val, episodes, config.seed, workers), how + "prototypes of averages"


def _announce(config: VideoPretrain, plan, train, folder, how: str, say) -> None:
    """Say what is going to run, with the numbers that the options left open."""
    from tools.video.stages import PER, STAGES, scaled_rate, videos_a_step

    optim, count = config.optim, videos_a_step(config)
    each = f", {optim.repeats} clips of each" if optim.repeats > 1 else ""
    say(
        f"{STAGES[config.stage].title} with {config.backbone} on {len(train.dataset)} videos of "
        f"{len(train.dataset.class_names)} classes, clips of {plan.frames} frames at {plan.size} px "
        f"({plan.sampling}, {config.data.augment}); {folder}"
    )
    say(
        f"{count} videos a step{each}: rate {scaled_rate(optim.lr, count, PER):.3g} ({optim.lr:g} for {PER}) to "
        f"{scaled_rate(optim.final_lr, count, PER):.3g}, warm-up {optim.warmup_epochs} of {optim.epochs} epochs, "
        f"beta2 {optim.beta2:g}, layer decay {optim.layer_decay:g}"
    )
    say(f"validation: {how}")


def _draw_results(config: VideoPretrain, fabric, model, clips, validate, grid, run) -> None:
    """Draw what the kept weights make of validation clips: reconstructions, or the confusion of classes."""
    from backbones import read_checkpoint
    from tools import session
    from tools.video.source_pictures import draw_confusion, draw_reconstruction
    from tools.video.validation import ClassValidator

    with session.together(fabric):
        model.load_state_dict(read_checkpoint(run.best)[0])
        if config.stage == "ssl" and run.main:
            draw_reconstruction(model, clips, grid, config.mask_ratio, run.path / "reconstruction.png")
    if isinstance(validate, ClassValidator):
        draw_confusion(model, validate, run.path / "confusion.png", run.main)


if __name__ == "__main__":
    run_tool(VideoPretrain, "video_pretrain", video_pretrain)
