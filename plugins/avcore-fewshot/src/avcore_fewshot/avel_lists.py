"""VGGSound-AVEL's files: a table of clips with a label for each second, and a list of its classes. Imports no torch."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from avcore.data.lines import read_lines
from avcore.errors import DataError, did_you_mean
from avcore_avar.lists import once

__all__ = ["CATEGORIES", "SPLITS", "TABLE", "Labelled", "classes_in", "find_table", "read_table", "settings_in"]

TABLE = "vggsound-avel*.csv"
"""The table, such as ``vggsound-avel40k_labels.csv``."""
CATEGORIES = "*Categories.txt"
"""The classes in the order of their indices, such as ``VggsoundAVEL40kCategories.txt``, where the file is there."""
COLUMNS = ("category", "video_id", "label", "split")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Labelled:
    """A row: a clip, its class, for each second whether that is seen and heard in it, and where it stands."""

    video: str
    category: str
    seconds: tuple[bool, ...]
    split: str
    line: int


def find_table(root: Path) -> Path:
    """The table below ``root``.

    Raises:
        DataError: there is none, or there are several.
    """
    found = sorted(root.glob(TABLE))
    if len(found) != 1:
        has = f"several of {TABLE} ({', '.join(path.name for path in found)})" if found else f"no {TABLE}"
        raise DataError(
            f"'{root}' has {has}: --data names a folder with one, whose columns are {', '.join(COLUMNS)}, and the "
            "videos in videos/."
        )
    return found[0]


@once
def read_table(path: Path) -> tuple[Labelled, ...]:
    """The rows in their order. Numbers of clips get six digits, as their media have them; further columns are not read.

    Raises:
        DataError: the file cannot be read or lists no clip, a column is missing, or a row is wrong or repeats a clip;
            names the line.
    """
    rows: dict[str, Labelled] = {}
    names: list[str] = []
    for number, line in read_lines(path):
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], strict=True, skipinitialspace=True))]
            if not names:
                names = cells
                if missing := [name for name in COLUMNS if name not in names]:
                    raise ValueError(f"names no column '{missing[0]}'; it holds {', '.join(COLUMNS)}, in any order")
                continue
            if len(cells) != len(names):
                raise ValueError(f"has {len(cells)} cells for {len(names)} columns; a list stands in double quotes")
            made = _row(dict(zip(names, cells, strict=True)), number)
            if (before := rows.setdefault(made.video, made)) is not made:
                raise ValueError(f"lists '{made.video}' again, which stands in line {before.line}")
        except (ValueError, csv.Error) as error:
            wrong = f"is no row of {', '.join(COLUMNS)} ({error})" if isinstance(error, csv.Error) else str(error)
            raise DataError(f"'{path}' line {number} {wrong}. Correct it.") from None
    if not rows:
        raise DataError(f"'{path}' lists no clip: a line names {', '.join(COLUMNS)}, and each further one a clip.")
    return tuple(rows.values())


def _row(cells: dict[str, str], line: int) -> Labelled:
    video, label, split = cells["video_id"], cells["label"], cells["split"]
    if split not in SPLITS:
        raise ValueError(f"has the split '{split}', which is none of {', '.join(SPLITS)}")
    if not video or not cells["category"]:
        raise ValueError("names no clip or no class")
    seconds = re.findall(r"[^\s,\[\]]+", label)
    if not seconds or any(one not in ("0", "1", "0.0", "1.0") for one in seconds):
        raise ValueError(f"has the label '{label}', which is no list of 0 and 1, such as [0, 1, 1]")
    number = video.removesuffix(".0")
    video = number.zfill(6) if number.isdecimal() else video
    return Labelled(video, cells["category"], tuple(one.startswith("1") for one in seconds), split, line)


def classes_in(root: Path) -> tuple[str, ...]:
    """The classes in the order of their indices: that of the list, without one that of the alphabet.

    Raises:
        DataError: a row has a class that the list lacks, the list names one twice, or a file cannot be read.
    """
    path = find_table(root)
    rows, lists = read_table(path), sorted(root.glob(CATEGORIES))
    if not lists:
        return tuple(sorted({row.category for row in rows}))
    classes = tuple(line for _, line in read_lines(lists[0]))
    known = set(classes)
    if len(known) < len(classes):
        raise DataError(f"'{lists[0]}' must name each class once, one a line.")
    other = next((row for row in rows if row.category not in known), None)
    if other is not None:
        raise DataError(
            f"'{path}' line {other.line} has the class '{other.category}', which '{lists[0].name}' lacks."
            f"{did_you_mean(other.category, classes)}"
        )
    return classes


def settings_in(root: Path) -> dict[str, list[str]]:
    """The settings that the files of a data set decide: the names of its classes (`DatasetSpec.reads`)."""
    return {"task_options.classes": list(classes_in(root))}
