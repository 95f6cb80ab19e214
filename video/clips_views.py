"""From frames to a clip for the network, (3, T, S, S) float32, with the same parameters for all frames.

Three views: `center` (short side, centre crop; nothing random), `train` (random crop, flip, RandAugment, erasing) and
`reference` (TAMT's own transform, which its code uses in training and test alike, specification 10.3).

The functionals of torchvision v2 do what they can do with the same numbers: crops with resizing, and the operations of
RandAugment on tensors. Its transform classes draw from the global generator, so draws are ours; Pillow does what the
reference does with Pillow (bicubic turns and shears with a fill); normalising is one pass from uint8, which is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from episodes.errors import UserError, nearest
from episodes.seeds import derive

from .clips_crops import Box, centre_box, multi_scale_box, random_crop_box, random_erase_box, short_side
from .clips_randaug import apply_to_clip, apply_to_image, draw_operations
from .readers import VideoReader

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as VideoMAE and TAMT use them
STD = (0.229, 0.224, 0.225)
VIEWS = ("center", "train", "reference")
AUGMENTS = ("randaug", "crop", "multiscale")
# The decoder scales frames for a crop where this leaves a fourth of them or less, or whole ones would take more memory.
SMALLER, WHOLE_BYTES = 4, 64 << 20


@dataclass
class Draws:
    """Everything random about one clip: numpy's legacy generator, Python's and torch's, as in the reference code."""

    numpy: np.random.RandomState
    python: Random
    torch: torch.Generator

    @classmethod
    def of(cls, *parts: int) -> Draws:
        """Return independent generators for a tuple of numbers, as of `episodes.seeds.derive`."""
        seeds = [derive(*parts, place) for place in (1, 2, 3)]
        generator = torch.Generator().manual_seed(seeds[2])
        return cls(np.random.RandomState(np.random.MT19937(seeds[0])), Random(seeds[1]), generator)

    @classmethod
    def replay(cls, seed: int) -> Draws:
        """Return the generators of a program that set all three global seeds to one number."""
        return cls(np.random.RandomState(seed), Random(seed), torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class ClipView:
    """How frames become the network's input.

    size: side in pixels. view: center, train or reference, see above.
    augment: of the train view: randaug (TAMT 10.3), crop (random resized crop and flip alone) or multiscale (VideoMAE's
        pre-training: corner crops of four scales, no flip).
    flip: allow mirror images; off for classes that tell left from right.
    resize: short side of the center view; default size * 256 / 224.
    order: of the train view. fast decodes at the size of the crop and augments the small frames; reference augments
        whole frames first and then crops, 3 to 10 times slower at 720p; the two differ in distribution.
    """

    size: int = 112
    view: Literal["center", "train", "reference"] = "center"
    augment: Literal["randaug", "crop", "multiscale"] = "randaug"
    flip: bool = True
    resize: int | None = None
    order: Literal["fast", "reference"] = "fast"
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD

    def __post_init__(self) -> None:
        for name, value, known in (
            ("view", self.view, VIEWS),
            ("augmentation of clips", self.augment, AUGMENTS),
            ("order of clip transforms", self.order, ("fast", "reference")),
        ):
            if value not in known:
                raise UserError(f"there is no {name} '{value}'{nearest(value, known)}")
        if self.size < 1 or self.short < self.size:
            raise UserError(f"a clip of {self.size} pixels cannot be cut from a short side of {self.short}")

    @property
    def short(self) -> int:
        """Short side of the center view before its crop."""
        return round(self.size * 256 / 224) if self.resize is None else self.resize

    @property
    def random(self) -> bool:
        """Whether two looks at a video differ."""
        return self.view != "center"

    def clip(self, video: VideoReader, indices: Any, draws: Draws | None = None) -> Tensor:
        """Read the frames at `indices` (T,) and return (3, T, size, size) float32; draws: unless the view is center."""
        if self.view == "center":
            height, width = short_side(video.height, video.width, self.short)
            frames = cut(video.frames(indices, (height, width)), centre_box(height, width, self.size))
            return normalise(frames, self.mean, self.std)
        if draws is None:
            raise ValueError(f"the {self.view} view is random: give it Draws")
        if self.view == "reference" or (self.order == "reference" and self.augment == "randaug"):
            return reference_clip(video.frames(indices), self.size, draws, self.flip, self.mean, self.std)
        return self._train(video, indices, draws)

    def _train(self, video: VideoReader, indices: Any, draws: Draws) -> Tensor:
        """Crop and resize first, in the decoder; then augment what is left."""
        if self.augment == "multiscale":
            box = multi_scale_box(video.height, video.width, self.size, draws.python)
        else:
            box = random_crop_box(video.height, video.width, draws.python)
        frames = crop_while_decoding(video, indices, box, self.size)
        if self.flip and self.augment != "multiscale" and draws.python.random() < 0.5:
            frames = frames[:, :, ::-1]
        if self.augment != "randaug":
            return normalise(frames, self.mean, self.std)
        clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        for operation, argument in draw_operations(draws.numpy, draws.python)[1]:
            clip = apply_to_clip(clip, operation, argument)
        out = normalise(clip.permute(0, 2, 3, 1).numpy(), self.mean, self.std)
        return erase(out, random_erase_box(self.size, self.size, draws.python), draws.torch)


def crop_while_decoding(video: VideoReader, indices: Any, box: Box, size: int) -> np.ndarray:
    """Return a box of the frames at size x size, uint8 (T, size, size, 3).

    Frames are decoded at the scale at which the box has that size, each axis by itself, so nothing is resized twice.
    Small frames, for which the decoder's scaling would cost more than it saves, are decoded whole and the box is
    resized (bilinear, antialiased), which differs by a grey level or two.
    """
    top, left, height, width = box
    scale_y, scale_x = size / height, size / width
    full = max(size, round(video.height * scale_y)), max(size, round(video.width * scale_x))
    pixels = video.height * video.width
    if full[0] * full[1] * SMALLER > pixels and len(indices) * pixels * 3 <= WHOLE_BYTES:
        whole = torch.from_numpy(video.frames(indices)).permute(0, 3, 1, 2)
        return F.resized_crop(whole, *box, [size, size], antialias=True).permute(0, 2, 3, 1).numpy()
    top, left = min(round(top * scale_y), full[0] - size), min(round(left * scale_x), full[1] - size)
    return cut(video.frames(indices, full), (top, left, size, size))


def cut(frames: np.ndarray, box: Box) -> np.ndarray:
    """Return a box of uint8 frames (T, H, W, 3), as a view."""
    top, left, height, width = box
    return frames[:, top : top + height, left : left + width]


def normalise(frames: np.ndarray, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Return uint8 frames (T, H, W, 3) as float32 (3, T, H, W), (x / 255 - mean) / std."""
    clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).to(torch.float32).contiguous()
    scale = torch.tensor([1 / (255 * s) for s in std]).view(3, 1, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)]).view(3, 1, 1, 1)
    return clip.mul_(scale).sub_(shift)


def resized_crop(clip: Tensor, box: Box, size: int) -> Tensor:
    """Cut a box from (C, T, H, W) and resize it, bilinear, corners not aligned, without antialiasing (TAMT 10.3)."""
    return F.resized_crop(clip, *box, [size, size], InterpolationMode.BILINEAR, antialias=False)


def erase(clip: Tensor, box: Box | None, generator: torch.Generator) -> Tensor:
    """Fill a box of a clip (3, T, H, W), the same in all frames, with fresh normal noise, frame by frame; in place."""
    if box is not None:
        top, left, height, width = box
        for frame in range(clip.shape[1]):
            noise = torch.empty(clip.shape[0], height, width, dtype=clip.dtype).normal_(generator=generator)
            clip[:, frame, top : top + height, left : left + width] = noise
    return clip


def reference_clip(
    frames: np.ndarray,
    size: int,
    draws: Draws,
    flip: bool = True,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Tensor:
    """TAMT's clip transform, in its order and with its draws (specification 10.3).

    frames: uint8 (T, H, W, 3), whole. Whole frames are augmented before they are cropped, hence the cost (1 s at 720p).
    flip: False leaves the mirror image out, and its draw with it untouched in the order of all others.
    """
    images = [Image.fromarray(frame) for frame in frames]
    for operation, argument in draw_operations(draws.numpy, draws.python)[1]:
        images = [apply_to_image(image, operation, argument) for image in images]
    pixels = np.stack([np.asarray(image) for image in images])
    box = random_crop_box(*pixels.shape[1:3], draws.python, spare=draws.numpy)
    # The reference normalises whole frames; the numbers are the same, and a crop of them takes less memory as floats.
    clip = resized_crop(normalise(cut(pixels, box), mean, std), (0, 0, *box[2:]), size)
    if draws.numpy.uniform() < 0.5 and flip:
        clip = clip.flip(-1)
    return erase(clip.contiguous(), random_erase_box(size, size, draws.python), draws.torch)
