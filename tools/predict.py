"""python -m tools.predict: tell which class each picture or video is of, from a few labelled ones of every class."""

from __future__ import annotations

from tools.cli import run_tool
from tools.deployment import Predict


def predict(config: Predict) -> dict:
    """Name the class of every query; returns what `metrics.json` holds."""
    import numpy as np

    from backbones import UserError
    from tools import asked, model_use, predictions, session
    from tools.tested import of_videos

    session.check(config)
    if not config.support:
        raise UserError("there are no supports: name a folder with a sub-folder for each class, --support")
    if not config.query:
        raise UserError("there are no pictures or videos to look at: name folders or files, --query")
    kind = asked.VIDEOS if of_videos(config.checkpoint, config.model) else asked.PICTURES
    support, queries = kind.support(config), kind.queries(config)
    if len(support.class_names) < 2:
        raise UserError(
            f"'{config.support}' has one class folder ('{support.class_names[0]}'): give two classes at least, "
            "there is nothing to choose"
        )
    if config.unknown_below is not None and predictions.UNKNOWN in support.class_names:
        raise UserError(f"a class is named '{predictions.UNKNOWN}', as files without a class are: rename its folder")
    support, _ = kind.readable(support, config)
    queries, skipped = kind.readable(queries, config)
    predictions.warn_shared_files(support.names, queries.names, kind.what)

    fabric = session.open_fabric(model_use.one_device(config.machine), config.seed)
    loaded = kind.read_model(config, print)
    session.lay_out(loaded.encoder, config.machine)

    def encode(encoder, images):
        with fabric.autocast():
            return encoder(images)

    classifier, title = kind.classifier(config, loaded, fabric.device, encode)
    run = session.open_run(config, fabric)
    classifier.fit(support, show=True)
    print(f"{title}: {len(support)} supports of {len(support.class_names)} classes, {len(queries)} {kind.what}")
    if classifier.transductive:
        print(f"all {kind.what} are looked at together: each answer depends on the others that were asked about")
    result = predictions.Predictions(
        files=[str(name) for name in queries.names],
        class_names=classifier.class_names,
        probabilities=classifier.predict_proba(queries, show=True),
        truth=predictions.truth_of(queries.names, config.query, classifier.class_names),
        unknown_below=config.unknown_below,
        what=kind.what,
    )
    facts = {
        "method": loaded.architecture.method,
        "checkpoint": config.checkpoint,
        "backbone": loaded.architecture.backbone,
        "transductive": classifier.transductive,
        "support": config.support,
        "shots": dict(zip(support.class_names, np.bincount(support.labels).tolist(), strict=True)),
        "skipped": skipped,
        **kind.facts(loaded),
    }
    metrics = {**facts, **result.metrics()}
    run.write_metrics(metrics)
    predictions.write(run.path, result, facts)
    shown = [kind.shown(part, config, loaded) for part in (support, queries)]
    predictions.draw(run.path, result, *shown, f"{title}, {loaded.architecture.backbone}", config.sheets)
    predictions.show(result, metrics)
    print(f"results in {run.path}")
    return metrics


if __name__ == "__main__":
    run_tool(Predict, "predict", predict)
