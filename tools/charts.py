"""Small charts as SVG text for the page: they scale with it, take its colours, and tell their numbers on hovering."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

from tools.table import Table

WIDTH = 320  # units of every chart; a card of the page is about as many pixels wide, so that 11 units can be read
LEFT, RIGHT_EDGE = 40, 314
MARK = 12  # units between the marks of a method's columns
LONGEST = 18  # letters of a method's name in one line
MOST_POINTS = 200  # as many hover strips as a chart can use; of longer runs every n-th epoch gets one


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that span [low, high] from outside, about `most` steps of 1, 2 or 5 times a power of ten."""
    span = high - low if high > low else max(abs(high), 1.0)
    step = 10.0 ** math.floor(math.log10(span / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), math.floor(low / step + 1e-9) + 1)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _svg(height: float, label: str, parts: Sequence[str]) -> Markup:
    start = f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}">'
    return Markup(start + "".join(parts) + "</svg>")


def _number(row: Mapping[str, float], key: str) -> float | None:
    value = row.get(key)
    return None if value is None or not math.isfinite(value) else float(value)


def _describe(epoch: float, row: Mapping[str, float]) -> str:
    """All numbers of an epoch, for the tooltip."""
    lines = [f"epoch {epoch:g}"]
    for key, name in (("loss", "loss"), ("val_loss", "validation loss")):
        if (value := _number(row, key)) is not None:
            lines.append(f"{name} {value:.3f}")
    for key, name in (("accuracy", "accuracy"), ("val_accuracy", "validation accuracy")):
        if (value := _number(row, key)) is not None:
            width = _number(row, "val_interval") if key == "val_accuracy" else None
            lines.append(f"{name} {100 * value:.2f}" + (f" ± {100 * width:.2f} %" if width is not None else " %"))
    if (value := _number(row, "lr")) is not None:
        lines.append(f"learning rate {value:.3g}")
    return "\n".join(lines)


def _epochs(history: Sequence) -> str:
    return f"{len(history)} epoch{'s' if len(history) > 1 else ''}"


def summarise(history: Sequence[Mapping[str, float]]) -> str:
    """Say in one sentence what a run reached: its best validation accuracy, or else its last numbers."""
    scored = [(n, row) for n, row in enumerate(history) if _number(row, "val_accuracy") is not None]
    if scored:
        number, row = max(scored, key=lambda pair: pair[1]["val_accuracy"])
        width = _number(row, "val_interval")
        best = f"{100 * row['val_accuracy']:.2f}" + (f" ± {100 * width:.2f}" if width is not None else "")
        return f"{_epochs(history)}, best validation accuracy {best} % (epoch {row.get('epoch', number):g})"
    parts = [f"loss {history[-1]['loss']:.3f}"] if _number(history[-1], "loss") is not None else []
    if (last := _number(history[-1], "accuracy")) is not None:
        parts.append(f"training accuracy {100 * last:.2f} %")
    return f"{_epochs(history)}, at the end " + (" and ".join(parts) or "nothing measured")


def _polyline(points: Sequence[tuple[float, float | None]], style: str) -> str:
    """A line with gaps where there is no number; a number between two gaps becomes a dot."""
    runs, run = [], []
    for x, y in [*points, (0, None)]:
        if y is not None:
            run.append((x, y))
        elif run:
            runs.append(run)
            run = []
    return "".join(
        f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in run)}"/>'
        if len(run) > 1
        else f'<circle class="{style} dot" cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="2.5"/>'
        for run in runs
    )


def _band(rows: Sequence[Mapping[str, float]], xs: Sequence[float], place: Callable[[float], float]) -> str:
    edges = [
        (x, place(value - width), place(value + width))
        for x, row in zip(xs, rows, strict=True)
        if (value := _number(row, "val_accuracy")) is not None and (width := _number(row, "val_interval")) is not None
    ]
    outline = [(x, low) for x, low, _ in edges] + [(x, high) for x, _, high in reversed(edges)]
    return f'<polygon class="band" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in outline)}"/>' if edges else ""


def curves_svg(name: str, history: Sequence[Mapping[str, float]]) -> Markup:
    """Draw accuracy above loss against the epoch; rows as in `episodes.plots.plot_curves`.

    Raises ValueError for a history without rows.
    """
    if not history:
        raise ValueError(f"the curves of '{name}' have no epoch to draw: leave them out")
    epochs = [float(row.get("epoch", number)) for number, row in enumerate(history)]
    x_ticks = nice_ticks(epochs[0], epochs[-1], 6)
    reach = max(epochs[-1] - epochs[0], 1e-9)
    xs = [LEFT + (RIGHT_EDGE - LEFT) * (epoch - epochs[0]) / reach for epoch in epochs]
    parts, top = [], 26
    for title, keys, height, unit in (("accuracy", ("accuracy", "val_accuracy"), 130, "%"),
                                      ("loss", ("loss", "val_loss"), 80, "")):  # fmt: skip
        values = [value for row in history for key in keys if (value := _number(row, key)) is not None]
        if not values:
            continue
        ticks = nice_ticks(min(values), max(values), 4 if unit else 3)
        if unit:  # no accuracy lies beyond these, so no line should stand there
            ticks = [tick for tick in ticks if 0 <= tick <= 1]
        low, high = min(ticks[0], *values), max(ticks[-1], *values)

        def place(value: float, low=low, high=high, top=top, height=height) -> float:
            return top + height * (1 - (min(max(value, low), high) - low) / (high - low))

        parts.append(f'<text class="head" x="0" y="{top - 13}">{title}</text>')
        for tick in ticks:
            y, label = place(tick), f"{100 * tick:.4g} %" if unit else f"{tick:g}"
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT_EDGE}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>')
        if unit:
            parts.append(_band(history, xs, place))
        for key, style in zip(keys, ("train", "valid"), strict=True):
            numbers = (_number(row, key) for row in history)
            points = [(x, None if value is None else place(value)) for x, value in zip(xs, numbers, strict=True)]
            parts.append(_polyline(points, style))
        top += height + 40
    bottom = top - 40
    for tick in x_ticks:
        if epochs[0] <= tick <= epochs[-1] and tick == int(tick):
            x = LEFT + (RIGHT_EDGE - LEFT) * (tick - epochs[0]) / reach
            parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="tick" x="0" y="{bottom + 16}">epoch</text>')
    every = -(-len(history) // MOST_POINTS)
    wide = (RIGHT_EDGE - LEFT) * every / max(len(history) - 1, 1)
    for x, epoch, row in list(zip(xs, epochs, history, strict=True))[::every]:
        parts.append(
            f'<rect class="hover" x="{x - wide / 2:.1f}" y="12" width="{wide:.1f}" height="{bottom - 12}">'
            f"<title>{escape(_describe(epoch, row))}</title></rect>"
        )
    return _svg(bottom + 24, f"{name}: {summarise(history)}", parts)


def mark(column: int, x: float = 6, y: float = 6) -> Markup:
    """The mark of a group's column: circle, square, diamond, triangle, full or empty, so that no colour is needed."""
    style = f'class="mark c{column % 2}"'
    shapes = (
        f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="3"/>',
        f'<rect {style} x="{x - 2.7:.1f}" y="{y - 2.7:.1f}" width="5.4" height="5.4"/>',
        f'<path {style} d="M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z"/>',
        f'<path {style} d="M{x:.1f} {y - 3.8:.1f}l3.8 6.8h-7.6z"/>',
    )
    return Markup(shapes[column % 4])


def group_ticks(table: Table) -> dict[str, list[float]]:
    """Ticks of the accuracy axis of every group: each starts below its own cells, and all span as much.

    So a difference of one point is as long in every chart, and no domain is squeezed because another one is harder.
    """
    ends: dict[str, tuple[float, float]] = {}
    for (_, group, _), cell in table.cells.items():
        if math.isfinite(cell.mean):
            low, high = ends.get(group, (1.0, 0.0))
            ends[group] = min(low, max(cell.mean - cell.interval, 0)), max(high, min(cell.mean + cell.interval, 1))
    if not ends:
        return {group: [0, 0.25, 0.5, 0.75, 1] for group, _ in table.column_groups}
    own = nice_ticks(0, max(high - low for low, high in ends.values()), 4)
    step = own[1]
    starts = {group: math.floor(low / step + 1e-9) for group, (low, _) in ends.items()}
    steps = max(math.ceil(high / step - 1e-9) - starts[group] for group, (_, high) in ends.items())
    ticks = {}
    for group, _ in table.column_groups:
        start = max(min(starts.get(group, 0), round(1 / step) - steps), 0)
        ticks[group] = [round((start + number) * step, 10) for number in range(steps + 1)]
    return ticks


def _lines(name: str) -> list[str]:
    """Break the name of a method into two lines of at most LONGEST letters, cut where that is not enough."""
    lines = textwrap.wrap(name, 15 if len(name) < 20 else LONGEST, break_on_hyphens=False) or [""]
    lines = [lines[0], " ".join(lines[1:])] if len(lines) > 1 else lines
    return [line if len(line) <= LONGEST else line[: LONGEST - 1] + "…" for line in lines]


def comparison_svg(table: Table, group: str) -> Markup:
    """Draw one group of columns: a row a method, in it a mark with its interval for each column."""
    ticks = group_ticks(table)[group]
    columns = dict(table.column_groups)[group]
    names = {row: _lines(row) for row in table.row_names}
    left = max(104, 10 + 6.7 * max(len(line) for lines in names.values() for line in lines))
    pitch, top = max(36, MARK * len(columns) + 14), 8
    bottom = top + pitch * len(table.row_names)

    def place(value: float) -> float:
        return left + (RIGHT_EDGE - 6 - left) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    parts = []
    for tick in ticks:
        x, label = place(tick), f"{100 * tick:.4g}" + (" %" if tick == ticks[-1] else "")
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
    for number, row in enumerate(table.row_names):
        middle = top + pitch * (number + 0.5)
        for at, line in enumerate(lines := names[row]):
            y = middle + 4 + 14 * (at - (len(lines) - 1) / 2)
            parts.append(f'<text class="name" x="0" y="{y:.1f}">{escape(line)}<title>{escape(row)}</title></text>')
        for position, column in enumerate(columns):
            cell = table.cells.get((row, group, column))
            if cell is None or not math.isfinite(cell.mean):
                continue
            y = middle + (position - (len(columns) - 1) / 2) * MARK
            x1, x2 = place(max(cell.mean - cell.interval, 0)), place(min(cell.mean + cell.interval, 1))
            said = escape(f"{row}, {group}, {column}: {cell.percent} ± {cell.half_width} %")
            best = " best" if table.is_best(row, group, column) else ""
            caps = f"M{x1:.1f} {y - 4.5:.1f}v9M{x2:.1f} {y - 4.5:.1f}v9"
            span = f'<path class="span" d="M{x1:.1f} {y:.1f}H{x2:.1f}{caps}"/>'
            point = mark(position, place(cell.mean), y)
            parts.append(f'<g class="point{best}"><title>{said}</title>{span}{point}</g>')
    rows = ", ".join(table.row_names)
    return _svg(bottom + 22, f"{group}: {table.measure} of {rows} with intervals, as in the table", parts)
