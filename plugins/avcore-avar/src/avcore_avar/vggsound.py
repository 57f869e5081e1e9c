"""Reader of VGGSound: its lists, and a video file for each clip."""

from collections.abc import Sequence
from pathlib import Path

from avcore.errors import DataError
from avcore.tasks import Task
from avcore_avar.config import ListedConfig
from avcore_avar.listed import ListedClips
from avcore_avar.lists import Entry
from avcore_avar.vggsound_lists import STAT, TABLE, classes_in, find_root, read_split, read_table, splits_in

__all__ = ["VGGSound"]

FOLDERS = ("videos", "video")


class VGGSound(ListedClips):
    """Clips of 10 s with one class each. ``root`` is the folder with ``vggsound.csv``, or with its two parts.

    The indices of the classes are their alphabetical order. A clip is ``videos/<id>_<start in six digits>.mp4``.
    """

    def __init__(self, config: ListedConfig, root: Path, task: Task | None = None) -> None:
        root = find_root(Path(root))
        self._splits = splits_in(root)
        named = next((root / name for name in (STAT, TABLE, "train.csv", "test.csv") if (root / name).is_file()), None)
        super().__init__(config, root, task, classes=classes_in(root), source=named)
        self._videos = next((root / name for name in FOLDERS if (root / name).is_dir()), root / FOLDERS[0])

    @property
    def of_lists(self) -> tuple[str, ...]:
        """The splits of which there are lists; VGGSound has none of val."""
        return self._splits

    def entries(self, split: str) -> tuple[Path, Sequence[Entry]]:
        """The clips of a split with the names of their classes."""
        table, path = self.root / TABLE, self.root / f"{split}.csv"
        if table.is_file():
            return table, read_table(table)[split]
        if not path.is_file():
            raise DataError(f"There is neither '{table}' (id,start,class,split) nor '{path.name}' beside it.")
        return path, read_split(path)

    def media(self, clip: str, split: str) -> tuple[Path, None]:
        """The video file of a clip."""
        return self._videos / f"{clip}.mp4", None
