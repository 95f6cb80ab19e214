"""What a test is about: a model of pictures or of clips, how its test sets are opened, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from backbones import UserError
from backbones.video_zoo import FRAMEWISE, VIDEO_VITS
from episodes.loaders import Pictures
from fewshot.card import Loaded
from tools import session
from tools.config import Evaluate
from tools.groups import Data, Model

if TYPE_CHECKING:
    from tools.deployment import Predict
    from tools.video.models import LoadedVideo
    from tools.video_groups import VideoModel
    from video.clips import Clips

Items = "Pictures | Clips"
VIDEO_SOURCES = ("motions", "strokes")
PICTURE_SOURCES = ("digits", "glyphs", "torchvision", "pack")
UNTUNED = "protonet"  # how source weights are tested where no method is named
CLIPS = 16  # that pass the network at a time: on a CPU more are no faster, and take more memory


@dataclass
class Tested:
    """A model and its test sets.

    config: the options that really hold. open: text of a data set -> its items. warn: (name, items) -> warns of classes
        that the model was trained on.
    batch: items that pass the network at a time.
    said: how clips were cut, for the title of a table. record: the same for `metrics.json`. notes: for below a table.
    """

    config: Evaluate
    loaded: Loaded
    open: Callable[[str], Items]
    warn: Callable[[str, Items], None]
    batch: int = 128
    said: str = ""
    record: dict[str, object] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def open_tested(config: Evaluate, say: Callable[[str], None]) -> Tested:
    """Read the model that the options name; the checkpoint, or without one the backbone, says what it is a model of.

    Raises UserError for a checkpoint that does not fit.
    """
    return _clips(config, say) if of_videos(config.checkpoint, config.model) else _pictures(config, say)


def of_videos(checkpoint: str | None, model: Model) -> bool:
    """Whether a model is of videos: by its file, or because its backbone is."""
    named = model.backbone in VIDEO_VITS or model.backbone.startswith(f"{FRAMEWISE}:")
    path = checkpoint or model.weights
    if named or path is None:
        return named
    from tools.video.peek import is_video_file

    return is_video_file(path)


def _pictures(config: Evaluate, say: Callable[[str], None]) -> Tested:
    loaded = session.read_model(config.checkpoint, config.model, config.size, say, config.method)
    given = [name for name, value in asdict(config.video).items() if value != getattr(type(config.video)(), name)]
    if given:
        raise UserError(
            f"video.{given[0]} is of models of videos, and this one is of pictures ({loaded.architecture.backbone})"
        )
    size, backbone = loaded.architecture.size, loaded.encoder.backbone
    data = Data(skip_broken=config.skip_broken, download=config.download)

    def opened(name: str) -> Pictures:
        if name.partition(":")[0] in VIDEO_SOURCES:
            raise UserError(f"'{name}' names videos, but the model is of pictures ({loaded.architecture.backbone})")
        return Pictures(session.open_set(name, data, size), size, backbone.mean, backbone.std)

    def warn(name: str, pictures: Pictures) -> None:
        known = loaded.card.get("class_names", [])
        session.warn_shared(known, pictures.dataset.class_names, f"{name} has", "training")

    return Tested(config, loaded, opened, warn)


def _clips(config: Evaluate, say: Callable[[str], None]) -> Tested:
    from tools.video.models import read_video_model
    from tools.video.session import open_test_clips, warn_seen

    view, model = config.video, video_model_of(config)
    loaded = read_video_model(
        config.checkpoint or config.model.weights, model, config.size, say, config.method, view.source,
        untuned=UNTUNED, frames=view.frames, sampling=view.sampling, step=view.step,
    )  # fmt: skip
    plan = loaded.architecture
    notes = notes_on(loaded)
    if view.eval_view == "reference" and config.cache != "none":
        say("the reference view is drawn anew at every look: no features are kept, every episode is encoded")
        config = replace(config, cache="none")

    def opened(name: str) -> Clips:
        if name.partition("?")[0].partition(":")[0] in PICTURE_SOURCES and not Path(name).exists():
            raise UserError(f"'{name}' names pictures, but the model is of videos ({plan.backbone}): name some")
        return open_test_clips(name, view, plan, loaded.encoder.backbone, config.skip_broken)

    def warn(name: str, clips: Clips) -> None:
        warn_seen(loaded.seen, clips.dataset.class_names, f"{name} has")

    step = f" {plan.step} apart" if plan.sampling == "window" else ""
    said = f"{view.eval_view} view, {plan.frames} frames ({plan.sampling}{step}) of {plan.size} px, seed {config.seed}"
    cut = {"eval_view": view.eval_view, "size": plan.size, "frames": plan.frames}
    record = {"video": {**cut, "sampling": plan.sampling, "step": plan.step}, "source": loaded.source}
    return Tested(config, loaded, opened, warn, CLIPS, said, record, notes)


def video_model_of(config: Evaluate | Predict) -> VideoModel:
    """Return what the options name of a video model; their defaults are of pictures and count as not named."""
    from tools.video_groups import VideoModel

    model, usual = config.model, Model()
    method = model.method if model.method != usual.method else None
    backbone = model.backbone if model.backbone != usual.backbone else None
    options = dict(config.video.options) | ({"reduce_dim": model.reduce_dim} if model.reduce_dim else {})
    return VideoModel(method, backbone, dict(model.backbone_options), options, dict(model.head))


def notes_on(loaded: LoadedVideo) -> dict[str, str]:
    """Return what a table says of a video model of which a part was not trained, at values that mean something."""
    if loaded.architecture.pooling != "bdc" or loaded.card.get("stage") == "video_tune":
        return {}
    return {"BDC": "of the frozen network's tokens; its temperature is the start value, nothing was trained for it"}


def methods_of(loaded: Loaded) -> tuple[Callable, Callable]:
    """Return (find, create): what looks up a method and what builds its head, for this kind of model."""
    from fewshot.card import Architecture
    from fewshot.methods import create_head, find_method

    if isinstance(loaded.architecture, Architecture):
        return find_method, create_head
    from tools.video.methods import create_video_head, find_video_method

    return find_video_method, create_video_head
