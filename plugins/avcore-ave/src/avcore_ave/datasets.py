"""Reader of AVE's official layout: annotations, splits, and media as video files or as extracted by LAVISH."""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avcore import by_number
from avcore.errors import DataError
from avcore.specs import Windows
from avcore.tasks import Clip, Dataset, Task
from avcore_ave.annotations import ANNOTATIONS, ClipEvent, classes_in, find_root, read_classes, read_events, read_list
from avcore_ave.config import BACKGROUND, AVEDataConfig, AVEWeakDataConfig
from avcore_ave.task import AVETask

__all__ = ["AVE", "AVEWeak", "read_order"]

CATEGORIES = "categories.txt"
VIDEOS, FRAMES, SOUNDS = "AVE", "video_frames", "raw_audio"

_logger = logging.getLogger("avcore.ave")


class AVE(Dataset):
    """Clips of 10 s with one event each. ``root`` is the folder with ``Annotations.txt``, or the one that contains it.

    Class indices are the order of first appearance in ``Annotations.txt``; background is the last index. A clip is
    named by its video; where a video has several events, those after the first are ``<video>#2``, ``<video>#3``.
    `Clip.group` is the class.
    """

    splits: tuple[str, ...] = ("train", "val", "test")

    def __init__(self, config: AVEDataConfig, root: Path, task: Task | None = None) -> None:
        self.config = config
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)
        self.root = find_root(Path(root))
        self.events = read_events(self.root / ANNOTATIONS)
        self.classes = classes_in(self.events)
        self._check_categories()
        if isinstance(task, AVETask):
            self._check_task(task)
        self.names = _names(self.events)
        if (self.root / "wave").is_dir() and not any((self.root / folder).is_dir() for folder in (SOUNDS, VIDEOS)):
            _logger.warning(
                f"'{self.root}' has wave/*.npy but no {SOUNDS}: put the wav files of the clips into {SOUNDS}, as "
                f"{SOUNDS}/<id>.wav."
            )

    def _check_categories(self) -> None:
        path = self.root / CATEGORIES
        if path.is_file() and (listed := read_classes(path)) != self.classes:
            differ = next((pair for pair in zip(listed, self.classes, strict=False) if pair[0] != pair[1]), None)
            found = f"'{differ[0]}' where the other has '{differ[1]}'" if differ else f"{len(listed)} classes"
            raise DataError(
                f"'{path}' has {found}: class indices are the order of first appearance in {ANNOTATIONS} "
                f"({len(self.classes)} classes). Correct or remove it."
            )

    def notes(self) -> list[str]:
        """Events that end after their clips, and clips of other splits that are in train too; see `Dataset.notes`."""
        found, seconds = [], self.config.clip_seconds
        if late := [event for event in self.events if event.end > seconds]:
            found.append(
                f"'{self.root / ANNOTATIONS}' has events that end after their clips of {seconds:g} s, {len(late)} of "
                f"{len(self.events)}, the first that of '{late[0].video}' at {late[0].end:g} s: the rest is left out."
            )
        rows: dict[str, set[int]] = {}
        for split in self.splits:
            with suppress(DataError):  # `clips` says it
                rows[split] = set(read_order(self.root, split, self.events))
        for split in (split for split in rows if split != "train"):
            if shared := sorted(rows[split] & rows.get("train", set())):
                found.append(
                    f"{len(shared)} of {len(rows[split])} clips of split '{split}' are in train too, the first "
                    f"'{self.names[shared[0]]}': its scores say less."
                )
        return found

    def _check_task(self, task: AVETask) -> None:
        expected = task.config.classes
        if expected == self.classes:
            return
        path = self.root / ANNOTATIONS
        raise DataError(
            f"'{path}' has {_listed(self.classes)}, but task_options.classes has {_listed(expected)}: "
            f"leave that setting out, and the names are taken from the files."
        )

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of ``train``, ``val`` or ``test`` in the order of the split.

        Raises:
            DataError: no such split, or a malformed list.
        """
        if split not in self.splits:
            raise DataError(f"{type(self).__name__} has no split '{split}'; it has {', '.join(self.splits)}.")
        rows = read_order(self.root, split, self.events)
        if not rows:
            raise DataError(f"Split '{split}' of '{self.root}' lists no clip.")
        find = self._video if self._as_video() else self._extracted
        found: list[Clip] = []
        for row in rows:
            event = self.events[row]
            frames, audio = find(event.video)
            found.append(
                Clip(
                    name=self.names[row],
                    frames=frames,
                    audio=audio,
                    seconds=self.config.clip_seconds,
                    group=event.category,
                    info={"event": event},
                )
            )
        return found

    def _as_video(self) -> bool:
        if self.config.media != "auto":
            return self.config.media == "video"
        for folder in (VIDEOS, FRAMES):
            if (self.root / folder).is_dir():
                return folder == VIDEOS
        raise DataError(
            f"'{self.root}' has no media: neither {VIDEOS}/<id>.mp4 nor {FRAMES}/<id>/*.jpg with {SOUNDS}/<id>.wav."
        )

    def _video(self, video: str) -> tuple[Path, None]:
        return self.root / VIDEOS / f"{video}.mp4", None

    def _extracted(self, video: str) -> tuple[tuple[Path, ...], Path]:
        folder = self.root / FRAMES / video
        # Where there is none, the name of one that is missing, which makes a broken clip.
        pictures = by_number(folder.glob("*.jpg")) or [folder / "0001.jpg"]
        return tuple(pictures[index] for index in self._chosen(len(pictures))), self.root / SOUNDS / f"{video}.wav"

    def _chosen(self, total: int) -> list[int]:
        """Which of ``total`` pictures, from 0, stand for the T segments."""
        if self.config.pictures == "even":
            indices: list[int] = (np.linspace(1, total, self.segments, dtype=int) - 1).tolist()
            return indices
        return [int((segment + 0.5) * total / self.segments) for segment in range(self.segments)]

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``labels`` (T,) int64: the class of a segment that begins at t with start <= t < end, else background."""
        event: ClipEvent = clip.info["event"]
        begins_T = torch.arange(self.segments, dtype=torch.float64) * self.config.clip_seconds / self.segments
        inside_T = (event.start <= begins_T) & (begins_T < event.end)
        return {"labels": torch.where(inside_T, self.classes.index(event.category), len(self.classes))}


class AVEWeak(AVE):
    """The same with the class of the whole clip, ``clip_label`` (); val and test have ``labels`` besides.

    ``data.negatives`` names a list of videos without any event (``noisy178`` for ``noisy178.txt``, one id a line,
    beside the annotations): they join train, with background as their class. Those whose media are missing are told
    and left out.
    """

    config: AVEWeakDataConfig

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of a split, those of train without labels of segments; negatives come last.

        Raises:
            DataError: no such split, or a malformed list.
        """
        found = super().clips(split)
        if split != "train":
            return found
        weak = [replace(clip, info={**clip.info, "weak": True}) for clip in found]
        return [*weak, *self._negatives()[0]] if self.config.negatives else weak

    def notes(self) -> list[str]:
        """Those of `AVE`, and which negatives are missing."""
        found, missing = self._negatives() if self.config.negatives else ([], [])
        told = (
            f"{len(missing)} of {len(missing) + len(found)} negatives of {self.config.negatives}.txt have no media and "
            f"are left out: {', '.join(missing)}."
        )
        return [*super().notes(), *([told] if missing else [])]

    def _negatives(self) -> tuple[list[Clip], list[str]]:
        """The clips without an event, and the videos whose media are missing."""
        path = self.root / f"{self.config.negatives}.txt"
        if not path.is_file():
            raise DataError(
                f"data.negatives={self.config.negatives}, but there is no '{path}': write the ids of videos without an "
                "event there, one a line, or leave the setting out. (AVE's own 178 are published as features alone.)"
            )
        find = self._video if self._as_video() else self._extracted
        found: list[Clip] = []
        missing: list[str] = []
        events = {event.video for event in self.events}
        for video in read_list(path):
            if video in events:
                raise DataError(f"'{path}': '{video}' has an event in {ANNOTATIONS}; take it out of the list.")
            frames, audio = find(video)
            needed = [*(frames if isinstance(frames, tuple) else [frames]), *([audio] if audio else [])]
            if not all(file.is_file() for file in needed):
                missing.append(video)
                continue
            info = {"event": ClipEvent(BACKGROUND, video, 0.0, 0.0), "weak": True}
            clip = Clip(
                name=video, frames=frames, audio=audio, seconds=self.config.clip_seconds, group=BACKGROUND, info=info
            )
            found.append(clip)
        return found, missing

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``clip_label`` () int64, the class of the clip's event or background; of val and test ``labels`` (T,) too."""
        event: ClipEvent = clip.info["event"]
        label = self.classes.index(event.category) if event.category in self.classes else len(self.classes)
        weak = {"clip_label": torch.tensor(label)}
        return weak if clip.info.get("weak") else {**super().target(clip), **weak}


def _listed(classes: Sequence[str]) -> str:
    """Such as ``28 classes (Church bell; Male speech, man speaking; ...; Mandolin)``."""
    shown = classes if len(classes) < 5 else (*classes[:2], "...", classes[-1])
    return f"{len(classes)} classes ({'; '.join(shown)})"


def _names(events: Sequence[ClipEvent]) -> list[str]:
    """A unique name for each row: its video, numbered from the second event of the same video on."""
    seen: Counter[str] = Counter()
    names = []
    for event in events:
        seen[event.video] += 1
        names.append(event.video if seen[event.video] == 1 else f"{event.video}#{seen[event.video]}")
    return names


def read_order(root: Path, split: str, events: Sequence[ClipEvent]) -> list[int]:
    """The rows of ``Annotations.txt``, from 0 and without a header, that a split has, in its order.

    They stand in ``<split>_order.h5`` (dataset ``order``) or, where that file is missing, as the lines themselves in
    ``<split>Set.txt``. ``<split>_order_match.h5`` belongs to cross-modal matching and is never read.

    Raises:
        DataError: there is neither file, it does not fit the annotations, or both are there and differ.
    """
    numbers, lines = root / f"{split}_order.h5", root / f"{split}Set.txt"
    if numbers.is_file():
        rows = _read_numbers(numbers)
        wrong = [row for row in rows if not 0 <= row < len(events)]
        if wrong:
            raise DataError(f"'{numbers}' names row {wrong[0]}, but {ANNOTATIONS} has {len(events)} rows.")
        if len(set(rows)) < len(rows):
            twice = next(row for place, row in enumerate(rows) if row in rows[:place])
            raise DataError(f"'{numbers}' names row {twice} ('{events[twice].video}') twice: remove one.")
        _check_lines(rows, numbers, lines, events)
        return rows
    if not lines.is_file():
        raise DataError(f"Split '{split}' has neither '{numbers}' nor '{lines.name}' beside it.")
    places = {event: row for row, event in reversed(list(enumerate(events)))}
    rows = []
    for event in read_events(lines):
        if event not in places:
            raise DataError(f"'{lines}': the event of '{event.video}' ({event.category}) is not in {ANNOTATIONS}.")
        rows.append(places[event])
    return rows


def _check_lines(rows: Sequence[int], numbers: Path, lines: Path, events: Sequence[ClipEvent]) -> None:
    """Whether the lines beside the row numbers, if they are there, name the same videos and classes.

    Rows move when a line is taken out of the annotations.
    """
    if not lines.is_file():
        return
    for place, (row, line) in enumerate(zip_longest(rows, read_events(lines)), start=1):
        if row is None or line is None or _what(events[row]) != _what(line):
            found = "missing" if row is None else f"row {row}, {_what(events[row])}"
            beside = "missing" if line is None else _what(line)
            raise DataError(
                f"Clip {place} of '{numbers}' is {found}, and of '{lines.name}' beside it {beside}. Take {ANNOTATIONS} "
                f"as it was when the numbers were made, or remove one of the two files."
            )


def _what(event: ClipEvent) -> str:
    return f"'{event.video}' ({event.category})"


def _read_numbers(path: Path) -> list[int]:
    import h5py  # type: ignore[import-untyped]

    try:
        with h5py.File(path, "r") as file:
            rows = np.asarray(file["order"])
    except (OSError, KeyError) as error:
        raise DataError(f"'{path}' is no HDF5 file with a dataset 'order': {error}.") from None
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise DataError(f"'{path}': 'order' must be a list of whole numbers, not {rows.dtype} {rows.shape}.")
    numbers: list[int] = rows.tolist()
    return numbers
