"""What `predict` is asked about: pictures or videos; how each is opened, by which model it is told apart, and drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backbones import UserError
from fewshot.card import Loaded
from fewshot.classifier import FewShotClassifier, classifier_of
from fewshot.methods import METHODS
from tools import model_use, predictions
from tools.deployment import Predict

SHARP = 112  # pixels of a picture that is sharp enough to look at


@dataclass(frozen=True)
class Kind:
    """Pictures or videos, as functions.

    what: their name. support, queries: options -> data set. readable: (data set, options) -> what of it can be read,
        and the names of the rest. read_model: (options, say) -> model. classifier: (options, model, device, encode) ->
        it and its title. shown: (data set, options, model) -> items to be drawn. facts: model -> what is told of it.
    """

    what: str
    support: Callable[[Predict], Any]
    queries: Callable[[Predict], Any]
    readable: Callable[[Any, Predict], tuple[Any, list[str]]]
    read_model: Callable[[Predict, Callable[[str], None]], Loaded]
    classifier: Callable[..., tuple[FewShotClassifier, str]]
    shown: Callable[[Any, Predict, Loaded], Any]
    facts: Callable[[Loaded], dict[str, Any]]


def _pictures() -> Kind:
    def support(config: Predict) -> Any:
        from episodes.sources.folder import folder_set

        return folder_set(Path(config.support))

    def queries(config: Predict) -> Any:
        from episodes.sources.loose import find_pictures, loose_set

        return loose_set(find_pictures(config.query))

    def read_model(config: Predict, say: Callable[[str], None]) -> Loaded:
        given = [name for name, value in asdict(config.video).items() if value != asdict(type(config.video)())[name]]
        if given:
            raise UserError(f"video.{given[0]} is of models of videos, and this one is of pictures")
        return model_use.read_model(config, say)

    def classifier(config: Predict, loaded: Loaded, device, encode) -> tuple[FewShotClassifier, str]:
        settings = {"batch_size": config.batch_size, "workers": config.workers}
        made = classifier_of(loaded, config.model.head, device, encode, **settings)
        return made, METHODS[loaded.architecture.method].title

    def shown(dataset: Any, config: Predict, loaded: Loaded) -> Any:
        from episodes.loaders import Pictures

        return Pictures(dataset, max(loaded.architecture.size, SHARP), (0.0,) * 3, (1.0,) * 3)

    def readable(dataset: Any, config: Predict) -> tuple[Any, list[str]]:
        return predictions.readable(dataset, config.skip_broken)

    return Kind("pictures", support, queries, readable, read_model, classifier, shown, lambda loaded: {})


def _videos() -> Kind:
    def support(config: Predict) -> Any:
        from video.clips_open import open_clips

        return open_clips(config.support, backend=config.video.backend)

    def queries(config: Predict) -> Any:
        from video.loose import find_videos, loose_videos

        return loose_videos(find_videos(config.query), config.video.backend)

    def readable(dataset: Any, config: Predict) -> tuple[Any, list[str]]:
        from video.clips import drop_broken
        from video.clips_check import check_clips

        if not config.skip_broken:
            return dataset, []  # a video that cannot be read is named when its turn comes, which is soon
        kept = drop_broken(dataset, check_clips(dataset, max(1, config.workers)))
        return kept, sorted(set(dataset.names) - set(kept.names))

    def read_model(config: Predict, say: Callable[[str], None]) -> Loaded:
        from tools.tested import UNTUNED, video_model_of
        from tools.video.models import read_video_model

        model, view = config.model, config.video
        if view.eval_view != "center":
            raise UserError("the reference view draws test clips at random: predict takes the center view alone")
        if config.checkpoint is None and model.weights is None and not model.backbone_options.get("pretrained"):
            raise UserError("no weights are given: name --checkpoint FILE")
        return read_video_model(
            config.checkpoint or model.weights, video_model_of(config), config.size, say, config.method, view.source,
            untuned=UNTUNED, frames=view.frames, sampling=view.sampling, step=view.step,
        )  # fmt: skip

    def classifier(config: Predict, loaded: Loaded, device, encode) -> tuple[FewShotClassifier, str]:
        from tools.tested import CLIPS
        from tools.video.methods import create_video_head, find_video_method

        plan, encoder = loaded.architecture, loaded.encoder.requires_grad_(False).eval().to(device)
        options = {**loaded.head_options(), **config.model.head}

        def head(k_shot: int):
            return loaded.load_head(create_video_head(plan.method, k_shot, encoder.out_dim, **options))

        head(1)  # what does not fit, or was never trained, is said before clips are encoded
        made = FewShotClassifier(
            lambda clips: encode(encoder, clips), head, plan.size, device=device,
            batch_size=min(config.batch_size, CLIPS), workers=config.workers,
            prepare=lambda dataset: _clips(dataset, config, loaded),
        )  # fmt: skip
        return made, find_video_method(plan.method).title

    def shown(dataset: Any, config: Predict, loaded: Loaded) -> Any:
        clips = _clips(dataset, config, loaded)
        clips.view = replace(clips.view, size=max(clips.size, SHARP), resize=None)
        clips.size = clips.view.size
        return clips

    def facts(loaded: Loaded) -> dict[str, Any]:
        plan = loaded.architecture
        cut = {"size": plan.size, "frames": plan.frames, "sampling": plan.sampling, "step": plan.step}
        return {"video": cut, "source": loaded.source}

    return Kind("videos", support, queries, readable, read_model, classifier, shown, facts)


def _clips(dataset: Any, config: Predict, loaded: Loaded) -> Any:
    """Return the items of a set of videos as the model wants them, in the deterministic view."""
    from tools.video.session import view_of
    from video.clips import Clips
    from video.frames import FrameSampling

    plan = loaded.architecture
    view = view_of("none", plan.size, loaded.encoder.backbone, flip=False)
    sampling = FrameSampling(plan.sampling, plan.frames, plan.step)
    return Clips(dataset, view, sampling, config.video.limit_s, max(1, config.video.workers))


PICTURES, VIDEOS = _pictures(), _videos()
