"""Reader of VGGSound-AVEL: clips of VGGSound with a label for each second, on which DG-SCT pre-trains."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from avcore.errors import DataError
from avcore.specs import ClipSettings, Windows
from avcore.tasks import Clip, Dataset, Task
from avcore_ave.task import AVETask
from avcore_fewshot.avel_lists import SPLITS, classes_in, find_table, read_table

__all__ = ["VGGSoundAVEL"]


class VGGSoundAVEL(Dataset):
    """Clips of 10 s with one event each, a table of all of them, and videos ``videos/<video_id>.mp4``.

    Class indices are the order of the list of classes, without one that of the alphabet; background is the last
    index. `Clip.group` is the class.

    Raises:
        DataError: the table is missing or wrong, its labels are not as many as segments, or the task has other classes.
    """

    def __init__(self, config: ClipSettings, root: Path, task: Task | None = None) -> None:
        self.config = config
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)
        self.root = Path(root)
        path = find_table(self.root)
        self.rows = read_table(path)
        self.classes = classes_in(self.root)
        self.splits = tuple(split for split in SPLITS if any(row.split == split for row in self.rows))
        other = next((row for row in self.rows if len(row.seconds) != self.segments), None)
        if other is not None:
            raise DataError(
                f"'{path}' line {other.line} has {len(other.seconds)} labels, and data.segments is {self.segments}: "
                "each segment has one."
            )
        if isinstance(task, AVETask) and task.config.classes != self.classes:
            raise DataError(
                f"'{path}' has {len(self.classes)} classes, and task_options.classes {len(task.config.classes)} "
                "others: leave that setting out, and the names are taken from the files."
            )

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of a split in the order of the table.

        Raises:
            DataError: no such split.
        """
        if split not in self.splits:
            raise DataError(f"VGGSoundAVEL has no split '{split}'; it has {', '.join(self.splits)}.")
        return [
            Clip(
                name=row.video,
                frames=self.root / "videos" / f"{row.video}.mp4",
                audio=None,
                seconds=self.config.clip_seconds,
                group=row.category,
                info={"seconds": row.seconds},
            )
            for row in self.rows
            if row.split == split
        ]

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``labels`` (T,) int64: the class of the clip where its event is, else background."""
        event, background = self.classes.index(clip.group), len(self.classes)
        return {"labels": torch.tensor([event if here else background for here in clip.info["seconds"]])}
