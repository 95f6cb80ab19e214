"""python -m tools.video_tune: tune a pre-trained video network to a target, on episodes of its base classes."""

from __future__ import annotations

from dataclasses import replace

from tools.cli import run_tool
from tools.groups import like_training
from tools.video_config import VideoTune


def video_tune(config: VideoTune) -> dict:
    """Run target tuning as configured; returns what `metrics.json` holds."""
    from episodes.engine import fit
    from episodes.loaders import EpisodeImages
    from fewshot.encoder import EpisodeModel, episode_step
    from tools import session
    from tools.report import finish_training
    from tools.video import tuning as parts
    from tools.video.session import open_videos
    from tools.video.storing import check_cache, may_be_stored, on_stored, store
    from tools.video.tune_pictures import draw_first_episode
    from video.encoders import AfterStem
    from video.stored import StoredClips

    session.check(config)
    parts.check_start(config)
    fabric = session.open_fabric(config.machine, config.seed)
    say = session.speaker(fabric)
    with session.together(fabric):
        session.check_share(config.episodes_per_step, "episodes_per_step", fabric)
        tuning = parts.prepare(config, say)
        encoder, plan = tuning.loaded.encoder, tuning.loaded.architecture
        config = replace(config, data=parts.resolve(config.data, plan))
        train, val = open_videos(config.data, encoder.backbone, plan.size)
        check_cache(config, tuning.tune, train)
        sampler = session.make_sampler(train, config.episodes, config.seed, fabric=fabric)
        validation = like_training(config.validation, config.episodes)
        if val is not None:
            session.validation_sampler(val, validation, config.seed)  # what is wrong is said before long work
        run = session.open_run(config, fabric)
        if config.pictures and fabric.is_global_zero:
            draw_first_episode(train, sampler, run.path / "pictures")
    say(parts.describe(config, tuning, len(train.dataset.class_names), run.path))
    sets = may_be_stored(config, tuning.tune, {"training": train, "validation": val})
    stored = store(config, encoder, sets, fabric, say)
    pictures, seen = stored.get("training", train), stored.get("validation", val)
    after = EpisodeModel(AfterStem(encoder), tuning.head)
    model = after if isinstance(pictures, StoredClips) else tuning.model
    with session.together(fabric):
        validate = session.make_validator(fabric, seen, validation, tuning.head, config.seed)
        if isinstance(seen, StoredClips):
            validate = on_stored(validate, after)
        optimizer, schedule = parts.make_training(model, config.optim, config.machine)
    state = fit(
        fabric,
        model,
        episode_step,
        EpisodeImages(pictures, sampler, config.episodes_per_step),
        session.make_loader(config.data, fabric),
        optimizer,
        schedule,
        session.make_plan(config.optim, config.seed, config.select),
        run,
        validate,
        tuning.card(config, train.dataset.class_names),
        say,
        parts.kept_weights(tuning),
    )
    facts = {**parts.facts_of(tuning, config, state), "stored": sorted(stored)}
    metrics = finish_training(run, state, f"tuning, {plan.method}, {config.episodes.k_shot}-shot", say, facts)
    if fabric.is_global_zero:
        say(parts.describe_end(tuning, run.best, facts))
        parts.write_reference(tuning, config.reference_file, run.best, state.best_epoch, say)
    return metrics


if __name__ == "__main__":
    run_tool(VideoTune, "video_tune", video_tune)
