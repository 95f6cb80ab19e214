"""RandAugment with increasing severity, policy m7-n4-mstd0.5 (TAMT 10.3, step 1): draws, and two ways to apply them.

`apply_to_image` is exact to the reference (Pillow, 8 bits); `apply_to_clip` does the same to all frames at once on
tensors, which is many times faster, and turns and shears with bilinear instead of bicubic resampling.
"""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
FILL = (128, 128, 128)
# Argument at magnitude m of 10: signed ones are drawn with either sign.
_ENHANCE = ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing")
_SLOPES = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}
_SLOPES |= dict.fromkeys(_ENHANCE, 0.9)


def level(operation: str, magnitude: float) -> list[float] | None:
    """Return the possible arguments of an operation at a magnitude of 0..10, ascending; None where it takes none."""
    part = magnitude / 10
    if operation in _SLOPES:
        change = part * _SLOPES[operation]
        if operation in _ENHANCE:  # factors around 1
            return sorted({max(0.1, 1 - change), max(0.1, 1 + change)})
        return sorted({-change, change})
    if operation == "PosterizeIncreasing":
        return [4 - int(part * 4)]
    if operation == "SolarizeIncreasing":
        return [256 - int(part * 256)]
    if operation == "SolarizeAdd":
        return [min(128, int(part * 110))]
    if operation in OPERATIONS:
        return None
    raise ValueError(f"there is no operation '{operation}': it must be one of {', '.join(OPERATIONS)}")


def draw_operations(
    numbers: np.random.RandomState,
    rng: Random,
    magnitude: float = 7.0,
    magnitude_std: float = 0.5,
    layers: int = 4,
    probability: float = 0.5,
    operations: tuple[str, ...] = OPERATIONS,
) -> tuple[list[int], list[tuple[str, float | None]]]:
    """Draw what happens to a clip: the chosen positions in `operations`, and those applied with their arguments.

    numbers: chooses, with replacement. rng: per choice a gate, a magnitude, and a sign where there are two.
    """
    chosen = numbers.choice(len(operations), layers, replace=True).tolist()
    applied: list[tuple[str, float | None]] = []
    for place in chosen:
        if rng.random() > probability:
            continue
        drawn = min(10.0, max(0.0, rng.gauss(magnitude, magnitude_std)))
        arguments = level(operations[place], drawn)
        if arguments is None:
            applied.append((operations[place], None))
        else:
            minus = operations[place] in _SLOPES and rng.random() > 0.5
            applied.append((operations[place], arguments[0 if minus else -1]))
    return chosen, applied


def apply_to_image(image: Image.Image, operation: str, argument: float | None) -> Image.Image:
    """Apply one operation to an RGB image, bicubic, grey where nothing was."""
    where = {"resample": Image.Resampling.BICUBIC, "fillcolor": FILL}
    affine = Image.Transform.AFFINE
    match operation:
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
        case "Invert":
            return ImageOps.invert(image)
        case "Rotate":
            return image.rotate(argument, **where)
        case "PosterizeIncreasing":
            return image if argument >= 8 else image.point(_high_bits(int(argument)))
        case "SolarizeIncreasing":
            return ImageOps.solarize(image, int(argument))
        case "SolarizeAdd":
            return image.point([min(255, v + int(argument)) if v < 128 else v for v in range(256)] * 3)
        case "ColorIncreasing":
            return ImageEnhance.Color(image).enhance(argument)
        case "ContrastIncreasing":
            return ImageEnhance.Contrast(image).enhance(argument)
        case "BrightnessIncreasing":
            return ImageEnhance.Brightness(image).enhance(argument)
        case "SharpnessIncreasing":
            return ImageEnhance.Sharpness(image).enhance(argument)
        case "ShearX":
            return image.transform(image.size, affine, (1, argument, 0, 0, 1, 0), **where)
        case "ShearY":
            return image.transform(image.size, affine, (1, 0, 0, argument, 1, 0), **where)
        case "TranslateXRel":
            return image.transform(image.size, affine, (1, 0, argument * image.width, 0, 1, 0), **where)
        case "TranslateYRel":
            return image.transform(image.size, affine, (1, 0, 0, 0, 1, argument * image.height), **where)
    raise ValueError(f"there is no operation '{operation}': it must be one of {', '.join(OPERATIONS)}")


def apply_to_clip(clip: Tensor, operation: str, argument: float | None) -> Tensor:
    """Apply one operation with one argument to all frames of a clip, uint8 (T, 3, H, W)."""
    match operation:
        case "AutoContrast":
            return F.autocontrast(clip)
        case "Equalize":
            return F.equalize(clip)
        case "Invert":
            return F.invert(clip)
        case "Rotate":
            return _move(clip, angle=-argument)
        case "PosterizeIncreasing":
            return F.posterize(clip, int(argument))
        case "SolarizeIncreasing":
            return clip ^ (clip >= int(argument)).to(torch.uint8).mul_(255) if argument < 256 else clip
        case "SolarizeAdd":  # torchvision has no such operation
            return clip + (clip < 128).to(torch.uint8).mul_(min(128, int(argument)))
        case "ColorIncreasing":
            return F.adjust_saturation(clip, argument)
        case "ContrastIncreasing":
            return F.adjust_contrast(clip, argument)
        case "BrightnessIncreasing":
            return F.adjust_brightness(clip, argument)
        case "SharpnessIncreasing":
            return sharpened(clip, argument)
        case "ShearX":
            return _move(clip, shear=(float(np.degrees(np.arctan(argument))), 0.0), center=[0, 0])
        case "ShearY":
            return _move(clip, shear=(0.0, float(np.degrees(np.arctan(argument)))), center=[0, 0])
        case "TranslateXRel":
            return _move(clip, translate=(-argument * clip.shape[-1], 0.0))
        case "TranslateYRel":
            return _move(clip, translate=(0.0, -argument * clip.shape[-2]))
    raise ValueError(f"there is no operation '{operation}': it must be one of {', '.join(OPERATIONS)}")


def _high_bits(bits: int) -> list[int]:
    return [v & ~(2 ** (8 - bits) - 1) for v in range(256)] * 3


def sharpened(clip: Tensor, factor: float) -> Tensor:
    """Return what torchvision's `adjust_sharpness` does, to the bit, ten times faster: sums instead of a convolution.

    clip: uint8 (..., H, W). The blurred picture is (the 3x3 around + 4 times the pixel) / 13; edges stay as they are.
    """
    if min(clip.shape[-2:]) < 3:
        return clip
    pixels = clip.to(torch.float32)
    inner = pixels[..., 1:-1, 1:-1]
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :]
    rows += pixels[..., 2:, :]
    blurred = torch.add(rows[..., 1:-1], inner, alpha=4.0)
    blurred.add_(rows[..., :-2]).add_(rows[..., 2:]).mul_(1 / 13).round_()
    inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return pixels.clamp_(0, 255).to(torch.uint8)


def _move(clip: Tensor, angle=0.0, translate=(0.0, 0.0), shear=(0.0, 0.0), center=None) -> Tensor:
    return F.affine(
        clip,
        angle=angle,
        translate=list(translate),
        scale=1.0,
        shear=list(shear),
        interpolation=InterpolationMode.BILINEAR,
        fill=[float(v) for v in FILL],
        center=center,
    )
