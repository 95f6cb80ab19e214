"""Drawings over time: handwritten characters as clips in which the pen moves (Omniglot's strokes)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from episodes.errors import UserError, nearest

from .clips import ClipSet
from .readers_stills import ArrayReader

CANVAS, PEN = 105, 3  # side of the recordings and width of the line, pixels
PAUSE_MS = 150  # longer pauses between two points are cut to this: the longest recording lasts 328 s
ARRAYS = ("xy", "t_ms", "stroke_start", "drawing_start", "label", "class_names")


class StrokeOpener:
    """Opens drawing `name` (its number) of a file of strokes as a clip of `frames` frames; picklable."""

    harmless = True  # runs no decoder

    def __init__(self, path: str, frames: int = 32) -> None:
        self.path, self.count = path, frames
        self._arrays: dict[str, np.ndarray] | None = None

    def __call__(self, name: str) -> ArrayReader:
        """Draw one clip; nothing is kept."""
        if self._arrays is None:
            self._arrays = read_arrays(Path(self.path))
        drawing = int(name)
        starts = self._arrays["stroke_start"]
        first, last = self._arrays["drawing_start"][drawing : drawing + 2]
        begin, end = starts[first], starts[last]
        points, times = self._arrays["xy"][begin:end], self._arrays["t_ms"][begin:end]
        breaks = starts[first + 1 : last] - begin
        return ArrayReader(draw(points, times, breaks, self.count), f"{self.path} {name}")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_arrays": None}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file of strokes; raises UserError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read '{path}' as plain arrays ({error})") from error
    missing = next((key for key in ARRAYS if key not in arrays), None)
    if missing:
        raise UserError(f"'{path}' has no array '{missing}': a file of strokes needs {', '.join(ARRAYS)}")
    return arrays


def draw(points: np.ndarray, times: np.ndarray, breaks: np.ndarray, count: int) -> np.ndarray:
    """Return a drawing growing over `count` frames, uint8 (count, 105, 105, 3), dark on light; the last one is whole.

    points: (P, 2) x, y in pixels. times: (P,) ms; steps backwards are taken as none, long pauses are cut.
    breaks: positions of points at which a new stroke starts.
    """
    steps = np.diff(np.maximum.accumulate(times.astype(np.int64)), prepend=int(times[0]))
    clock = np.cumsum(np.minimum(steps, PAUSE_MS))
    until = np.searchsorted(clock, np.linspace(0, clock[-1], count + 1)[1:], side="right")
    until[-1] = len(points)
    image = Image.new("L", (CANVAS, CANVAS), 255)
    pen = ImageDraw.Draw(image)
    lines = [tuple(map(float, point)) for point in points]
    new = set(breaks.tolist())
    frames, done = np.empty((count, CANVAS, CANVAS), np.uint8), 0
    for frame, stop in enumerate(until):
        for place in range(done, stop):
            if place == 0 or place in new:
                x, y = lines[place]
                pen.ellipse((x - PEN / 2, y - PEN / 2, x + PEN / 2, y + PEN / 2), fill=0)
            else:
                pen.line((lines[place - 1], lines[place]), fill=0, width=PEN)
        done = max(done, int(stop))
        frames[frame] = np.asarray(image)
    return np.repeat(frames[..., None], 3, -1)


def stroke_set(path: Path, frames: int = 32, alphabets: list[str] | None = None) -> ClipSet:
    """Drawings of a file of strokes as clips, class = character, sorted by name. Mirror images are other characters.

    frames: of a clip. alphabets: keep only these, if the file has `alphabets` and `class_alphabet`.
    """
    if not path.is_file():
        raise UserError(f"there is no file of strokes '{path}'")
    if frames < 1:
        raise UserError(f"a clip needs at least one frame, not frames={frames}")
    arrays = read_arrays(path)
    names = [str(name) for name in arrays["class_names"]]
    kept = sorted(names)
    if alphabets is not None:
        if "alphabets" not in arrays or "class_alphabet" not in arrays:
            raise UserError(f"'{path}' does not say which alphabet a character is of")
        known = [str(name) for name in arrays["alphabets"]]
        wrong = next((name for name in alphabets if name not in known), None)
        if wrong is not None:
            raise UserError(f"'{path}' has no alphabet '{wrong}'{nearest(wrong, known)}")
        of = {name: known[i] for name, i in zip(names, arrays["class_alphabet"], strict=True)}
        kept = [name for name in kept if of[name] in alphabets]
    number = {names.index(name): i for i, name in enumerate(kept)}
    items = [i for i, label in enumerate(arrays["label"].tolist()) if label in number]
    labels = np.array([number[int(arrays["label"][i])] for i in items])
    return ClipSet([str(i) for i in items], labels, kept, StrokeOpener(str(path), frames), str(path), flip=False)
