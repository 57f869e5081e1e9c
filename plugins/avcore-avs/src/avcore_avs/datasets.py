"""Readers of AVSBench's layouts: S4 (``Single-source``) and MS3 (``Multi-sources``).

Both hold frames and masks as numbered pictures, one a second, and a wav file for each clip. The log-mel pickles of the
original, made for VGGish, are not read.
"""

import csv
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from avcore import read_mask
from avcore.errors import DataError, why
from avcore.specs import Windows
from avcore.tasks import Clip, Dataset, Task
from avcore_avs.config import AVSDataConfig

__all__ = ["AVSBenchMS3", "AVSBenchS4"]

SPLITS = ("train", "val", "test")

_logger = logging.getLogger("avcore.avs")


class _AVSBench(Dataset, ABC):
    """What S4 and MS3 share. ``root`` is the folder of the set, or the folder that contains it."""

    splits: tuple[str, ...] = SPLITS
    folder: ClassVar[str]
    """The official name of the set's folder."""
    table: ClassVar[str]
    """Its list of clips, with a header."""
    data: ClassVar[str]
    """The folder of the media."""
    columns: ClassVar[Mapping[str, int]]
    """Columns that are read: by name, or at this position when the header does not name them."""

    def __init__(self, config: AVSDataConfig, root: Path, task: Task | None = None) -> None:
        self.config = config
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)
        self.root = self._find(Path(root))
        base = self.root / self.data
        if (base / "audio_log_mel").is_dir() and not (base / "audio_wav").is_dir():
            _logger.warning(
                f"'{base}' has audio_log_mel but no audio_wav: those pickles fit VGGish only. Put the wav files of the "
                "clips into audio_wav, in the same folders."
            )

    def _find(self, root: Path) -> Path:
        for candidate in (root, root / self.folder):
            if (candidate / self.table).is_file():
                return candidate
        raise DataError(
            f"'{root}' holds neither {self.table} nor {self.folder}/{self.table}; give --data the folder "
            f"{self.folder} of AVSBench or the one that contains it."
        )

    @abstractmethod
    def _files(self, split: str, row: Mapping[str, str]) -> tuple[list[Path], list[Path], Path]:
        """Frames, masks and the wav file of one clip."""

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of ``train``, ``val`` or ``test`` in the order of the list.

        Raises:
            DataError: no such split, or a malformed list.
        """
        if split not in self.splits:
            raise DataError(f"{type(self).__name__} has no split '{split}'; it has {', '.join(self.splits)}.")
        found: list[Clip] = []
        for row in self._rows():
            if row["split"] != split:
                continue
            frames, masks, audio = self._files(split, row)
            found.append(
                Clip(
                    name=row["name"],
                    frames=tuple(frames),
                    audio=audio,
                    seconds=self.config.clip_seconds,
                    group=row.get("category", ""),
                    files=tuple(masks),
                )
            )
        if not found:
            raise DataError(f"'{self.root / self.table}' lists no clip of split '{split}'.")
        return found

    def _rows(self) -> list[dict[str, str]]:
        path = self.root / self.table
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                header, *lines = list(csv.reader(file)) or [[]]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"'{path}' cannot be read as a table in UTF-8: {why(error)}.") from error
        names = [cell.strip().lower() for cell in header]
        places = {column: names.index(column) if column in names else at for column, at in self.columns.items()}
        headless = "split" not in names and len(header) > places["split"] and header[places["split"]].strip() in SPLITS
        rows: list[dict[str, str]] = []
        for number, cells in enumerate([header, *lines] if headless else lines, start=1 if headless else 2):
            if not cells:
                continue
            if len(cells) <= max(places.values()):
                raise DataError(f"'{path}' line {number} has {len(cells)} columns; expected {', '.join(self.columns)}.")
            row = {column: cells[at].strip() for column, at in places.items()}
            if row["split"] not in SPLITS:
                raise DataError(f"'{path}' line {number}: split '{row['split']}' is none of {', '.join(SPLITS)}.")
            rows.append(row)
        return rows

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``masks`` (T, size, size) fp32, 0 and 1, zero where ``labelled`` (T,) is False.

        Raises:
            DataError: a mask cannot be read, or its foreground is not known; see `avcore.read_mask`.
        """
        size = self.config.size
        masks_TYX = torch.zeros(self.segments, size, size)
        for index, path in enumerate(clip.files):
            masks_TYX[index] = read_mask(path, size, foreground=self.config.foreground)
        return {"masks": masks_TYX, "labelled": torch.arange(self.segments) < len(clip.files)}


class AVSBenchS4(_AVSBench):
    """Single-source segmentation: one sounding category a clip, which is its ``Clip.group``.

    Clips of ``train`` have a mask for their first frame only.
    """

    folder = "Single-source"
    table = "s4_meta_data.csv"
    data = "s4_data"
    columns: ClassVar[Mapping[str, int]] = {"name": 0, "category": 2, "split": 3}

    def _files(self, split: str, row: Mapping[str, str]) -> tuple[list[Path], list[Path], Path]:
        base, name = self.root / self.data, row["name"]
        where = Path(split, row["category"])
        frames = base / "visual_frames" / where / name
        masks = base / "gt_masks" / where / name
        labelled = 1 if split == "train" else self.segments
        return (
            [frames / f"{name}_{number}.png" for number in range(1, self.segments + 1)],
            [masks / f"{name}_{number}.png" for number in range(1, labelled + 1)],
            base / "audio_wav" / where / f"{name}.wav",
        )


class AVSBenchMS3(_AVSBench):
    """Multi-source segmentation: one or more sounding objects a clip, every frame has a mask."""

    folder = "Multi-sources"
    table = "ms3_meta_data.csv"
    data = "ms3_data"
    columns: ClassVar[Mapping[str, int]] = {"name": 0, "split": 1}

    def _files(self, split: str, row: Mapping[str, str]) -> tuple[list[Path], list[Path], Path]:
        base, name = self.root / self.data, row["name"]
        frames = base / "visual_frames" / name
        masks = base / "gt_masks" / split / name
        numbers = range(1, self.segments + 1)
        return (
            # The official frames carry the name of the video file they were taken from.
            [frames / f"{name}.mp4_{number}.png" for number in numbers],
            [masks / f"{name}_{number}.png" for number in numbers],
            base / "audio_wav" / split / f"{name}.wav",
        )
