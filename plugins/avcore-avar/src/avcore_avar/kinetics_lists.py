"""The files of OGM-GE's Kinetics-Sounds: one clip a line, ``clip,10,label``. Imports no torch."""

from collections.abc import Iterable
from pathlib import Path

from avcore.data.lines import read_lines
from avcore.errors import DataError
from avcore_avar.classes import LISTS
from avcore_avar.lists import Entry, once, read_rows, without_repeats

__all__ = ["CLASSES", "LISTED", "classes_in", "find_root", "read_classes", "read_list", "settings_in"]

LISTED = {"train": "my_train.txt", "val": "my_val.txt", "test": "my_test.txt"}
"""The lists of the splits; OGM-GE has none of val."""
CLASSES = "classes.txt"
FOLDER = "KineticSound"
"""How OGM-GE's repository calls the folder of the lists."""


def find_root(root: Path) -> Path:
    """The folder with the lists: ``root``, or ``KineticSound`` in it.

    Raises:
        DataError: neither holds any.
    """
    for candidate in (root, root / FOLDER):
        if any((candidate / name).is_file() for name in LISTED.values()):
            return candidate
    raise DataError(
        f"'{root}' holds neither {LISTED['train']} nor {FOLDER}/{LISTED['train']}; give --data the folder with the "
        "lists of Kinetics-Sounds (clip,10,label) and its media."
    )


@once
def read_list(path: Path) -> tuple[Entry, ...]:
    """The clips of a list with the indices of their classes, in its order, each once.

    Raises:
        DataError: the file cannot be read, or a line is wrong; names it.
    """

    def parse(cells: list[str]) -> tuple[str, int]:
        clip, _, label = cells
        if not clip:
            raise ValueError("names no clip")
        if not label.isdecimal():
            raise ValueError(f"has '{label}' where the index of a class stands, a whole number from 0")
        return clip, int(label)

    return without_repeats(path, read_rows(path, "clip,10,label", parse))


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of the classes: one a line, or ``index name`` with the indices from 0.

    Raises:
        DataError: the file cannot be read, or the indices are not those from 0 on, each once; names the line.
    """
    lines = read_lines(path)
    cells = [line.split(None, 1) for _, line in lines]
    if not all(len(one) > 1 and one[0].isdecimal() for one in cells):
        return tuple(line for _, line in lines)
    names: dict[int, str] = {}
    for (number, line), one in zip(lines, cells, strict=True):
        index = int(one[0])
        if index >= len(lines) or index in names:
            raise DataError(
                f"'{path}' line {number}: '{line}'. The indices of its {len(lines)} classes must be 0 to "
                f"{len(lines) - 1}, each once."
            )
        names[index] = one[1]
    return tuple(names[index] for index in range(len(names)))


def classes_in(root: Path) -> tuple[str, ...]:
    """The classes of ``classes.txt``; without it those of the shortest known list that holds all indices.

    Raises:
        DataError: a file cannot be read, or no known list is long enough.
    """
    if (root / CLASSES).is_file():
        return read_classes(root / CLASSES)
    highest = max((entry.label for entry in _all(root) if isinstance(entry.label, int)), default=0)
    for names in LISTS.values():
        if highest < len(names):
            return names
    raise DataError(
        f"The lists in '{root}' have class index {highest}, and the longest known list of classes has {len(names)}: "
        f"write the names into '{root / CLASSES}', one a line in the order of their indices."
    )


def _all(root: Path) -> Iterable[Entry]:
    for name in LISTED.values():
        if (root / name).is_file():
            yield from read_list(root / name)


def settings_in(root: Path) -> dict[str, list[str]]:
    """The settings that the files of a data set decide: the names of its classes (`DatasetSpec.reads`)."""
    return {"task_options.classes": list(classes_in(find_root(root)))}
