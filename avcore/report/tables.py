"""Tables of results for the terminal, for Markdown pages and as JSON. Standard library only.

A cell is text, a number, a `Spread` (mean and standard deviation over seeds), or None for "not measured". Whole
numbers get thousands separators; other numbers get two decimals. A column of numbers is aligned to the right.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Cell", "Spread", "brought_by", "format_cell", "render_markdown", "render_table", "to_json"]

EMPTY = "–"
GAP = "  "


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a score over ``count`` seeds, both in the unit of the score."""

    mean: float
    sd: float
    count: int | None = None

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.sd:.2f}" + (f" (n = {self.count})" if self.count is not None else "")


Cell = str | int | float | Spread | None


def format_cell(cell: Cell) -> str:
    """One cell as text: ``1,234,567``, ``61.25``, ``61.25 ± 0.40``, ``yes``, ``–`` for None."""
    match cell:
        case None:
            return EMPTY
        case bool():
            return "yes" if cell else "no"
        case int():
            return f"{cell:,}"
        case float():
            return f"{cell:,.2f}"
        case _:
            return str(cell)


def brought_by(shapley: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Mapping[str, float]]:
    """What each stream brings to the scores of a split (`RunResult.shapley`), by the label of its row."""
    words = {"visual": "the pictures", "audio": "the sound"}
    return {
        f"{split}, brought by {words[stream]}": scores
        for split, streams in shapley.items()
        for stream, scores in streams.items()
    }


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float | Spread) and not isinstance(cell, bool)


def _check(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"Row {number} has {len(row)} cells for {len(columns)} columns: {list(row)}.")


def _numeric(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[bool]:
    """Which columns hold numbers (and nothing else, gaps aside)."""
    filled = [[row[index] for row in rows if row[index] is not None] for index in range(len(columns))]
    return [bool(cells) and all(_is_number(cell) for cell in cells) for cells in filled]


def render_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], title: str | None = None) -> str:
    """Plain text with aligned columns, a rule under the header and no trailing newline.

    Args:
        columns: the header.
        rows: one cell for each column.
        title: a line above the table.

    Raises:
        ValueError: a row has another number of cells than the header.
    """
    _check(columns, rows)
    right = _numeric(columns, rows)
    lines = [list(columns), *([format_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]

    def aligned(line: Sequence[str]) -> str:
        cells = (
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        )
        return GAP.join(cells).rstrip()

    rule = GAP.join("─" * width for width in widths)
    head = [] if title is None else [title, ""]
    return "\n".join([*head, aligned(lines[0]), rule, *map(aligned, lines[1:])])


def render_markdown(columns: Sequence[str], rows: Sequence[Sequence[Cell]], title: str | None = None) -> str:
    """The same table in Markdown, columns of numbers aligned to the right; see `render_table`."""
    _check(columns, rows)

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "|" + "|".join("---:" if right else "---" for right in _numeric(columns, rows)) + "|"
    head = [] if title is None else [f"**{title}**", ""]
    return "\n".join([*head, line(columns), rule, *(line([format_cell(cell) for cell in row]) for row in rows)])


def to_json(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """The rows as a JSON list of objects keyed by the header; a `Spread` becomes ``{"mean", "sd", "count"}``."""
    _check(columns, rows)

    def plain(cell: Cell) -> Any:
        return {"mean": cell.mean, "sd": cell.sd, "count": cell.count} if isinstance(cell, Spread) else cell

    records = [dict(zip(columns, map(plain, row), strict=True)) for row in rows]
    return json.dumps(records, indent=2, ensure_ascii=False)
