"""The report page of a study: words, figures and tables in one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from backbones.checkpoint import write_atomically


@dataclass(frozen=True)
class PlainTable:
    """Text in rows and columns; the first column names the rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_markdown(self) -> str:
        """Write the table for a README."""
        lines = [list(self.columns), ["---"] + ["---:"] * (len(self.columns) - 1), *map(list, self.rows)]
        return f"{self.caption}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


@dataclass
class Section:
    """A part of the report. figures: (what is shown, PNG file)."""

    title: str
    words: list[str]
    tables: list[PlainTable] = field(default_factory=list)
    figures: list[tuple[str, Path]] = field(default_factory=list)

    def to_markdown(self) -> str:
        """Write the section for a README; figures by their file names."""
        parts = [f"## {self.title}", *self.words, *(f"![{caption}]({file.name})" for caption, file in self.figures)]
        return "\n\n".join([*parts, *(table.to_markdown() for table in self.tables)])


def write_study_page(
    path: Path, title: str, intro: Sequence[str], sections: Sequence[Section], facts: Mapping[str, str]
) -> None:
    """Write the page whole or not at all."""
    import jinja2

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shown = [
        {
            "title": section.title,
            "words": section.words,
            "tables": section.tables,
            "figures": [(caption, _inlined(file)) for caption, file in section.figures],
        }
        for section in sections
    ]
    text = environment.get_template("study.html.j2").render(
        title=title, intro=intro, sections=shown, facts=facts,
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
    )  # fmt: skip
    write_atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def _inlined(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode()
