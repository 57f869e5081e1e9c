"""Reader of Kinetics-Sounds in OGM-GE's lists, with video files or with pictures and sound as OGM-GE extracts them."""

from collections.abc import Sequence
from pathlib import Path

from avcore import by_number
from avcore.errors import DataError
from avcore.tasks import Task
from avcore_avar.config import KineticsSoundsConfig
from avcore_avar.kinetics_lists import CLASSES, LISTED, classes_in, find_root, read_list
from avcore_avar.listed import ListedClips
from avcore_avar.lists import Entry

__all__ = ["KineticsSounds"]

VIDEOS = "videos"


class KineticsSounds(ListedClips):
    """Clips of 10 s with one class each. ``root`` is the folder with ``my_train.txt`` and ``my_test.txt``.

    Without ``classes.txt`` the indices are those of ``task_options.classes``.
    """

    config: KineticsSoundsConfig

    def __init__(self, config: KineticsSoundsConfig, root: Path, task: Task | None = None) -> None:
        root = find_root(Path(root))
        named = root / CLASSES
        super().__init__(config, root, task, classes=classes_in(root), source=named if named.is_file() else None)

    @property
    def of_lists(self) -> tuple[str, ...]:
        """The splits of which there are lists; OGM-GE has none of val."""
        return tuple(split for split, name in LISTED.items() if (self.root / name).is_file())

    def entries(self, split: str) -> tuple[Path, Sequence[Entry]]:
        """The clips of ``my_<split>.txt`` with the indices of their classes."""
        path = self.root / LISTED[split]
        if not path.is_file():
            raise DataError(f"There is no list '{path}' (clip,10,label).")
        return path, read_list(path)

    def media(self, clip: str, split: str) -> tuple[Path | tuple[Path, ...], Path | None]:
        """``videos/<clip>.mp4``, or of the pictures in ``<split>/<clip>`` those amid the segments, and its wav file."""
        if self._as_video():
            return self.root / VIDEOS / f"{clip}.mp4", None
        folder = self.root / split / clip
        # Where there is none, the name of one that is missing, which makes a broken clip.
        pictures = by_number(folder.glob("*.jpg")) or [folder / "00000.jpg"]
        chosen = [int((segment + 0.5) * len(pictures) / self.segments) for segment in range(self.segments)]
        return tuple(pictures[index] for index in chosen), folder / f"{clip}.wav"

    def _as_video(self) -> bool:
        if self.config.media != "auto":
            return self.config.media == "video"
        if (self.root / VIDEOS).is_dir():
            return True
        if any((self.root / split).is_dir() for split in LISTED):
            return False
        raise DataError(
            f"'{self.root}' has no media: neither {VIDEOS}/<clip>.mp4 nor train/<clip>/*.jpg with "
            "train/<clip>/<clip>.wav, and test/ likewise."
        )
