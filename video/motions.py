"""`motions`: small real films of digits and letters that move, drawn and encoded once, nothing to download.

class = how the figure moves (36 programs, see `video.motions_programs`), items = other figures, sizes, speeds, places;
domain = what it looks like. Films are H.264 in class folders of the cache folder (COVEY_CACHE, else ~/.cache/covey).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

import filelock
import numpy as np
import torch
from torch.nn import functional as F

from episodes.errors import UserError, nearest
from episodes.progress import Progress
from episodes.run import write_json
from episodes.sources.cache import cache_folder

from .clips import ClipSet
from .motions_programs import MOTIONS
from .readers import VideoOpener

VERSION = 1  # part of the folder's name: raise it whenever the films change
FRAMES, RATE = 24, 12
SPRITE = 32  # side of a figure before it is scaled
# Figures, and how they look: colours of ink and paper, texture of the paper.
DOMAINS = {
    "digits": ("digits", "paper"),  # handwritten, dark on light
    "latin": ("latin", "paper"),
    "greek": ("greek", "paper"),
    "night": ("digits", "night"),  # bright on dark, with noise
    "colour": ("latin", "colour"),  # coloured, before a coloured landscape of soft blobs
}


def motion_set(
    domain: str, parts: list[str] | None = None, size: int = 64, items: int = 20, opener: VideoOpener | None = None
) -> ClipSet:
    """Films of one domain, or of several joined by + (digits+night); draws and encodes them on first use.

    parts: train (18 classes), val (8), test (10), in this order; pairs of opposite motions are never parted. None: all.
    size: side in pixels. items: films a class and domain. A film depends on (domain, class, item, size) alone.
    """
    domains = list(dict.fromkeys(domain.split("+")))
    for name in domains:
        if name not in DOMAINS:
            raise UserError(f"there is no domain '{name}' among the motions{nearest(name, DOMAINS)}")
    if size < 16 or size % 2 or items < 1:
        raise UserError(f"motions need an even size >= 16 and items >= 1, not size={size} and items={items}")
    folders = [_films(name, size, items) for name in domains]
    chosen = [name for name, motion in MOTIONS.items() if not parts or motion.part in parts]
    if parts:  # classes are numbered across the parts in their order
        chosen.sort(key=lambda name: parts.index(MOTIONS[name].part))
    names = [str(folder / name / f"{item:03}.mp4") for folder in folders for name in chosen for item in range(items)]
    labels = np.tile(np.repeat(np.arange(len(chosen)), items), len(folders))
    return ClipSet(names, labels, chosen, opener or VideoOpener(), f"motions:{'+'.join(domains)}", flip=False)


def _films(domain: str, size: int, items: int) -> Path:
    """Return the folder of a domain's films, which are drawn where they are not there yet."""
    folder = cache_folder() / f"motions-v{VERSION}-{domain}-size{size}-items{items}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            if not _whole(folder):
                _make(folder, domain, size, items)
    except OSError as error:
        raise UserError(
            f"cannot keep films in '{folder}' ({error.strerror or error}): name another folder by COVEY_CACHE"
        ) from error
    return folder


def _whole(folder: Path) -> bool:
    """Whether all films are there, of the size with which they were written."""
    try:
        sizes = json.loads((folder / "films.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _make(folder: Path, domain: str, size: int, items: int) -> None:
    """Write all films beside the folder, then put it in its place: nobody sees half of them."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        figures = _figures(DOMAINS[domain][0])
        sizes = {}
        with Progress(len(MOTIONS) * items, f"motions:{domain}") as bar:
            for number, name in enumerate(MOTIONS):
                (temporary / name).mkdir()
                for item in range(items):
                    frames = draw_film(domain, number, item, size, figures)
                    path = temporary / name / f"{item:03}.mp4"
                    encode(path, frames)
                    sizes[f"{name}/{path.name}"] = path.stat().st_size
                    bar.advance()
        write_json(temporary / "films.json", sizes)
        shutil.rmtree(folder, ignore_errors=True)
        os.chmod(temporary, 0o755)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _figures(kind: str) -> torch.Tensor:
    """Return figures (N, SPRITE, SPRITE) float, 1 = ink."""
    if kind == "digits":
        from episodes.sources.digits import digit_set

        images = digit_set(SPRITE).images.float()
    else:
        from episodes.sources.glyphs import glyph_set

        images = glyph_set([kind], SPRITE).images.float()
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    return (high - images) / (high - low).clamp_min(1)


def draw_film(domain: str, number: int, item: int, size: int, figures: torch.Tensor) -> np.ndarray:
    """Return the frames (T, size, size, 3) uint8 of one film; number: of the motion."""
    places = list(DOMAINS)
    rng = np.random.default_rng(np.random.SeedSequence((places.index(domain), number, item), spawn_key=(VERSION,)))
    motion = list(MOTIONS.values())[number]
    pause = rng.uniform(0, 0.15, 2)  # the figure rests a little at both ends
    t = np.linspace(-pause[0], 1 + pause[1], FRAMES).clip(0, 1)
    x, y, angle, wide, high, ink = motion.course(t).table(FRAMES).T
    half = rng.uniform(0.3, 0.4)
    room = 1 - half
    shift = rng.uniform(-0.08, 0.08, 2)
    lean = rng.uniform(-0.25, 0.25)
    cover = _place(
        _tight(figures[int(rng.integers(len(figures)))]),
        room * rng.uniform(0.85, 1.0) * x + shift[0],
        room * rng.uniform(0.85, 1.0) * y + shift[1],
        angle + lean,
        half * wide,
        half * high,
        size,
    )
    cover = cover * torch.from_numpy(ink).float()[:, None, None, None]
    paper, colour = _look(DOMAINS[domain][1], size, rng)
    film = paper[None] + cover * (colour[:, None, None] - paper[None])
    if DOMAINS[domain][1] == "night":
        film = film + 10 * torch.from_numpy(rng.standard_normal((FRAMES, 1, size, size))).float()
    return film.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _tight(figure: torch.Tensor) -> torch.Tensor:
    """Cut a figure's empty margins off, to a square."""
    rows, columns = torch.nonzero(figure > 0.2, as_tuple=True)
    middle = (int(rows.min() + rows.max()) // 2, int(columns.min() + columns.max()) // 2)
    reach = max(2, int(torch.stack([rows.max() - rows.min(), columns.max() - columns.min()]).max()) // 2 + 2)
    padded = F.pad(figure, (reach, reach, reach, reach))
    return padded[middle[0] : middle[0] + 2 * reach + 1, middle[1] : middle[1] + 2 * reach + 1]


def _place(figure: torch.Tensor, x, y, angle, wide, high, size: int) -> torch.Tensor:
    """Draw a figure at T places: (T, 1, size, size) cover 0..1. wide, high: half sizes, 1 is half of the canvas."""
    cos, sin = np.cos(angle), np.sin(angle)
    rows = [[cos / wide, sin / wide], [-sin / high, cos / high]]  # canvas to figure
    theta = np.stack([np.stack([*row, -(row[0] * x + row[1] * y)], -1) for row in rows], 1)  # (T, 2, 3)
    grid = F.affine_grid(torch.from_numpy(theta).float(), [len(theta), 1, size, size], align_corners=False)
    return F.grid_sample(figure.expand(len(theta), 1, -1, -1), grid, align_corners=False)


def _look(kind: str, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the paper (3, size, size) and the colour of ink (3,), 0..255."""
    if kind == "colour":
        blobs = torch.from_numpy(rng.uniform(70, 185, (1, 3, 4, 4))).float()
        paper = F.interpolate(blobs, (size, size), mode="bicubic", align_corners=False)[0]
        colour = torch.from_numpy(rng.uniform(0, 255, 3)).float()
        away = colour - paper.mean((1, 2))  # the figure must stand out
        return paper, (paper.mean((1, 2)) + away.sign() * away.abs().clamp_min(110)).clamp(0, 255)
    dark, light = rng.uniform(0, 60), rng.uniform(200, 255)
    paper, ink = (dark, light) if kind == "night" else (light, dark)
    return torch.full((3, size, size), paper), torch.full((3,), ink)


def encode(path: Path, frames: np.ndarray, rate: int = RATE) -> None:
    """Write frames (T, H, W, 3) uint8 as an mp4: H.264, or MPEG-4 part 2 where this FFmpeg has no encoder of it."""
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"preset": "veryfast", "crf": "18", "threads": "1"} if codec == "libx264" else {"qscale": "3"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
