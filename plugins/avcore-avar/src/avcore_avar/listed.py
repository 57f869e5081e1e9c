"""What readers of lists share: one class a clip, video files or extracted ones, and a val split where there is none."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from avcore.data.recordings import listed, split_by_hash
from avcore.errors import DataError
from avcore.specs import Windows
from avcore.tasks import Clip, Dataset, Task
from avcore_avar.config import ListedConfig
from avcore_avar.lists import Entry
from avcore_avar.task import AVARTask

__all__ = ["ListedClips"]


class ListedClips(Dataset, ABC):
    """Clips with one class each, in the order of their lists. `Clip.group` is the name of the class.

    Where no list is of val, ``data.val_share`` of train is held out (`avcore.data.recordings.split_by_hash`); with a
    share of 0 there is no val.

    Args:
        config: how clips are cut, and the share.
        root: of the files.
        task: whose classes must be those of the files.
        classes: the names that the files give, in the order of their indices.
        source: the file that names them; empty where they are guessed, and those of the task go before.

    Raises:
        DataError: the task has other classes than ``source``.
    """

    def __init__(
        self, config: ListedConfig, root: Path, task: Task | None, *, classes: tuple[str, ...], source: Path | None
    ) -> None:
        self.config = config
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)
        self.root = root
        self.classes, self.guessed = classes, source is None
        if isinstance(task, AVARTask) and task.classes != classes:
            if source is not None:
                raise DataError(
                    f"'{source}' has {_shown(classes)}, but task_options.classes has {_shown(task.classes)}: leave "
                    "that setting out, and the names are taken from the file."
                )
            self.classes = task.classes
        self._index = {name: index for index, name in enumerate(self.classes)}
        self.has_val = "val" in self.of_lists
        self.splits = ("train", "val", "test") if self.has_val or config.val_share > 0 else ("train", "test")
        self._clips: dict[str, list[Clip]] = {}

    @property
    @abstractmethod
    def of_lists(self) -> tuple[str, ...]:
        """The splits of which there are lists."""

    @abstractmethod
    def entries(self, split: str) -> tuple[Path, Sequence[Entry]]:
        """The clips of a list, their labels indices or names of classes, and the file that it is in.

        Raises:
            DataError: the list is missing or malformed.
        """

    @abstractmethod
    def media(self, clip: str, split: str) -> tuple[Path | tuple[Path, ...], Path | None]:
        """Frames and sound of a clip, as `Clip` has them, ``split`` being the list that it is in."""

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of a split in the order of its list.

        Raises:
            DataError: no such split, or a malformed list.
        """
        if split not in self.splits:
            share = " Give val a share of train: data.val_share=0.1." if split == "val" else ""
            raise DataError(f"{type(self).__name__} has no split '{split}'; it has {', '.join(self.splits)}.{share}")
        if split not in self._clips:
            self._clips[split] = self._made(split)
        return self._clips[split]

    def _made(self, split: str) -> list[Clip]:
        source = "train" if split == "val" and not self.has_val else split
        path, entries = self.entries(source)
        if source == "train" and not self.has_val:
            entries = [entry for entry in entries if self._drawn[entry.clip] == split]
        if not entries:
            raise DataError(f"Split '{split}' of '{self.root}' has no clip: '{path}' lists too few.")
        found = []
        for entry in entries:
            group = self._name(path, entry)
            frames, audio = self.media(entry.clip, source)
            found.append(
                Clip(name=entry.clip, frames=frames, audio=audio, seconds=self.config.clip_seconds, group=group)
            )
        return found

    @cached_property
    def _drawn(self) -> dict[str, str]:
        """``train`` or ``val`` for each clip of train, where no list is of val."""
        share, (_, entries) = self.config.val_share, self.entries("train")
        groups = {entry.clip: str(entry.label) for entry in entries}
        return split_by_hash(groups, {"train": 1 - share, "val": share})

    def _name(self, path: Path, entry: Entry) -> str:
        total = len(self.classes)
        if isinstance(entry.label, int):
            if entry.label < total:
                return self.classes[entry.label]
            wrong = f"class index {entry.label}, and there are {total} classes, 0 to {total - 1}"
        elif entry.label in self._index:
            return entry.label
        else:
            wrong = f"the class '{entry.label}', which is none of the {_shown(self.classes)}"
        raise DataError(f"'{path}' line {entry.line}: clip '{entry.clip}' has {wrong}.")

    def notes(self) -> list[str]:
        """What is guessed, what is held out as val, which clips are in two splits, and which classes train has not."""
        found = []
        if self.guessed:
            found.append(f"No file names the classes: their indices are taken for those of {_shown(self.classes)}.")
        clips = {split: {clip.name: clip.group for clip in self.clips(split)} for split in self.splits}
        if "val" in clips and not self.has_val:
            both = len(clips["val"]) + len(clips["train"])
            found.append(
                f"There is no list of val: {len(clips['val'])} of the {both} clips of train are held out, by a hash of "
                "their names. With --protocol paper, which selects on test, data.val_share=0 trains on all of them."
            )
        for one, other in combinations(self.splits, 2):
            twice = [name for name in clips[other] if name in clips[one]]
            if twice:
                found.append(f"Clips of {other} that are in {one} too: {len(twice)}, the first of them {twice[0]}.")
        learnt = {*clips["train"].values()}
        unknown = [name for name in self.classes if name not in learnt]
        if unknown:
            found.append(f"Classes of which train has no clip: {listed(unknown)}. (Indices count from 0.)")
        return found

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``label`` () int64: the index of the class."""
        return {"label": torch.tensor(self._index[clip.group])}


def _shown(classes: Sequence[str]) -> str:
    """Such as ``31 classes (blowing_nose, ..., tickling)``."""
    return f"{len(classes)} classes ({classes[0]}, ..., {classes[-1]})" if classes else "no classes"
