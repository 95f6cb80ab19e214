"""Decides which characters are classes of the `glyphs` source and writes glyph_classes.yaml.

Run ``python -m episodes.sources.glyph_survey`` after a change of rules; the list is kept in the repository so that the
classes are the same whatever fonts a later matplotlib ships.

Scripts are meant as separate domains, so a character is dropped when it looks like one of an earlier script or like an
earlier one of its own script: equal after taking away position and size (o against O, Latin A against Greek A).
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from .glyphs import FACES, draw_characters, load_face

SCRIPTS = ("latin", "greek", "cyrillic", "armenian", "georgian", "symbols")
MIN_FACES = 8
# Cosine similarity of size-normalised pictures, median over common faces. Set by looking at the pairs around it.
SAME_SCRIPT, OTHER_SCRIPT = 0.95, 0.90
# Latin, Greek, Cyrillic, Armenian, Georgian; ASCII punctuation and digits.
BY_EYE = "°⸮¡⊖ͺˌ"  # alike to a reader, though the measure just misses them
CORE = (
    (0x41, 0x5A),
    (0x61, 0x7A),
    (0x391, 0x3A9),
    (0x3B1, 0x3C9),
    (0x410, 0x44F),
    (0x531, 0x587),
    (0x10A0, 0x10FF),
    (0x21, 0x40),
)
SYMBOL_CATEGORIES = {"Sm", "So", "Sc", "Po", "Ps", "Pe", "Nd", "Pc"}
NOT_SYMBOLS = (
    "BRAILLE",
    "BOX DRAWINGS",
    "COMBINING",
    "VARIATION",
    "MODIFIER",
    "SUPERSCRIPT",
    "SUBSCRIPT",
    "VULGAR",
    "QUADRANT",
    "REPLACEMENT",
    "OBJECT",
)
BLOCKS = (0x2580, 0x259F)  # solid blocks differ only in place and size


def candidates() -> dict[str, str]:
    """Characters that at least MIN_FACES faces have, by script."""
    counts: dict[int, int] = {}
    for face in FACES:
        for code in load_face(face, 32)[1]:
            counts[code] = counts.get(code, 0) + 1
    found: dict[str, list[str]] = {script: [] for script in SCRIPTS}
    for code in sorted(code for code, faces in counts.items() if faces >= MIN_FACES):
        character, name = chr(code), unicodedata.name(chr(code), "")
        if character in BY_EYE or BLOCKS[0] <= code <= BLOCKS[1]:
            continue
        script, category = name.split(" ")[0].lower(), unicodedata.category(character)
        if script in found and category.startswith("L") and category != "Lm":
            found[script].append(character)
        elif category in SYMBOL_CATEGORIES and not name.startswith(NOT_SYMBOLS) and script not in found:
            found["symbols"].append(character)
    return {script: "".join(characters) for script, characters in found.items()}


def normalised(ink: np.ndarray, side: int = 32) -> Tensor:
    """Crop pictures (M, H, W) to their ink, fit them into a square, proportions kept, blur: unit rows (M, side**2)."""
    out = torch.zeros(len(ink), 1, side, side)
    room = side - 4
    for i, picture in enumerate(ink):
        rows, columns = np.flatnonzero(picture.max(1) > 40), np.flatnonzero(picture.max(0) > 40)
        crop = torch.from_numpy(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]).float()[None, None]
        high, wide = crop.shape[2:]
        scale = room / max(high, wide)
        high, wide = max(1, round(high * scale)), max(1, round(wide * scale))
        top, left = (side - high) // 2, (side - wide) // 2
        fitted = F.interpolate(crop, (high, wide), mode="bilinear", antialias=True, align_corners=False)
        out[i, :, top : top + high, left : left + wide] = fitted[0]
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    out = F.conv2d(F.conv2d(out, kernel.view(1, 1, 3, 1), padding=(1, 0)), kernel.view(1, 1, 1, 3), padding=(0, 1))
    return F.normalize(out.flatten(1), dim=1)


def similarity(characters: str, cell: int = 64) -> np.ndarray:
    """Median over common faces of the cosine between normalised pictures: (n, n); -1 where no face is common."""
    ink, which, face = draw_characters(characters, cell)
    rows = normalised(ink)
    layers = np.full((len(FACES), len(characters), len(characters)), np.nan, dtype=np.float32)
    for number in range(len(FACES)):
        mine = np.flatnonzero(face == number)
        if len(mine):
            layers[number][np.ix_(which[mine], which[mine])] = (rows[mine] @ rows[mine].T).numpy()
    layers[0][np.isnan(layers).all(0)] = -1.0
    return np.nanmedian(layers, axis=0)


def base_letter(character: str) -> str:
    """The letter without its marks: A for an accented A."""
    return unicodedata.normalize("NFKD", character)[0]


def _is_core(character: str) -> bool:
    """The everyday letters and digits of a script: they are placed first, so that the Greek sigma stays Greek."""
    return any(low <= ord(character) <= high for low, high in CORE)


def decide(found: dict[str, str], alike: np.ndarray) -> tuple[dict[str, str], dict[str, str]]:
    """Kept characters by script, and for each dropped one the kept character that it looks like."""
    everything = "".join(found.values())
    script_of = np.repeat(np.arange(len(found)), [len(text) for text in found.values()])
    kept: list[int] = []
    dropped: dict[str, str] = {}
    foreign: set[str] = set()  # letters that look like one of another script: their accented forms go too
    for index in sorted(range(len(everything)), key=lambda i: (not _is_core(everything[i]), i)):
        close = np.zeros(0, bool)
        if kept:
            limits = np.where(script_of[kept] == script_of[index], SAME_SCRIPT, OTHER_SCRIPT)
            close = alike[index, kept] >= limits
        character = everything[index]
        if close.any():
            twin = kept[int(np.argmax(np.where(close, alike[index, kept], -1)))]
            dropped[character] = everything[twin]
            if script_of[twin] != script_of[index]:
                foreign.add(character)
        elif base_letter(character) != character and base_letter(character) in foreign:
            dropped[character] = dropped[base_letter(character)]
        else:
            kept.append(index)
    kept.sort()
    names = list(found)
    return {name: "".join(everything[i] for i in kept if script_of[i] == s) for s, name in enumerate(names)}, dropped


def main() -> None:
    """Write glyph_classes.yaml next to this file and print the counts."""
    found = candidates()
    kept, _ = decide(found, similarity("".join(found.values())))
    for script, characters in kept.items():
        print(f"{script}: {len(characters)} of {len(found[script])} characters kept")
    lines = {script: [text[i : i + 64] for i in range(0, len(text), 64)] for script, text in kept.items()}
    head = "# Written by glyph_survey.py: the characters that are classes of the glyphs source, by script.\n"
    text = yaml.safe_dump(lines, allow_unicode=True, sort_keys=False, width=200)
    Path(__file__).with_name("glyph_classes.yaml").write_text(head + text, encoding="utf-8")


if __name__ == "__main__":
    main()
