"""Tables of a grid as LaTeX, ready to paste into a paper that loads booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from tools.table import Table

SPECIAL = {"\\": r"\textbackslash{}", **{letter: f"\\{letter}" for letter in "&%$#_{}"}, "~": r"\textasciitilde{}",
           "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "<": "$<$", ">": "$>$"}  # fmt: skip


def escape(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def to_latex(tables: Sequence[Table], sources: Sequence[str], caption: str, label: str) -> str:
    """Write the tables of all sources as one: a block of rows a source, the best of each column in bold.

    Needs \\usepackage{booktabs}. tables: one a source, with the same columns. Notes stand below the table.
    """
    columns, first = tables[0].columns, 2
    tops, rules = [], []
    for group, names in tables[0].column_groups:
        tops.append(rf"\multicolumn{{{len(names)}}}{{c}}{{{escape(group)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + len(names) - 1}}}")
        first += len(names)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & " + " & ".join(tops) + r" \\",
        " ".join(rules),
        "Method & " + " & ".join(escape(name) for _, name in columns) + r" \\",
    ]
    notes: dict[str, str] = {}
    for table, source in zip(tables, sources, strict=True):
        lines.append(r"\midrule")
        if len(tables) > 1:
            lines += [rf"\multicolumn{{{len(columns) + 1}}}{{l}}{{\emph{{trained on {escape(source)}}}}} \\"]
        for row in table.row_names:
            values = [_value(table, row, group, column) for group, column in columns]
            lines.append(" & ".join([escape(row), *values]) + r" \\")
        notes |= table.notes
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip\footnotesize {escape(key)}: {escape(text)}." for key, text in notes.items()]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _value(table: Table, row: str, group: str, column: str) -> str:
    cell = table.cells.get((row, group, column))
    if cell is None:
        return escape(table.absent(row, group, column))
    mean = rf"\textbf{{{cell.percent}}}" if table.is_best(row, group, column) else cell.percent
    return rf"{mean} {{\scriptsize$\pm$\,{cell.half_width}}}"
