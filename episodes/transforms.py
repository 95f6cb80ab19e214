"""Image transforms of DeepBDC spec 7.4: one image at a time (PIL or tensor), or a whole uint8 batch in one step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from .errors import UserError, nearest

MEAN = (0.472, 0.453, 0.410)  # of every data set of the spec, on [0, 1] RGB
STD = (0.277, 0.268, 0.285)
AUGMENTS = ("standard", "light", "none")


def resize_for(size: int) -> int:
    """Shorter side before the centre crop: 92 for 84, 256 for 224 (spec 7.4), else the 92:84 proportion rounded."""
    return {84: 92, 224: 256}.get(size, round(size * 92 / 84))


def train_transform(
    size: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, augment: str = "standard"
) -> v2.Transform:
    """Training transform: image -> normalised float (3, size, size).

    augment: ``standard`` is RandomResizedCrop with library defaults, flip 0.5, ColorJitter(0.4, 0.4, 0.4), in the order
    of spec 7.4; ``light`` turns (10 degrees), shifts (8 %) and scales (0.9-1.1) only, for characters, which a flip or a
    small crop would change into others; ``none`` is the evaluation transform.
    """
    _check_augment(augment)
    if augment == "none":
        return eval_transform(size, mean, std)
    if augment == "standard":
        steps = [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        ]
        return v2.Compose([*steps, v2.ToImage(), *_finish(mean, std)])
    affine = _PaperAffine(degrees=10, translate=(0.08, 0.08), scale=(0.9, 1.1))
    return v2.Compose([v2.ToImage(), v2.Resize(size, antialias=True), v2.CenterCrop(size), affine, *_finish(mean, std)])


def eval_transform(
    size: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, resize: int | None = None
) -> v2.Transform:
    """Evaluation transform: shorter side to `resize` (default `resize_for(size)`; bilinear, antialias), centre crop.

    image -> normalised float (3, size, size).
    """
    shorter = resize_for(size) if resize is None else resize
    if shorter < size:
        raise UserError(f"resize={shorter} is smaller than the crop of {size} pixels: give resize >= size")
    return v2.Compose([v2.Resize(shorter, antialias=True), v2.CenterCrop(size), v2.ToImage(), *_finish(mean, std)])


class _PaperAffine(v2.RandomAffine):
    """RandomAffine that fills what comes in from outside by repeating the edge, since paper is not black."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        height, width = v2.functional.get_size(inpt)
        border = [width // 4, height // 4]
        padded = v2.functional.pad(inpt, border, padding_mode="edge")
        moved = v2.functional.affine(padded, **params, interpolation=v2.InterpolationMode.BILINEAR)
        return v2.functional.center_crop(moved, [height, width])


def _finish(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def _check_augment(augment: str) -> None:
    if augment not in AUGMENTS:
        raise UserError(f"there is no augmentation '{augment}'{nearest(augment, AUGMENTS)}")


def seeded(transform: Callable[[Any], Any], seed: Sequence[int]) -> Callable[[Any], Any]:
    """`transform` with its randomness taken from `seed`, e.g. (run seed, epoch, item): same seed, same result.

    torchvision's transforms draw from torch's global generator, so it is set for the call and put back afterwards:
    nobody else notices. (Not safe for threads that share the generator; loader workers are processes.)
    """
    state = int(np.random.SeedSequence(tuple(int(part) for part in seed)).generate_state(1, np.uint64)[0])

    def apply(image: Any) -> Any:
        with torch_seeded(state):
            return transform(image)

    return apply


@contextlib.contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator for a while, and put it back.

    Not by `torch.manual_seed`, which takes as long as a small picture's augmentation: it also looks after devices.
    """
    before = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(before)


def normalise_batch(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 (B, 3, H, W), (x / 255 - mean) / std."""
    scale = images.new_tensor([255 * s for s in std], dtype=torch.float32).view(1, -1, 1, 1)
    shift = images.new_tensor([m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32).view(1, -1, 1, 1)
    return images.float() / scale - shift


def eval_batch(
    images: Tensor, size: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, resize: int | None = None
) -> Tensor:
    """`eval_transform` on a uint8 batch (B, 3, H, W) that is already of one size: float (B, 3, size, size).

    A batch of size x size is only normalised, unless `resize` is given: small pictures in memory are made to measure.
    """
    if resize is None and images.shape[-2:] == (size, size):
        return normalise_batch(images, mean, std)
    images = v2.functional.resize(images, [resize_for(size) if resize is None else resize], antialias=True)
    return normalise_batch(v2.functional.center_crop(images, [size, size]), mean, std)


def augment_batch(
    images: Tensor,
    generator: torch.Generator,
    size: int,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    augment: str = "standard",
    places: Sequence[int] | None = None,
) -> Tensor:
    """`train_transform` on a whole batch, with parameters of its own for every image.

    images: uint8 (B, 3, H, W), on any device.  generator: a CPU generator; the same state gives the same result.
    places: (B,) of the images in a larger batch, whose parameters they get; default 0, 1, ...
    Returns float (B, 3, size, size). Crops are sampled bilinearly without antialias (one grid for crop and flip), so
    `standard` on images much larger than `size` is a little sharper than `train_transform`.
    """
    _check_augment(augment)
    if augment == "none":
        return eval_batch(images, size, mean, std)
    count, _, height, width = images.shape
    places = range(count) if places is None else places
    draws = torch.rand(max(places, default=-1) + 1, 16, generator=generator)[list(places)].to(images.device)
    boxes = _light_boxes if augment == "light" else _crop_boxes
    theta = boxes(draws, height, width)
    grid = F.affine_grid(theta, [count, 1, size, size], align_corners=False)
    pixels = F.grid_sample(images.float() / 255, grid, padding_mode="border", align_corners=False)
    if augment == "standard":
        pixels = _jitter_colour(pixels, draws[:, 10:])
    centre = pixels.new_tensor(mean).view(1, -1, 1, 1)
    return (pixels - centre) / pixels.new_tensor(std).view(1, -1, 1, 1)


def _crop_boxes(draws: Tensor, height: int, width: int, attempts: int = 3) -> Tensor:
    """Affine maps (B, 2, 3) of random resized crops (area 0.08-1, aspect 3/4-4/3 log-uniform) with flips of 0.5.

    torchvision tries ten times for a box that fits and then takes the centre; three tries and then a clip to the image
    differ in few of the draws, and need no loop over images.
    """
    box_w = torch.full_like(draws[:, 0], -1.0)
    box_h = box_w.clone()
    for i in range(attempts):
        area = (0.08 + 0.92 * draws[:, 2 * i]) * height * width
        aspect = torch.exp((2 * draws[:, 2 * i + 1] - 1) * float(np.log(4 / 3)))
        w, h = torch.sqrt(area * aspect), torch.sqrt(area / aspect)
        fits = (w <= width) & (h <= height)
        fresh = (box_w < 0) & (fits | (i == attempts - 1))
        box_w = torch.where(fresh, w.clamp(max=width), box_w)
        box_h = torch.where(fresh, h.clamp(max=height), box_h)
    scale_x, scale_y = box_w / width, box_h / height
    centre_x = (2 * draws[:, 6] - 1) * (1 - scale_x)
    centre_y = (2 * draws[:, 7] - 1) * (1 - scale_y)
    scale_x = torch.where(draws[:, 8] < 0.5, -scale_x, scale_x)
    zero = torch.zeros_like(scale_x)
    return torch.stack([scale_x, zero, centre_x, zero, scale_y, centre_y], -1).view(-1, 2, 3)


def _light_boxes(draws: Tensor, height: int, width: int) -> Tensor:
    """Affine maps (B, 2, 3): the largest centred square, turned by 10 degrees, shifted by 8 %, scaled by 0.9-1.1."""
    side = min(height, width)
    angle = (2 * draws[:, 0] - 1) * (10 * torch.pi / 180)
    zoom = 1 / (0.9 + 0.2 * draws[:, 1])
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    dx, dy = 0.16 * (2 * draws[:, 2] - 1), 0.16 * (2 * draws[:, 3] - 1)
    x, y = side / width, side / height
    return torch.stack([cos * x, -sin * x, dx * x, sin * y, cos * y, dy * y], -1).view(-1, 2, 3)


def _jitter_colour(pixels: Tensor, draws: Tensor, strength: float = 0.4) -> Tensor:
    """Brightness, contrast and saturation of (B, 3, H, W) in [0, 1] by factors of 1 +- strength, order drawn per image.

    As torchvision's ColorJitter: contrast mixes with the mean grey of the image, saturation with its grey version.
    """
    factors = (1 + strength * (2 * draws[:, :3] - 1)).unbind(1)
    order = draws[:, 3:6].argsort(1)  # (B, 3): which of the three comes first, second, third
    luma = pixels.new_tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
    for step in range(3):
        kind = order[:, step].view(-1, 1, 1, 1)
        factor = torch.stack(factors, 1).gather(1, order[:, step : step + 1]).view(-1, 1, 1, 1)
        grey = (pixels * luma).sum(1, keepdim=True)
        other = torch.where(
            kind == 0, torch.zeros_like(grey), torch.where(kind == 1, grey.mean((2, 3), keepdim=True), grey)
        )
        pixels = (factor * pixels + (1 - factor) * other).clamp(0, 1)
    return pixels
