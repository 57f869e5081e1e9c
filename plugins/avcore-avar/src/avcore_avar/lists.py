"""Text files that list clips. Imports no torch."""

import csv
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

from avcore.data.lines import read_lines
from avcore.errors import DataError

__all__ = ["Entry", "once", "read_rows", "without_repeats"]

T = TypeVar("T")

_logger = logging.getLogger("avcore.avar")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A clip of a list.

    Attributes:
        clip: its name.
        label: its class, as the list has it: an index, or a name.
        line: where it stands, from 1.
    """

    clip: str
    label: int | str
    line: int


def once(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """A function that reads a file once as long as it stays as it is: lists are asked for classes, splits and clips."""
    kept = lru_cache(maxsize=8)(lambda path, changed: read(path))

    @wraps(read)
    def reading(path: Path) -> T:
        try:
            changed = (path.stat().st_mtime_ns, path.stat().st_size)
        except OSError:
            return read(path)  # which says what is wrong
        return kept(path, changed)

    return reading


def read_rows(path: Path, columns: str, parse: Callable[[list[str]], tuple[str, int | str] | None]) -> list[Entry]:
    """The clips of a table whose cells are parted by commas; a cell that holds one stands in double quotes.

    Args:
        path: of the file.
        columns: what they are, such as ``clip,10,label``, for messages.
        parse: the clip and the label that the cells of a line say; None for a line that is left out. Raises
            ValueError that says what is wrong with them.

    Raises:
        DataError: the file cannot be read, or a line has other columns or is wrong; names it.
    """
    found = []
    wanted = columns.count(",") + 1
    for number, line in read_lines(path):
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], strict=True, skipinitialspace=True))]
            if len(cells) != wanted:
                quote = "; a cell with a comma in it stands in double quotes" if len(cells) > wanted else ""
                raise ValueError(f"has {len(cells)} columns, not the {wanted} of {columns}{quote}")
            said = parse(cells)
        except (ValueError, csv.Error) as error:
            wrong = f"is no row of {columns} ({error})" if isinstance(error, csv.Error) else str(error)
            raise DataError(f"'{path}' line {number} {wrong}: '{line}'.") from None
        if said is not None:
            found.append(Entry(clip=said[0], label=said[1], line=number))
    return found


def without_repeats(path: Path, entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Each clip once. Lines that repeat one are told and left out.

    Raises:
        DataError: a clip is listed under two classes.
    """
    first: dict[str, Entry] = {}
    repeated: list[Entry] = []
    for entry in entries:
        before = first.setdefault(entry.clip, entry)
        if before.label != entry.label:
            raise DataError(
                f"'{path}' lists '{entry.clip}' as {before.label} in line {before.line} and as {entry.label} in line "
                f"{entry.line}: remove the wrong one."
            )
        if before is not entry:
            repeated.append(entry)
    if repeated:
        one = repeated[0]
        _logger.warning(
            f"'{path}' lists {len(repeated)} clips again, which count once, the first of them '{one.clip}' in lines "
            f"{first[one.clip].line} and {one.line}."
        )
    return tuple(first.values())
