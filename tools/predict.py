"""python -m tools.predict: tell which class each picture is of, from a few labelled pictures of every class."""

from __future__ import annotations

from pathlib import Path

from tools.cli import run_tool
from tools.deployment import Predict


def predict(config: Predict) -> dict:
    """Name the class of every query picture; returns what `metrics.json` holds."""
    import numpy as np

    from backbones import UserError
    from episodes.sources.folder import folder_set
    from episodes.sources.loose import find_pictures, loose_set
    from fewshot.classifier import classifier_of
    from fewshot.methods import METHODS
    from tools import model_use, predictions, session

    session.check(config)
    if not config.support:
        raise UserError("there are no supports: name a folder with a sub-folder of pictures for each class, --support")
    if not config.query:
        raise UserError("there are no pictures to look at: name folders or files, --query")
    support = folder_set(Path(config.support))
    if len(support.class_names) < 2:
        raise UserError(
            f"'{config.support}' has one class folder ('{support.class_names[0]}'): give two classes at least, "
            "there is nothing to choose"
        )
    if config.unknown_below is not None and predictions.UNKNOWN in support.class_names:
        raise UserError(f"a class is named '{predictions.UNKNOWN}', as pictures without a class are: rename its folder")
    queries = loose_set(find_pictures(config.query))
    support, _ = predictions.readable(support, config.skip_broken)
    queries, skipped = predictions.readable(queries, config.skip_broken)
    predictions.warn_shared_files(support.names, queries.names)

    fabric = session.open_fabric(model_use.one_device(config.machine), config.seed)
    loaded = model_use.read_model(config, print)
    method = METHODS[loaded.architecture.method]
    session.lay_out(loaded.encoder, config.machine)

    def encode(encoder, images):
        with fabric.autocast():
            return encoder(images)

    settings = {"batch_size": config.batch_size, "workers": config.workers}
    classifier = classifier_of(loaded, config.model.head, fabric.device, encode, **settings)
    run = session.open_run(config, fabric)
    classifier.fit(support, show=True)
    print(f"{method.title}: {len(support)} supports of {len(support.class_names)} classes, {len(queries)} pictures")
    if classifier.transductive:
        print("all pictures are looked at together: each answer depends on the others that were asked about")
    result = predictions.Predictions(
        files=[str(name) for name in queries.names],
        class_names=classifier.class_names,
        probabilities=classifier.predict_proba(queries, show=True),
        truth=predictions.truth_of(queries.names, config.query, classifier.class_names),
        unknown_below=config.unknown_below,
    )
    facts = {
        "method": loaded.architecture.method,
        "checkpoint": config.checkpoint,
        "backbone": loaded.architecture.backbone,
        "transductive": classifier.transductive,
        "support": config.support,
        "shots": dict(zip(support.class_names, np.bincount(support.labels).tolist(), strict=True)),
        "skipped": skipped,
    }
    metrics = {**facts, **result.metrics()}
    run.write_metrics(metrics)
    predictions.write(run.path, result, facts)
    title = f"{method.title}, {loaded.architecture.backbone}"
    predictions.draw(run.path, result, support, queries, loaded.architecture.size, title, config.sheets)
    predictions.show(result, metrics)
    print(f"results in {run.path}")
    return metrics


if __name__ == "__main__":
    run_tool(Predict, "predict", predict)
