"""``events.csv``: what is seen and heard when, in anybody's own videos. Imports no torch."""

import csv
import io
import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from avcore.errors import DataError, did_you_mean, why

__all__ = ["TABLE", "Row", "Table", "read_table", "settings_in"]

TABLE = "events.csv"
COLUMNS = ("file", "start", "end", "label")
NOTHING = ("", "background")
"""Labels, in small letters, of a video in which nothing happens."""
DELIMITERS = ",;\t"


@dataclass(frozen=True, kw_only=True)
class Row:
    """An event: what is seen and heard in a file from ``start`` to ``end``, s. Without a ``label`` the file has none.

    Attributes:
        line: in the table.
        file: as it is written there.
        split: where there is such a column; empty otherwise.
    """

    line: int
    file: str
    label: str
    start: float = 0.0
    end: float = 0.0
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of a table, how many more of them say what another one says, and the classes in their order."""

    path: Path
    rows: tuple[Row, ...]
    repeated: int

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels in alphabetical order, which is that of their indices."""
        return tuple(sorted({row.label for row in self.rows if row.label}))


def settings_in(root: Path) -> dict[str, list[str]]:
    """The settings that the table decides: the classes (`DatasetSpec.reads`)."""
    return {"task_options.classes": list(read_table(root).classes)}


def read_table(root: Path) -> Table:
    """Read ``events.csv``: columns file, start, end, label in any order, and maybe split; others may be there.

    Commas, semicolons or tabs separate; with the latter two a time may have a decimal comma.

    Raises:
        DataError: there is none, it cannot be read, or a line is malformed; names file and line.
    """
    path = root / TABLE
    if not path.is_file():
        raise DataError(
            f"'{root}' has no {TABLE}: put one beside your videos, with the columns {','.join(COLUMNS)}; start and end "
            "in s."
        )
    header, lines, delimiter = _cells(path)
    places = {name: header.index(name) for name in (*COLUMNS, "split") if name in header}
    found: dict[tuple[str, float, float, str], Row] = {}
    repeated = 0
    for number, cells in lines:
        row = _row(path, number, {name: cells[place] for name, place in places.items()}, delimiter != ",")
        key = (row.file, row.start, row.end, row.label)
        if key in found and found[key].split == row.split:
            repeated += 1
        elif key in found:
            raise DataError(
                f"'{path}' line {number}: the event of line {found[key].line} again, in split '{row.split}' and not "
                f"'{found[key].split}'. Remove one."
            )
        else:
            found[key] = row
    if not any(row.label for row in found.values()):
        raise DataError(f"'{path}' names no event: give at least one row a label.")
    return Table(path=path, rows=tuple(found.values()), repeated=repeated)


def _cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]], str]:
    """The names of the columns in small letters, the cells of each line with its number, and what separates them."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"Cannot read '{path}': {why(error)}.") from None
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not UTF-8 text: save it again as 'CSV UTF-8'.") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells) and cells[0].lower() != "sep=":  # a line that some spreadsheets begin with
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise DataError(f"'{path}' line {reader.line_num}: {error}. Is a quote missing?") from None
    header = [name.lower() for name in lines[0][1]] if lines else []
    for name in COLUMNS:
        if name not in header:
            raise DataError(
                f"'{path}' has no column '{name}' in its first line.{did_you_mean(name, header)} That line must be "
                f"{','.join(COLUMNS)}, and may have a column split."
            )
        if header.count(name) > 1:
            raise DataError(f"'{path}' has several columns '{name}' in its first line.")
    for number, cells in lines[1:]:
        if len(cells) < len(header) or any(cells[len(header) :]):
            raise DataError(
                f"'{path}' line {number} has {len(cells)} cells for {len(header)} columns: '{delimiter.join(cells)}'. "
                f"A cell that holds '{delimiter}' needs quotes around it."
            )
    return header, lines[1:], delimiter


def _row(path: Path, line: int, cells: dict[str, str], comma: bool) -> Row:
    where, split = f"'{path}' line {line}", cells.get("split", "").lower()
    if not cells["file"]:
        raise DataError(f"{where} names no file.")
    if cells["label"].lower() in NOTHING:
        return Row(line=line, file=cells["file"], label="", split=split)
    times = [cells[name].replace(",", ".") if comma else cells[name] for name in ("start", "end")]
    try:
        start, end = map(float, times)
    except ValueError:
        raise DataError(f"{where}: '{cells['start']}' and '{cells['end']}' are no times in s, such as 2.5.") from None
    if not (0 <= start < end and math.isfinite(end)):
        raise DataError(
            f"{where}: an event cannot last from {cells['start']} to {cells['end']} s: start must be 0 or more, and "
            "end above it."
        )
    label = unicodedata.normalize("NFC", cells["label"])
    return Row(line=line, file=cells["file"], label=label, start=start, end=end, split=split)
