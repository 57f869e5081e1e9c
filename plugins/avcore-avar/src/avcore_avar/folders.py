"""A folder for each class, with anybody's own videos in it. Imports no torch."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from avcore.errors import DataError

__all__ = ["Folders", "find_folders"]

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of folders that are splits, in small letters."""
LAYOUT = "FOLDER/<class>/*.mp4, or FOLDER/train/<class>/*.mp4 with val and test beside train"


@dataclass(frozen=True, kw_only=True)
class Folders:
    """The folders of the classes.

    Attributes:
        classes: (split, class, folder); the split is empty where the folders name none.
        beside: files and folders at these levels that are no folder of a class.
    """

    classes: tuple[tuple[str, str, Path], ...]
    beside: tuple[Path, ...]


def _seen(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def find_folders(root: Path) -> Folders:
    """The folders of classes below ``root``, or below ``train``, ``val`` and ``test`` in it.

    Those are splits where no other folders are there; beside others ``train`` is a class.

    Raises:
        DataError: there is no folder, or splits and others are mixed.
    """
    if not root.is_dir():
        raise DataError(f"'{root}' is no folder; give --data one with your videos: {LAYOUT}.")
    here = _seen(root)
    folders = [path for path in here if path.is_dir()]
    splits = [path for path in folders if path.name.lower() in SPLITS]
    others = [path for path in folders if path not in splits]
    found = {SPLITS[path.name.lower()] for path in splits}
    if len(found) > 1 and "train" in found and others:
        raise DataError(
            f"'{root}' holds the splits {', '.join(path.name for path in splits)} and beside them '{others[0].name}': "
            f"put the folders of classes into the splits, or leave the splits out ({LAYOUT})."
        )
    if others:
        inside = [("", path) for path in folders]
        beside = [path for path in here if not path.is_dir()]
    else:
        pairs = [(SPLITS[split.name.lower()], path) for split in splits for path in _seen(split)]
        inside = [(split, path) for split, path in pairs if path.is_dir()]
        beside = [path for path in here if not path.is_dir()] + [path for _, path in pairs if not path.is_dir()]
    if not inside:
        raise DataError(
            f"'{root}' has no folder of a class, and no lists of Kinetics-Sounds or VGGSound either. Put your videos "
            f"there as {LAYOUT}."
        )
    named = tuple((split, unicodedata.normalize("NFC", path.name), path) for split, path in inside)
    return Folders(classes=named, beside=tuple(beside))
