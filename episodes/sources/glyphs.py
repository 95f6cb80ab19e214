"""Characters drawn from the fonts that matplotlib ships: many classes, few examples, nothing to download.

class = character, domain = script, items = faces x small seeded affine changes.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from ..dataset import ArraySet
from ..errors import UserError, nearest
from .cache import cached_arrays

# Sixteen text faces; a character is used in those that really have it (8 at least, see glyph_survey.py).
FACES = tuple(
    f"{family}{style}"
    for family, styles in {
        "DejaVuSans": ("", "-Oblique", "-Bold", "-BoldOblique"),
        "DejaVuSerif": ("", "-Italic", "-Bold", "-BoldItalic"),
        "DejaVuSansMono": ("", "-Oblique", "-Bold", "-BoldOblique"),
        "STIXGeneral": ("", "Italic", "Bol", "BolIta"),
    }.items()
    for style in styles
)
VERSION = 1  # part of the cache key: raise it whenever the pictures change


@functools.cache
def script_characters() -> dict[str, str]:
    """The characters of every script, in code point order; look-alikes are already left out (glyph_classes.yaml)."""
    text = Path(__file__).with_name("glyph_classes.yaml").read_text(encoding="utf-8")
    return {script: "".join(lines) for script, lines in yaml.safe_load(text).items()}


def glyph_set(scripts: list[str], size: int = 32, variants: int = 3, seed: int = 0) -> ArraySet:
    """Characters of the given scripts as grey pictures on light paper.

    size: side in pixels.  variants: pictures per face; 3 give every class 24 at least.  seed: of the affine changes
    and grey levels.
    Class names are ``script/CHARACTER U+XXXX``; a picture depends only on (character, face, variant, size, seed).
    The pictures are kept in the cache folder, see `cached_arrays`.
    """
    known = script_characters()
    for script in scripts:
        if script not in known:
            raise UserError(f"there is no script '{script}' among the glyphs{nearest(script, known)}")
    if size < 8 or variants < 1:
        raise UserError(f"glyphs need size >= 8 and variants >= 1, not size={size} and variants={variants}")
    parts = []
    for script in scripts:
        key = f"glyphs-v{VERSION}-{script}-size{size}-variants{variants}-seed{seed}"
        parts.append(cached_arrays(key, functools.partial(_draw_script, known[script], size, variants, seed)))
    offsets = np.cumsum([0] + [len(known[script]) for script in scripts])
    names = [f"{script}/{c} U+{ord(c):04X}" for script in scripts for c in known[script]]
    images = torch.from_numpy(np.concatenate([part["images"] for part in parts]))
    labels = np.concatenate([part["labels"] + offset for part, offset in zip(parts, offsets[:-1], strict=True)])
    return ArraySet(images, labels, names)


def _draw_script(characters: str, size: int, variants: int, seed: int) -> dict[str, np.ndarray]:
    """`images` (N, size, size) uint8 and `labels` (N,), sorted by character, then face, then variant."""
    ink, which, face = draw_characters(characters, 2 * size)  # drawn twice as large, halved after the warp
    changes = np.stack([affine_changes(ord(c), variants, seed) for c in characters])[which, :, face]  # (M, V, 8)
    images = warp(torch.from_numpy(ink), torch.from_numpy(changes).float())
    return {"images": images.flatten(0, 1).numpy(), "labels": np.repeat(which, variants).astype(np.int64)}


@functools.lru_cache(maxsize=64)
def load_face(face: str, pixels: int) -> tuple[ImageFont.FreeTypeFont, frozenset[int]]:
    """The font of a face at an em of `pixels`, and the code points it has."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    path = f"{matplotlib.get_data_path()}/fonts/ttf/{face}.ttf"
    codes = frozenset(FT2Font(path).get_charmap())
    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC), codes


def draw_characters(characters: str, cell: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw every character in every face that has it.

    Returns ink (M, cell, cell) uint8 (255 = full ink), character index (M,), face index (M,), sorted by both.
    The em is 0.6 of the cell and the baseline fixed, so that small and large letters keep their sizes;
    only characters too large for the cell are drawn smaller.
    """
    pictures, which, faces = [], [], []
    for number, face in enumerate(FACES):
        codes = load_face(face, round(0.6 * cell))[1]
        for index, character in enumerate(characters):
            if ord(character) in codes:
                picture = _draw(character, face, cell)
                if picture is not None:
                    pictures.append(picture)
                    which.append(index)
                    faces.append(number)
    order = np.lexsort((faces, which))
    return np.stack(pictures)[order], np.array(which)[order], np.array(faces)[order]


def _draw(character: str, face: str, cell: int) -> np.ndarray | None:
    room, pixels = cell - 2 * (cell // 16), round(0.6 * cell)
    font = load_face(face, pixels)[0]
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    extent = max(right - left, bottom - top)
    if extent == 0:
        return None  # a space: no class
    if extent > room:
        font = load_face(face, int(pixels * room / extent))[0]
        left, top, right, bottom = font.getbbox(character, anchor="ls")
    margin = cell // 16
    y = max(margin - top, min(cell - margin - bottom, round(0.68 * cell)))
    image = Image.new("L", (cell, cell))
    ImageDraw.Draw(image).text(((cell - left - right) / 2, y), character, fill=255, font=font, anchor="ls")
    picture = np.asarray(image)
    return picture if picture.any() else None


def affine_changes(code: int, variants: int, seed: int) -> np.ndarray:
    """Eight uniform numbers in [-1, 1] for every (variant, face) of a character: (variants, faces, 8).

    One seed sequence per (character, variant), so that no picture depends on which others are drawn.
    """
    return np.stack(
        [
            np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(code, variant))).uniform(
                -1, 1, (len(FACES), 8)
            )
            for variant in range(variants)
        ]
    )


def warp(ink: Tensor, changes: Tensor, chunk: int = 2048) -> Tensor:
    """Turn, scale, shear and shift pictures, halve them and give them grey levels.

    ink: (M, 2S, 2S) uint8, 255 = ink.  changes: (M, V, 8) in [-1, 1]: rotation (10 degrees), scale (12 %), aspect
    (8 %), shear (0.12), two shifts (6 % of the side), grey of the ink (0..90), grey of the paper (200..255).
    Returns (M, V, S, S) uint8.
    """
    if len(ink) > chunk:
        return torch.cat([warp(a, b, chunk) for a, b in zip(ink.split(chunk), changes.split(chunk), strict=True)])
    turn, scale, aspect, shear, dx, dy, dark, light = changes.unbind(-1)  # (M, V) each
    angle = turn * (10 * torch.pi / 180)
    scale_x, scale_y = torch.exp(0.12 * scale + 0.08 * aspect), torch.exp(0.12 * scale - 0.08 * aspect)
    cos, sin, shear = angle.cos(), angle.sin(), 0.12 * shear
    rows = [
        cos / scale_x,
        (shear * cos - sin) / scale_y,
        0.12 * dx,
        sin / scale_x,
        (shear * sin + cos) / scale_y,
        0.12 * dy,
    ]
    theta = torch.stack(rows, -1).view(-1, 2, 3)
    variants, cell = changes.shape[1], ink.shape[-1]
    source = ink.float().div(255).repeat_interleave(variants, 0).unsqueeze(1)
    grid = F.affine_grid(theta, [len(source), 1, cell, cell], align_corners=False)
    cover = F.avg_pool2d(F.grid_sample(source, grid, align_corners=False), 2).view(
        len(ink), variants, cell // 2, cell // 2
    )
    paper, ink_grey = (227.5 + 27.5 * light)[..., None, None], (45 + 45 * dark)[..., None, None]
    return (paper + cover * (ink_grey - paper)).round().to(torch.uint8)
