"""Any picture that PIL opens, as eight-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image, UnidentifiedImageError


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the picture in mode RGB; transparent parts become white, as a browser shows them.

    Deep grey is scaled to eight bits, where PIL alone would cut it off at 255: 16-bit grey by 1/257. Modes I and F (32
    bits, from TIFF) do not say what their white is; it is taken to be the smallest of 1 (F only), 255 and 65535 that
    no pixel exceeds, else the brightest pixel. Pixels below 0 and NaN become black.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    pixels = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16") or image.format == "PNG":  # older releases of PIL open such a PNG as mode I
        white = 65535.0
    else:
        brightest = pixels.max(initial=0.0)
        usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        white = next((level for level in usual if brightest <= level), brightest)
    return Image.fromarray(np.rint(np.clip(pixels / white, 0, 1) * 255).astype(np.uint8))


def reason(error: Exception) -> str:
    """Say why a picture cannot be read; PIL alone would name the object that it was given, with its address."""
    return "it is no picture, or of an unknown kind" if isinstance(error, UnidentifiedImageError) else str(error)
