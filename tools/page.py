"""One HTML file that shows what the demo found: the table, episodes to look at, curves. It needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from episodes.names import short_names
from tools.charts import comparison_svg, curves_svg, mark, summarise
from tools.table import EpisodePicture, Table

MOST_BYTES = 3_000_000  # a page that can still be sent by mail
SIDES = (96, 64, 48, 32, 24)  # longest side of a picture in pixels; the first that makes the page small enough
PIXELATED = 32  # up to this side pixels are shown as squares and not blurred


@dataclass(frozen=True)
class _Said:
    """What one method said about one query."""

    method: int
    right: bool
    name: str


@dataclass(frozen=True)
class _Query:
    uri: str
    said: list[_Said]
    agreement: str  # all-right, differ or all-wrong
    alt: str
    hint: str


def write_page(
    path: str | Path,
    *,
    title: str,
    intro: str,
    table: Table | Sequence[Table],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    episodes: Sequence[EpisodePicture],
    facts: Mapping[str, str],
    commands: Sequence[str],
    figures: Sequence[tuple[str, str, Path]] = (),
) -> None:
    """Write the page whole or not at all.

    intro: plain text, a blank line starts a paragraph.  table: one or several.  figures: captions, what their marks
    mean, and PNG files, which become part of the page.  curves: name of the run -> history as for
    `episodes.plots.plot_curves`.  commands: what to type, one block each; lines that start with '#' become its caption.
    Raises UserError if the page would have more than 3 MB even with the smallest pictures; ValueError for a history
    without rows and for an episode whose labels, images and predictions do not fit.
    """
    from backbones.checkpoint import write_atomically
    from backbones.errors import UserError

    words = {"title": title, "intro": intro, "facts": facts, "commands": commands, "figures": figures}
    for side in SIDES:
        text = render_page(table=table, curves=curves, episodes=episodes, side=side, **words)
        if len(text.encode()) <= MOST_BYTES:
            break
    else:
        pictures = sum(len(e.support_labels) + len(e.query_labels) for e in episodes)
        raise UserError(
            f"the page would have {len(text.encode()) / 1e6:.1f} MB with its {pictures} pictures, "
            f"more than {MOST_BYTES / 1e6:.0f} MB: show fewer episodes or fewer queries"
        )
    write_atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def render_page(
    *,
    title: str,
    intro: str,
    table: Table | Sequence[Table],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    episodes: Sequence[EpisodePicture],
    facts: Mapping[str, str],
    commands: Sequence[str],
    figures: Sequence[tuple[str, str, Path]] = (),
    side: int = SIDES[0],
) -> str:
    """Return the page as text; arguments as in `write_page`, `side` bounds the pictures' longer side in pixels."""
    import jinja2

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    methods = list(dict.fromkeys(method for episode in episodes for method in episode.predictions))
    return environment.get_template("page.html.j2").render(
        title=title,
        paragraphs=[part.strip() for part in intro.split("\n\n") if part.strip()],
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        tables=[
            (one, [(group, columns, _chart(one, group)) for group, columns in one.column_groups])
            for one in ([table] if isinstance(table, Table) else table)
        ],
        figures=[(caption, words, _inlined(file)) for caption, words, file in figures],
        mark=mark,
        curves=[(name, curves_svg(name, history), summarise(history)) for name, history in curves.items()],
        methods=methods,
        episodes=[_episode(episode, methods, side) for episode in episodes],
        commands=[_command(command) for command in commands],
        facts=facts,
    )


def _chart(table: Table, group: str) -> Markup | None:
    """Return the chart of a group of columns, None where nothing in it was measured."""
    return comparison_svg(table, group) if any(key[1] == group for key in table.cells) else None


def _command(command: str) -> tuple[str, str]:
    """Split a block into its caption (the '#' lines) and what to type."""
    lines = command.strip().splitlines()
    caption = " ".join(line.lstrip("# ").rstrip() for line in lines if line.startswith("#"))
    return caption, "\n".join(line for line in lines if not line.startswith("#"))


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _inlined(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode()


def _data_uri(image: np.ndarray, side: int) -> str:
    """(3, H, W) uint8 as an inlined PNG of at most `side` pixels; grey pictures get one channel to save bytes."""
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    if (image == image[:1]).all():
        picture = picture.convert("L")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _episode(episode: EpisodePicture, methods: list[str], side: int) -> dict[str, Any]:
    """Lay an episode out: one row a class with its supports and queries, and the score of every method."""
    names = short_names(episode.class_names)
    support, query = _array(episode.support_images), _array(episode.query_images)
    support_labels, query_labels = _array(episode.support_labels), _array(episode.query_labels)
    said = {method: _array(labels) for method, labels in episode.predictions.items()}
    sizes = {"queries": len(query_labels), **{method: len(labels) for method, labels in said.items()}}
    if len(support) != len(support_labels) or any(size != len(query) for size in sizes.values()):
        raise ValueError(
            f"episode '{episode.title}' has {len(support)} support and {len(query)} query images, but "
            f"{len(support_labels)} support labels and {sizes} labels: give one for each image"
        )
    real = query_labels >= 0
    scores = {method: int((labels[real] == query_labels[real]).sum()) for method, labels in said.items()}
    rows, best = [], max(scores.values(), default=0)
    for label, name in enumerate(names):
        queries = [
            _query(query[n], side, names, label, [(methods.index(m), m, int(labels[n])) for m, labels in said.items()])
            for n in np.flatnonzero(query_labels == label)
        ]
        supports = [_data_uri(image, side) for image in support[support_labels == label]]
        rows.append({"name": name, "full": episode.class_names[label], "supports": supports, "queries": queries})
    return {
        "title": episode.title,
        "rows": rows,
        "count": int(real.sum()),
        "scores": [(method, score, score == best) for method, score in scores.items()],
        "pixelated": max(query.shape[2:]) <= PIXELATED or side <= PIXELATED,
    }


def _query(image: np.ndarray, side: int, names: list[str], label: int, predicted: list[tuple[int, str, int]]) -> _Query:
    said, words = [], []
    for number, method, guess in predicted:
        name = names[guess] if 0 <= guess < len(names) else "?"
        said.append(_Said(number, guess == label, name))
        words.append(f"{method}: {'right' if guess == label else f'wrong, says {name}'}")
    rights = [one.right for one in said]
    agreement = "all-right" if all(rights) else "differ" if any(rights) else "all-wrong"
    alt = f"query of class {names[label]}; " + "; ".join(words)
    return _Query(_data_uri(image, side), said, agreement, alt, "\n".join([f"true class {names[label]}", *words]))
