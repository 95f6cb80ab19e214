"""How pictures are shown to a classification network: augmented crops in training, one, two or ten crops in tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from backbones.errors import UserError, nearest
from episodes.dataset import ImageSet
from episodes.loaders import Pictures
from episodes.seeds import AUGMENT, derive
from episodes.transforms import normalise_batch, torch_seeded

CROPS = ("imagenet", "centre", "pad")
AUGMENTS = (*CROPS, "standard", "light", "none")
TEST_VIEWS = ("centre", "mirror", "ten")
CROP_SHARE = 0.875  # of the shorter side that the centre crop of ImageNet tests keeps
_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


@dataclass(frozen=True)
class View:
    """How a picture becomes a square of `size` pixels.

    resize: shorter side before the centre crop; None: size / 0.875, and pictures that are size x size already stay.
    squash: resize to a square of `resize`, without keeping the aspect.
    interpolation: bilinear, bicubic or random (either, in training).
    augment: imagenet (random resized crop, flip), centre (as in tests, with flip), pad (an eighth of grey on every
        side, random crop, flip), or none.
    flip: probability. scale, ratio: of the random resized crop: share of the area, width over height.
    colour: strength of colour jitter. randaug: RandAugment in timm's words, as "rand-m9-mstd0.5-inc1"; it takes the
        place of the jitter, as in timm. erasing: probability of a rectangle of noise.
    """

    size: int
    resize: int | None = None
    squash: bool = False
    interpolation: str = "bilinear"
    augment: str = "none"
    flip: float = 0.5
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    colour: float = 0.0
    randaug: str | None = None
    erasing: float = 0.0

    def check(self) -> None:
        """Raise UserError for values that no picture can be shown by."""
        if self.augment not in (*CROPS, "none"):
            raise UserError(f"there is no augmentation '{self.augment}'{nearest(self.augment, AUGMENTS)}")
        if self.interpolation not in (*_MODES, "random"):
            raise UserError(f"there is no interpolation '{self.interpolation}': use bilinear, bicubic or random")
        if self.resize is not None and self.resize < self.size:
            raise UserError(f"data.resize is {self.resize}, smaller than the crop of {self.size} pixels: raise it")
        for name, (low, high), top in (("scale", self.scale, 1.0), ("ratio", self.ratio, np.inf)):
            if not 0 < low <= high <= top:
                raise UserError(f"data.{name} is [{low}, {high}]: give the smallest and the largest value, above 0")


class Shown:
    """Items of a data set as normalised crops.

    views: of a test picture: centre, mirror (the crop and its mirror image) or ten (corners, centre, and mirrors).

    `load` has the form of `episodes.loaders.Pictures`: the batches of training take either.
    """

    def __init__(
        self, dataset: ImageSet, view: View, mean: Sequence[float], std: Sequence[float], views: str = "centre"
    ) -> None:
        view.check()
        if views not in TEST_VIEWS:
            raise UserError(f"there are no test views '{views}'{nearest(views, TEST_VIEWS)}")
        self.dataset, self.view, self.mean, self.std = dataset, view, mean, std
        self.size, self.augment = view.size, view.augment
        self._make = _training(view, mean) if view.augment != "none" else _testing(view, views)
        self._erase = v2.RandomErasing(view.erasing, value="random") if view.erasing else None

    def load(self, indices: np.ndarray | Sequence[int], *seed: int, places: Sequence[int] | None = None) -> Tensor:
        """Return (N, 3, size, size), or (N, V, 3, size, size) of V views; random by `seed` and the place alone."""
        indices = np.asarray(indices).tolist()
        places = range(len(indices)) if places is None else places
        images = [self._one(index, (AUGMENT, *seed, place)) for index, place in zip(indices, places, strict=True)]
        batch = torch.stack(images)
        normal = normalise_batch(batch.flatten(0, -4), self.mean, self.std).view(batch.shape)
        if self._erase is None:
            return normal
        # one part more than the crops, so that the two do not draw the same numbers
        seeds = [derive(AUGMENT, *seed, place, 1) for place in places]
        return torch.stack([_drawn(self._erase, image, one) for image, one in zip(normal, seeds, strict=True)])

    def pixels(self, index: int) -> Tensor:
        """Return a picture in its test view before it is normalised: uint8 (3, size, size), or (V, 3, size, size)."""
        return self._make(self.dataset[index][0])

    def _one(self, index: int, seed: tuple[int, ...]) -> Tensor:
        image = self.dataset[index][0]
        if isinstance(image, Tensor) and self.view.augment != "none":
            image = v2.functional.to_pil_image(image)
        if self.view.augment == "none":
            return self._make(image)
        return _drawn(self._make, image, derive(*seed), everywhere=bool(self.view.randaug))


def show_training(
    dataset: ImageSet, view: View, augment: str, mean: Sequence[float], std: Sequence[float]
) -> Pictures | Shown:
    """Return training pictures; augment "standard", "light": as in the few-shot scripts, fast for sets in memory."""
    if augment not in ("standard", "light"):
        return Shown(dataset, view, mean, std)
    return Pictures(dataset, view.size, mean, std, augment)


def _drawn(transform: Callable[[Any], Any], image: Any, seed: int, everywhere: bool = False) -> Any:
    """Apply a transform whose global generators are seeded for the call and put back afterwards.

    everywhere: also Python's and numpy's, which timm's RandAugment draws from; torchvision draws from torch's.
    """
    if not everywhere:
        with torch_seeded(seed):
            return transform(image)
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is put back)
    try:
        with torch_seeded(seed):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            return transform(image)
    finally:
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002


def _training(view: View, mean: Sequence[float]) -> Callable[[Any], Tensor]:
    """PIL picture -> uint8 (3, size, size)."""
    names = ("bilinear", "bicubic") if view.interpolation == "random" else (view.interpolation,)
    modes = [_MODES[name] for name in names]
    if view.augment == "imagenet":
        crops = [
            v2.RandomResizedCrop(view.size, view.scale, view.ratio, interpolation=mode, antialias=True)
            for mode in modes
        ]
        steps: list[Any] = [crops[0] if len(crops) == 1 else v2.RandomChoice(crops)]
    elif view.augment == "pad":
        whole = v2.Compose([v2.Resize(view.size, interpolation=modes[0], antialias=True), v2.CenterCrop(view.size)])
        steps = [whole, v2.RandomCrop(view.size, padding=max(view.size // 8, 1))]
    else:
        steps = [_fit(view)]
    if view.flip:
        steps.append(v2.RandomHorizontalFlip(view.flip))
    if view.randaug:
        steps.append(_randaug(view.randaug, view.size, mean))
    elif view.colour:
        steps.append(v2.ColorJitter(view.colour, view.colour, view.colour))
    return v2.Compose([*steps, v2.PILToTensor()])


def _randaug(words: str, size: int, mean: Sequence[float]) -> Callable[[Any], Any]:
    """Return timm's RandAugment; raises UserError for words that it does not take."""
    from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

    grey = tuple(min(255, round(255 * value)) for value in mean)
    try:
        makers = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
        make = makers.get(words.split("-")[0], auto_augment_transform)
        # At magnitude 10, which noise may reach, timm keeps no bit of a colour, and Pillow refuses that.
        return make(words, {"translate_const": int(size * 0.45), "img_mean": grey, "magnitude_max": 9.99})
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"data.randaug '{words}' is none of timm's: write, for instance, rand-m9-mstd0.5-inc1 ({error})"
        ) from error


def _fit(view: View) -> Callable[[Any], Any]:
    """Return what makes the test crop of a picture."""
    mode = _MODES.get(view.interpolation, InterpolationMode.BICUBIC)
    side = view.resize or round(view.size / CROP_SHARE)
    resize = v2.Resize([side, side] if view.squash else [side], interpolation=mode, antialias=True)
    crop = v2.CenterCrop(view.size)

    def fit(image: Any) -> Any:
        if view.resize is None and v2.functional.get_size(image) == [view.size, view.size]:
            return image
        return crop(resize(image))

    return fit


def _testing(view: View, views: str) -> Callable[[Any], Tensor]:
    """Picture -> uint8 (3, size, size), or (V, 3, size, size)."""

    def tensor(image: Any) -> Tensor:
        return image if isinstance(image, Tensor) else v2.functional.pil_to_tensor(image)

    if views == "ten":
        mode = _MODES.get(view.interpolation, InterpolationMode.BICUBIC)
        side = view.resize or round(view.size / CROP_SHARE)
        resize = v2.Resize([side, side] if view.squash else [side], interpolation=mode, antialias=True)
        ten = v2.TenCrop(view.size)
        return lambda image: torch.stack(ten(tensor(resize(image))))
    fit = _fit(view)
    if views == "mirror":
        return lambda image: torch.stack([crop := tensor(fit(image)), crop.flip(-1)])
    return lambda image: tensor(fit(image))
