"""AVE's text files: one event a line, ``Category&VideoID&Quality&StartTime&EndTime``. Imports no torch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from avcore.data.lines import read_lines
from avcore.errors import DataError

__all__ = [
    "ANNOTATIONS",
    "CLASSES",
    "FOLDER",
    "ClipEvent",
    "classes_in",
    "find_root",
    "read_classes",
    "read_events",
    "read_list",
    "settings_in",
]

ANNOTATIONS = "Annotations.txt"
FOLDER = "AVE_Dataset"
"""How the official archive calls the folder of the files."""


CLASSES = (
    *("Church bell", "Male speech, man speaking", "Bark", "Fixed-wing aircraft, airplane", "Race car, auto racing"),
    *("Female speech, woman speaking", "Helicopter", "Violin, fiddle", "Flute", "Ukulele", "Frying (food)", "Truck"),
    *("Shofar", "Motorcycle", "Acoustic guitar", "Train horn", "Clock", "Banjo", "Goat", "Baby cry, infant cry", "Bus"),
    *("Chainsaw", "Cat", "Horse", "Toilet flush", "Rodents, rats, mice", "Accordion", "Mandolin"),
)
"""The 28 events of AVE in the order of their indices."""

FIELDS = 5
HEADER = ("category", "videoid")


@dataclass(frozen=True)
class ClipEvent:
    """A line: what is seen and heard in a clip from ``start`` to ``end``, s; nowhere when they are equal."""

    category: str
    video: str
    start: float
    end: float


def _is_header(line: str) -> bool:
    names = [cell.strip().lower().replace(" ", "") for cell in line.split("&")]
    return tuple(names[:2]) == HEADER


def read_events(path: Path) -> list[ClipEvent]:
    """The events of ``Annotations.txt`` or of a split's text file, in the order of the lines.

    A first line of column names is left out and does not count as a row.

    Raises:
        DataError: the file cannot be read, a line is malformed, the same as another one, or names a class in other
            letters than an earlier line; says which.
    """
    events: dict[ClipEvent, int] = {}
    spelt: dict[str, str] = {}
    for place, (number, line) in enumerate(read_lines(path)):
        if place == 0 and _is_header(line):
            continue
        # From the right, in case a name of a class holds the separator.
        cells = [cell.strip() for cell in line.rsplit("&", FIELDS - 1)]
        if len(cells) != FIELDS or not cells[0] or not cells[1] or not all(cell.isprintable() for cell in cells):
            raise DataError(f"'{path}' line {number} is not Category&VideoID&Quality&StartTime&EndTime: {line!r}.")
        try:
            start, end = float(cells[3]), float(cells[4])
        except ValueError:
            raise DataError(f"'{path}' line {number}: '{cells[3]}' and '{cells[4]}' are no times in s.") from None
        if not 0 <= start <= end < math.inf:
            raise DataError(f"'{path}' line {number}: an event cannot last from {cells[3]} to {cells[4]} s.")
        known = spelt.setdefault(" ".join(cells[0].casefold().split()), cells[0])
        if known != cells[0]:
            raise DataError(
                f"'{path}' line {number}: class '{cells[0]}' is '{known}' in an earlier line. Write it in one way."
            )
        event = ClipEvent(cells[0], cells[1], start, end)
        if event in events:
            raise DataError(f"'{path}' has the same event in line {events[event]} and in line {number}: remove one.")
        events[event] = number
    return list(events)


def classes_in(events: Iterable[ClipEvent]) -> tuple[str, ...]:
    """The classes in the order of their first appearance, which is that of their indices."""
    return tuple(dict.fromkeys(event.category for event in events))


def read_classes(path: Path) -> tuple[str, ...]:
    """The classes of a file with one name a line, in the order of their indices.

    Raises:
        DataError: the file cannot be read.
    """
    return tuple(line for _, line in read_lines(path))


def read_list(path: Path) -> tuple[str, ...]:
    """The names in a file with one a line, each once.

    Raises:
        DataError: the file cannot be read, or names something twice.
    """
    seen: dict[str, int] = {}
    for number, line in read_lines(path):
        if line in seen:
            raise DataError(f"'{path}' names '{line}' in line {seen[line]} and in line {number}: remove one.")
        seen[line] = number
    return tuple(seen)


def find_root(root: Path) -> Path:
    """The folder with ``Annotations.txt``: ``root``, or ``AVE_Dataset`` in it.

    Raises:
        DataError: neither holds the file.
    """
    for candidate in (root, root / FOLDER):
        if (candidate / ANNOTATIONS).is_file():
            return candidate
    raise DataError(
        f"'{root}' holds neither {ANNOTATIONS} nor {FOLDER}/{ANNOTATIONS}; give --data the folder of AVE with its "
        "annotations, splits and media."
    )


def settings_in(root: Path) -> dict[str, list[str]]:
    """The settings that the files of a data set decide: the classes of its annotations (`DatasetSpec.reads`).

    Raises:
        DataError: there are none.
    """
    path = find_root(root) / ANNOTATIONS
    classes = classes_in(read_events(path))
    if not classes:
        raise DataError(f"'{path}' holds no event: its lines are Category&VideoID&Quality&StartTime&EndTime.")
    return {"task_options.classes": list(classes)}
