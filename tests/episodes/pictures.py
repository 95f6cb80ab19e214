"""Small picture files for the tests of data sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, value: int = 0, size: tuple[int, int] = (9, 7), mode: str = "RGB") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)
    return str(path)


def tree(root: Path, classes: dict[str, int]) -> Path:
    """Class folders with the given numbers of images; image i of class c is grey with value 10 c + i."""
    for number, (name, count) in enumerate(classes.items()):
        for i in range(count):
            save(root / name / f"{i}.png", 10 * number + i)
    return root


def grey(item) -> int:
    image = item[0]
    return int(np.asarray(image)[0, 0, 0])
