"""Reader of AVE's official layout: annotations, splits, and media as video files or as extracted by LAVISH."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
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
        return [*weak, *self._negatives()] if self.config.negatives else weak

    def _negatives(self) -> list[Clip]:
        path = self.root / f"{self.config.negatives}.txt"
        if not path.is_file():
            raise DataError(
                f"data.negatives={self.config.negatives}, but there is no '{path}': write the ids of videos without an "
                "event there, one a line, or leave the setting out. (AVE's own 178 are published as features alone.)"
            )
        find = self._video if self._as_video() else self._extracted
        found, missing, events = [], [], {event.video for event in self.events}
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
        if missing:
            _logger.warning(
                f"{len(missing)} of {len(missing) + len(found)} negatives of '{path}' have no media and are left out: "
                f"{', '.join(missing)}."
            )
        return found

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
        DataError: there is neither file, or it does not fit the annotations.
    """
    numbers, lines = root / f"{split}_order.h5", root / f"{split}Set.txt"
    if numbers.is_file():
        rows = _read_numbers(numbers)
        wrong = [row for row in rows if not 0 <= row < len(events)]
        if wrong:
            raise DataError(f"'{numbers}' names row {wrong[0]}, but {ANNOTATIONS} has {len(events)} rows.")
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
