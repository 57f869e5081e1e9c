"""Reader of Kinetics-Sounds in OGM-GE's lists, with video files or with pictures and sound as OGM-GE extracts them."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from avcore import by_number
from avcore.errors import DataError
from avcore.specs import Windows
from avcore.tasks import Clip, Dataset, Task
from avcore_avar.config import KineticsSoundsConfig
from avcore_avar.holdout import held_out
from avcore_avar.kinetics_lists import CLASSES, LISTED, classes_in, find_root, read_list
from avcore_avar.lists import Entry
from avcore_avar.task import AVARTask

__all__ = ["KineticsSounds"]

VIDEOS = "videos"

_logger = logging.getLogger("avcore.avar")


class KineticsSounds(Dataset):
    """Clips of 10 s with one class each. ``root`` is the folder with ``my_train.txt`` and ``my_test.txt``.

    Where there is no ``my_val.txt``, ``data.val_share`` of train is held out as val (`held_out`). `Clip.group` is the
    name of the class.
    """

    def __init__(self, config: KineticsSoundsConfig, root: Path, task: Task | None = None) -> None:
        self.config = config
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)
        self.root = find_root(Path(root))
        self.classes = self._classes(task)
        self.has_val = (self.root / LISTED["val"]).is_file()
        self.splits = ("train", "val", "test") if self.has_val or config.val_share > 0 else ("train", "test")

    def _classes(self, task: Task | None) -> tuple[str, ...]:
        found = classes_in(self.root)
        if not isinstance(task, AVARTask) or task.classes == found:
            return found
        if (self.root / CLASSES).is_file():
            raise DataError(
                f"'{self.root / CLASSES}' has {len(found)} classes ({found[0]} ... {found[-1]}), but "
                f"task_options.classes has {len(task.classes)} ({task.classes[0]} ... {task.classes[-1]}): leave that "
                "setting out, and the names are taken from the file."
            )
        return task.classes

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of a split in the order of its list.

        Raises:
            DataError: no such split, or a malformed list.
        """
        if split not in self.splits:
            raise DataError(f"{type(self).__name__} has no split '{split}'; it has {', '.join(self.splits)}.")
        held = split == "val" and not self.has_val
        path = self.root / LISTED["train" if held else split]
        entries = self._entries(path)
        if not self.has_val and split != "test":
            out = held_out(((entry.clip, entry.label) for entry in entries), self.config.val_share)
            entries = [entry for entry in entries if (entry.clip in out) == held]
        if not entries:
            raise DataError(f"Split '{split}' of '{self.root}' has no clip ({path.name}).")
        find = self._video if self._as_video() else self._extracted
        found = []
        for entry in entries:
            frames, audio = find(entry.clip, path)
            found.append(
                Clip(
                    name=entry.clip,
                    frames=frames,
                    audio=audio,
                    seconds=self.config.clip_seconds,
                    group=self.classes[int(entry.label)],
                )
            )
        return found

    def _entries(self, path: Path) -> list[Entry]:
        if not path.is_file():
            raise DataError(f"There is no list '{path}' (clip,10,label).")
        entries = read_list(path)
        for entry in entries:
            if int(entry.label) >= len(self.classes):
                raise DataError(
                    f"'{path}' line {entry.line}: clip '{entry.clip}' has class index {entry.label}, and there are "
                    f"{len(self.classes)} classes, 0 to {len(self.classes) - 1}."
                )
        return entries

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

    def _video(self, clip: str, listed: Path) -> tuple[Path, None]:
        return self.root / VIDEOS / f"{clip}.mp4", None

    def _extracted(self, clip: str, listed: Path) -> tuple[tuple[Path, ...], Path]:
        split = next(split for split, name in LISTED.items() if name == listed.name)
        folder = self.root / split / clip
        # Where there is none, the name of one that is missing, which makes a broken clip.
        pictures = by_number(folder.glob("*.jpg")) or [folder / "00000.jpg"]
        chosen = [int((segment + 0.5) * len(pictures) / self.segments) for segment in range(self.segments)]
        return tuple(pictures[index] for index in chosen), folder / f"{clip}.wav"

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``label`` () int64: the index of the class."""
        return {"label": torch.tensor(self.classes.index(clip.group))}
