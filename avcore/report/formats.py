"""Tables of results for papers and other programs: CSV, LaTeX, HTML. Standard library only; see `tables`."""

import csv
import io
import re
from collections.abc import Sequence
from html import escape

from avcore.report.tables import Cell, Spread, format_cell, render_markdown

__all__ = ["FORMATS", "render", "render_csv", "render_html", "render_latex"]

FORMATS = ("markdown", "csv", "latex", "html")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"}


def render(form: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], title: str, notes: Sequence[str]) -> str:
    """A table in one of `FORMATS`, with a title and lines below it; CSV has neither."""
    match form:
        case "csv":
            return render_csv(columns, rows)
        case "latex":
            return render_latex(columns, rows, title, notes)
        case "html":
            return render_html(columns, rows, title, notes)
        case _:
            return "\n".join(
                [render_markdown(columns, rows, title or None), *(f"\n{_in_markdown(one)}" for one in notes)]
            )


def render_csv(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Numbers as they are, a spread as two columns (``X``, ``X sd``), nothing for what was not measured."""
    spread = [any(isinstance(row[place], Spread) for row in rows) for place in range(len(columns))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([text for title, wide in zip(columns, spread, strict=True) for text in _twice(title, wide)])
    for row in rows:
        cells: list[Cell] = []
        for cell, wide in zip(row, spread, strict=True):
            if isinstance(cell, Spread):
                cells += [cell.mean, cell.sd]
            else:
                cells += [cell, None] if wide else [cell]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue().rstrip("\n")


def render_latex(columns: Sequence[str], rows: Sequence[Sequence[Cell]], title: str, notes: Sequence[str]) -> str:
    """A ``table`` with booktabs' rules, the notes as comments."""
    numbers = [all(not isinstance(row[place], str) for row in rows) for place in range(len(columns))]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numbers)}}}",
        r"\toprule",
        " & ".join(map(_in_latex, columns)) + r" \\",
        r"\midrule",
        *(" & ".join(_in_latex(format_cell(cell)) for cell in row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *([rf"\caption{{{_in_latex(title)}}}"] if title else []),
        *(f"% {' '.join(note.split())}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines)


def render_html(columns: Sequence[str], rows: Sequence[Sequence[Cell]], title: str, notes: Sequence[str]) -> str:
    """One ``table`` and a paragraph for each note; whatever a name contains is text."""
    head = "".join(f"<th>{escape(one)}</th>" for one in columns)
    body = [f"<tr>{''.join(f'<td>{escape(format_cell(cell))}</td>' for cell in row)}</tr>" for row in rows]
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    parts = ["<table>", caption, f"<thead><tr>{head}</tr></thead>", "<tbody>", *body, "</tbody>", "</table>"]
    return "\n".join([*filter(None, parts), *(f"<p>{escape(note)}</p>" for note in notes)])


def _twice(title: str, wide: bool) -> list[str]:
    return [title, f"{title} sd"] if wide else [title]


def _in_latex(text: str) -> str:
    return re.sub(r"[\\~^±–&%$#_{}]", lambda one: _LATEX.get(one[0], f"\\{one[0]}"), text)


def _in_markdown(text: str) -> str:
    return " ".join(text.replace("<", "&lt;").split())
