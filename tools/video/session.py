"""From options to clips: training, validation and test videos, cut as the options say. All is checked before work."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from backbones import UserError
from tools.session import warn_shared
from tools.video.models import VideoArchitecture
from tools.video_groups import Videos, View
from video.clips import Clips, ClipSet
from video.clips_cache import cached_clips
from video.clips_open import open_clips
from video.clips_views import ClipView
from video.frames import FrameSampling


def open_clip_set(
    spec: str, backend: str = "auto", store: int | None = None, size: int = 1, skip_broken: bool = False
) -> ClipSet:
    """Open labelled videos by their text, from a store of decoded frames where asked.

    store: short side of the kept frames. size: of the clips to be cut, which the store must not be below.
    """
    if store is not None and store < size:
        raise UserError(f"store is {store}, below the {size} pixels that clips are cut from: raise it, or leave it out")
    dataset = open_clips(spec, skip_broken=skip_broken, backend=backend)
    return dataset if store is None else cached_clips(dataset, store)


def view_of(augment: str, size: int, backbone: nn.Module, flip: bool) -> ClipView:
    """Return the view of an augmentation of `Videos`; mean and deviation are the backbone's."""
    plain = {"size": size, "mean": backbone.mean, "std": backbone.std}
    if augment == "none":
        return ClipView(**plain)
    if augment == "reference":
        return ClipView(view="reference", flip=flip, **plain)
    return ClipView(view="train", augment=augment, flip=flip, **plain)


def open_videos(
    data: Videos,
    backbone: nn.Module,
    size: int | None = None,
    sampling: FrameSampling | None = None,
    new_classes: bool = True,
) -> tuple[Clips, Clips | None]:
    """Open the training and the validation videos, the latter always in the deterministic view.

    size: side of a clip; null takes `data.size`, then the backbone's. sampling: null takes the options' own.
    new_classes: raise UserError where training has less than two classes, and warn where validation has some of them.
    """
    size = size or data.size or backbone.input_size
    sampling = sampling or FrameSampling(data.sampling, data.frames, data.step)
    center = view_of("none", size, backbone, False)
    least = center.short if data.augment == "none" else size

    def opened(spec: str, augment: str, least: int) -> Clips:
        dataset = open_clip_set(spec, data.backend, data.store, least, data.skip_broken)
        flip = dataset.flip if data.flip is None else data.flip
        return Clips(dataset, view_of(augment, size, backbone, flip), sampling, data.limit_s)

    train = opened(data.train, data.augment, least)
    if new_classes and len(train.dataset.class_names) < 2:
        raise UserError(f"{data.train} has one class: training needs two at least")
    if data.val is None:
        return train, None
    val = opened(data.val, "none", center.short)
    if new_classes:
        warn_seen(train.dataset.class_names, val.dataset.class_names, f"{data.val} has")
    return train, val


def open_test_clips(
    spec: str, view: View, plan: VideoArchitecture, backbone: nn.Module, skip_broken: bool = False
) -> Clips:
    """Open test videos as the view says, and the checkpoint where it says nothing."""
    kind = "none" if view.eval_view == "center" else "reference"
    cut = view_of(kind, plan.size, backbone, flip=False)
    dataset = open_clip_set(
        spec, view.backend, view.store, cut.short if kind == "none" else plan.size, skip_broken=skip_broken
    )
    if kind == "reference":
        cut = view_of(kind, plan.size, backbone, dataset.flip)
    sampling = FrameSampling(plan.sampling, plan.frames, plan.step)
    return Clips(dataset, cut, sampling, view.limit_s, readers=max(1, view.workers))


def warn_seen(known: Sequence[str], new: Sequence[str], what: str) -> None:
    """Warn when classes that should be new were trained on.

    Names that lists without names have ("class 3") count for nothing: the numbers of two lists may mean other classes.
    """
    named = [name for name in known if not name.removeprefix("class ").isdigit()]
    warn_shared(named, new, what, "training")
