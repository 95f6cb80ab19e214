"""python -m tools.meta_train: train a pre-trained encoder on episodes."""

from __future__ import annotations

from tools.cli import run_tool
from tools.config import MetaTrain
from tools.groups import like_training


def meta_train(config: MetaTrain) -> dict:
    """Run meta-training as configured; returns what `metrics.json` holds."""
    from backbones import UserError, freeze
    from episodes.engine import fit
    from episodes.loaders import EpisodeImages
    from fewshot.encoder import EpisodeModel, episode_step
    from fewshot.methods import METHODS, create_head, find_method
    from tools import session
    from tools.report import finish_training

    session.check(config)
    fabric = session.open_fabric(config.machine, config.seed)
    say = session.speaker(fabric)
    with session.together(fabric):
        session.check_share(config.episodes_per_step, "episodes_per_step", fabric)
        loaded = session.read_model(config.checkpoint, config.model, config.data.size, say, config.method)
        method = loaded.architecture.method
        if not find_method(method).episodic:
            raise UserError(
                f"{METHODS[method].title} is not trained on episodes: "
                "test its pre-trained checkpoint with tools.evaluate"
            )
        unlabelled = config.episodes.unlabelled or config.episodes.distractor_ways
        if unlabelled and not find_method(method).semi_supervised:
            raise UserError(f"{METHODS[method].title} does not learn from unlabelled pictures: use semi_soft_kmeans")
        shots = config.episodes.k_shot
        head = create_head(method, shots, loaded.encoder.out_dim, **config.model.head)
        model = EpisodeModel(loaded.encoder, loaded.load_head(head, training=True))
        if config.model.frozen and find_method(method).adapts:
            raise UserError(f"{METHODS[method].title} adapts the backbone, which model.frozen forbids: use anil")
        if config.model.frozen:
            freeze(model.backbone)
        train, val = session.open_pictures(config.data, loaded.encoder.backbone, loaded.architecture.size)
        sampler = session.make_sampler(train, config.episodes, config.seed, fabric=fabric)
        validation = like_training(config.validation, config.episodes)
        validate = session.make_validator(fabric, val, validation, head, config.seed)
        optimizer, schedule = session.make_training(model, config.optim, config.machine)
        run = session.open_run(config, fabric)
    say(
        f"meta-training {method}: {config.episodes.n_way}-way {shots}-shot, {config.episodes.episodes} episodes an "
        f"epoch from {len(train.dataset.class_names)} classes; {run.path}"
    )
    if note := getattr(head.train(), "note", None):  # a solver that is not the one of tests, say
        say(f"head: {note}")
    card = loaded.architecture.card(
        "meta", k_shot=shots, n_way=config.episodes.n_way, data=config.data.train, head=config.model.head
    )
    state = fit(
        fabric,
        model,
        episode_step,
        EpisodeImages(train, sampler, config.episodes_per_step),
        session.make_loader(config.data, fabric),
        optimizer,
        schedule,
        session.make_plan(config.optim, config.seed, config.select),
        run,
        validate,
        card,
        say,
    )
    return finish_training(run, state, f"meta-training, {method}, {shots}-shot", say)


if __name__ == "__main__":
    run_tool(MetaTrain, "meta_train", meta_train)
