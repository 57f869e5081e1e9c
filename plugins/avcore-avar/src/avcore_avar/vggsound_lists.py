"""VGGSound's files: ``vggsound.csv`` of all clips, or ``train.csv`` and ``test.csv``. Imports no torch."""

from pathlib import Path

from avcore.errors import DataError
from avcore_avar.lists import Entry, once, read_rows, without_repeats

__all__ = ["STAT", "TABLE", "classes_in", "find_root", "read_split", "read_table", "settings_in", "splits_in"]

TABLE = "vggsound.csv"
STAT = "stat.csv"
"""The classes with their numbers of clips and groups."""
SPLITS = ("train", "val", "test")
FOLDER = "data"
"""How VGGSound's repository calls the folder of the lists."""


def find_root(root: Path) -> Path:
    """The folder with the lists: ``root``, or ``data`` in it.

    Raises:
        DataError: neither holds any.
    """
    for candidate in (root, root / FOLDER):
        if splits_in(candidate):
            return candidate
    raise DataError(
        f"'{root}' holds neither {TABLE} nor train.csv and test.csv, nor does {FOLDER}/ in it; give --data the folder "
        "with the lists of VGGSound and its media."
    )


def splits_in(root: Path) -> tuple[str, ...]:
    """The splits that are listed; a list of val is somebody's own.

    Raises:
        DataError: ``vggsound.csv`` cannot be read, or a line is wrong.
    """
    if (root / TABLE).is_file():
        table = read_table(root / TABLE)
        return tuple(split for split in SPLITS if table[split])
    return tuple(split for split in SPLITS if (root / f"{split}.csv").is_file())


@once
def read_table(path: Path) -> dict[str, tuple[Entry, ...]]:
    """The clips of ``vggsound.csv`` (``id,start,class,split``) by split, named ``<id>_<start>`` as their files are.

    Raises:
        DataError: the file cannot be read, a line is wrong, or a clip has several classes or splits; names the line.
    """
    split_of: dict[str, str] = {}

    def parse(cells: list[str]) -> tuple[str, str] | None:
        video, start, label, split = cells
        if start.lower().startswith("start"):  # the names of the columns
            return None
        if not start.isdecimal():
            raise ValueError(f"has '{start}' where the second stands at which a clip begins, a whole number")
        if split not in SPLITS:
            raise ValueError(f"has the split '{split}', which is none of {', '.join(SPLITS)}")
        if not video or not label:
            raise ValueError("names no video or no class")
        clip = f"{video}_{int(start):06d}"
        if split_of.setdefault(clip, split) != split:
            raise ValueError(f"puts '{clip}' into {split}, which is in {split_of[clip]} already")
        return clip, label

    entries = without_repeats(path, read_rows(path, "id,start,class,split", parse))
    return {split: tuple(entry for entry in entries if split_of[entry.clip] == split) for split in SPLITS}


@once
def read_split(path: Path) -> tuple[Entry, ...]:
    """The clips of ``train.csv`` or ``test.csv``: ``<id>_<start>.mp4,class``.

    Raises:
        DataError: the file cannot be read, or a line is wrong; names it.
    """

    def parse(cells: list[str]) -> tuple[str, str]:
        file, label = cells
        clip = file.removesuffix(".mp4")
        if not clip or not label:
            raise ValueError("names no clip or no class")
        return clip, label

    return without_repeats(path, read_rows(path, "clip.mp4,class", parse))


def classes_in(root: Path) -> tuple[str, ...]:
    """The classes of ``stat.csv``, without it those of the lists, in alphabetical order: that of their indices.

    Raises:
        DataError: a file cannot be read, or a line is wrong; names it.
    """
    if (root / STAT).is_file():
        entries = read_rows(root / STAT, "class,clips,group", lambda cells: ("", cells[0]))
    elif (root / TABLE).is_file():
        entries = [entry for some in read_table(root / TABLE).values() for entry in some]
    else:
        entries = [entry for split in splits_in(root) for entry in read_split(root / f"{split}.csv")]
    return tuple(sorted({str(entry.label) for entry in entries}))


def settings_in(root: Path) -> dict[str, list[str]]:
    """The settings that the files of a data set decide: the names of its classes (`DatasetSpec.reads`)."""
    return {"task_options.classes": list(classes_in(find_root(root)))}
