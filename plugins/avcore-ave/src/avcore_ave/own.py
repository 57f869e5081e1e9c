"""Reader of anybody's own videos: recordings of any length, and ``events.csv`` with what happens in them.

Shape letters: T segments.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import ClassVar

import torch
from torch import Tensor

from avcore.data.recordings import Recording, Recordings, find_videos, listed, within
from avcore.errors import ConfigError, DataError
from avcore.tasks import Clip, Task
from avcore_ave.config import BACKGROUND, OwnEventsConfig
from avcore_ave.table import TABLE, Row, read_table
from avcore_ave.targets import is_weak
from avcore_ave.task import AVETask

__all__ = ["OwnEvents", "covered"]

ROUNDING = 1e-6
"""Shares of a segment, and s, that are nothing."""


class OwnEvents(Recordings):
    """Recordings below a folder with ``events.csv`` (file, start, end, label; s), cut into clips.

    Class indices are the alphabetical order of the labels, or that of the task; background is the last one. A segment
    has the class of the event that covers at least half of it, see `covered`. `Clip.group` is the class, background
    where a clip has none.

    Targets are ``labels`` (T,) int64; for a task with labels of clips alone ``clip_label`` (), beside which val and
    test have ``labels``.

    Raises:
        DataError: the table is missing or malformed, an event begins after its file ends, or several classes are in one
            clip; names the lines.
    """

    nothing: ClassVar[str] = BACKGROUND
    config: OwnEventsConfig

    def __init__(self, config: OwnEventsConfig, root: Path, task: Task | None = None) -> None:
        self.root = Path(root)
        self.table = read_table(self.root)
        self.classes = self._classes(task)
        self.weak = task is not None and is_weak(task)
        if self.weak and config.several == "keep":
            raise ConfigError(
                "data.several=keep: a task that learns from the classes of whole clips needs one of each."
            )
        self.videos = find_videos(self.root)[0]
        self.left_out = 0
        self.late: set[int] = set()
        super().__init__(config, self._listed(), self.table.path)

    def _classes(self, task: Task | None) -> tuple[str, ...]:
        """Those of the task, of which the table may lack some, as when a run is scored on other videos."""
        if not isinstance(task, AVETask):
            return self.table.classes
        known = task.config.classes
        unknown = [name for name in self.table.classes if name not in known]
        if unknown:
            raise DataError(
                f"'{self.table.path}' has the label {listed(unknown)}, which is not among task_options.classes "
                f"({listed(known)}): leave that setting out, and the names are taken from the file."
            )
        return known

    # ----------------------------------------------------------------------------------------------------- which files

    def _listed(self) -> list[Recording]:
        rows: dict[Path, list[Row]] = {}
        find = _Finder(self.root, self.videos)
        for row in self.table.rows:
            rows.setdefault(find(row, self.table.path), []).append(row)
        return [self._recording(path, of) for path, of in rows.items()]

    def _recording(self, path: Path, rows: Sequence[Row]) -> Recording:
        other = next((row for row in rows if row.split != rows[0].split), None)
        if other is not None:
            raise DataError(
                f"'{self.table.path}' line {other.line} puts '{other.file}' into split '{other.split}', line "
                f"{rows[0].line} into '{rows[0].split}': a file is in one."
            )
        labels = [row.label for row in rows if row.label]
        return Recording(
            name=within(path, self.root),
            path=path,
            group=labels[0] if labels else BACKGROUND,
            split=rows[0].split,
            info={"rows": tuple(row for row in rows if row.label)},
        )

    def lasts(self, one: Recording) -> float | None:
        """How long a recording is, s; None where it cannot be read.

        Raises:
            DataError: an event begins after its end.
        """
        found = super().lasts(one)
        if found is not None:
            beyond = [row for row in one.info["rows"] if row.start >= found]
            if beyond:
                lines = f"line {beyond[0].line}" if len(beyond) == 1 else f"lines {_numbers(beyond)}"
                raise DataError(
                    f"'{self.table.path}' {lines}: an event begins at {beyond[0].start:g} s, but '{one.path}' ends "
                    f"after {found:.1f} s. Times are s from the beginning of the file; correct or remove the row."
                )
            step = self.config.clip_seconds / self.segments
            self.late |= {row.line for row in one.info["rows"] if row.end > found + step}
        return found

    # ----------------------------------------------------------------------------------------------------- their truth

    def made_of(self, clip: Clip, one: Recording, lasts: float | None) -> list[Clip]:
        """The clip with its labels; one for each class where ``data.several=split``, none where it has no event."""
        clip = replace(clip, info={"train": self.split_of(one) == "train"})
        by_class = self._covers(clip, one, lasts)
        if not by_class:
            self.left_out += self.config.empty == "leave_out"
            return [self._labelled(clip, {})] if self.config.empty == "keep" else []
        if len(by_class) == 1:
            return [self._labelled(clip, by_class)]
        if self.config.several == "split":
            return [
                self._labelled(
                    replace(clip, name=clip.name if number == 1 else f"{clip.name}#{number}"), {label: cover}
                )
                for number, (label, cover) in enumerate(by_class.items(), start=1)
            ]
        if self.config.several == "keep" and not any(
            sum(cover.get(segment, 0.0) for cover in by_class.values()) > 1 + ROUNDING
            for segment in range(self.segments)
        ):
            return [self._labelled(clip, by_class)]
        raise DataError(self._refusal(clip, one, by_class))

    def _covers(self, clip: Clip, one: Recording, lasts: float | None) -> dict[str, dict[int, float]]:
        """Of each class in a clip, how much of which segments it covers, in the order of the rows."""
        step = self.config.clip_seconds / self.segments
        found: dict[str, dict[int, float]] = {}
        for row in one.info["rows"]:
            end = row.end if lasts is None else min(row.end, lasts)
            for segment, share in covered(row.start - clip.start, end - clip.start, step).items():
                if 0 <= segment < self.segments:
                    of = found.setdefault(row.label, {})
                    of[segment] = min(1.0, of.get(segment, 0.0) + share)
        return found

    def _labelled(self, clip: Clip, by_class: Mapping[str, Mapping[int, float]]) -> Clip:
        labels = [len(self.classes)] * self.segments
        most = [0.0] * self.segments
        for label, cover in by_class.items():
            for segment, share in cover.items():
                if share > most[segment]:
                    labels[segment], most[segment] = self.classes.index(label), share
        group = next(iter(by_class), BACKGROUND)
        of_clip = self.classes.index(group) if by_class else len(self.classes)
        return replace(clip, group=group, info={**clip.info, "labels": labels, "label": of_clip})

    def _refusal(self, clip: Clip, one: Recording, by_class: Mapping[str, object]) -> str:
        end = clip.start + clip.seconds
        rows = [row for row in one.info["rows"] if row.start < end and row.end > clip.start]
        named = " and ".join(f"'{label}'" for label in by_class)
        where = f"'{self.table.path}' lines {_numbers(rows)}: '{one.name}' has {named}"
        if self.config.several == "keep":
            return f"{where} in the same second, between {clip.start:g} and {end:g} s, and a segment has one class."
        keep = "" if self.weak else ", data.several=keep gives each segment its own for heads that can, as ave.linear"
        return (
            f"{where} between {clip.start:g} and {end:g} s, which is one clip, and a clip has one class. "
            f"--set data.several=split makes a clip for each of them{keep}; shorter clips (data.clip_seconds, "
            "data.segments) may have one."
        )

    def target(self, clip: Clip) -> dict[str, Tensor]:
        """``labels`` (T,) int64, and where clips alone are labelled ``clip_label`` (), in train nothing else."""
        labels = {"labels": torch.tensor(clip.info["labels"])}
        if not self.weak:
            return labels
        weak = {"clip_label": torch.tensor(clip.info["label"])}
        return weak if clip.info["train"] else {**labels, **weak}

    # ------------------------------------------------------------------------------------------------ what else is told

    def notes(self) -> list[str]:
        """How the splits came about, and what of the files and of the table is not used as it stands."""
        found = super().notes()
        if self.left_out:
            found.append(f"Clips without an event, left out by data.empty=leave_out: {self.left_out}.")
        used = {one.path for one in self.recordings}
        unnamed = [within(path, self.root) for path in self.videos if path not in used]
        if unnamed:
            found.append(f"Videos that no row of {TABLE} names, left out: {listed(unnamed)}.")
        if self.table.repeated:
            found.append(f"Rows of {TABLE} that repeat another one and change nothing: {self.table.repeated}.")
        if self.late:
            lines = ", ".join(map(str, sorted(self.late)))
            found.append(f"Events of {TABLE} that end with their files, not later as it says: line {lines}.")
        return found


def covered(start: float, end: float, step: float) -> dict[int, float]:
    """Which segments of ``step`` s, counted from 0, an event is in, and how much of each it covers.

    Those of which it covers at least half; where there is none, the one of which it covers most. With whole seconds and
    segments of 1 s these are the segments that begin within the event, as AVE has it.
    """
    first, last = int(start // step), int(end // step)
    shares = {
        number: (min(end, (number + 1) * step) - max(start, number * step)) / step for number in range(first, last + 1)
    }
    half = {number: share for number, share in shares.items() if share >= 0.5 - ROUNDING}
    return half or dict([max(shares.items(), key=lambda item: item[1])])


def _numbers(rows: Sequence[Row]) -> str:
    return " and ".join(str(row.line) for row in rows)


class _Finder:
    """Finds the file that a row means, whatever system wrote the name: accents, slashes, capitals, a missing ending."""

    def __init__(self, root: Path, videos: Sequence[Path]) -> None:
        self.root = root
        self._known: dict[str, set[Path]] = {}
        for path in videos:
            name = within(path, root)
            for key in (name, name.casefold(), name.casefold().removesuffix(path.suffix.casefold())):
                self._known.setdefault(key, set()).add(path)

    def __call__(self, row: Row, table: Path) -> Path:
        name = unicodedata.normalize("NFC", PurePosixPath(row.file.replace("\\", "/")).as_posix())
        if name.startswith("/") or PureWindowsPath(row.file).is_absolute() or ".." in name.split("/"):
            raise DataError(
                f"'{table}' line {row.line}: '{row.file}' must lie below '{self.root}', and be named from there."
            )
        written = self.root / row.file
        if written.is_file():
            return written
        for key in (name, name.casefold()):
            if len(found := self._known.get(key, set())) == 1:
                return next(iter(found))
        return self.root / name
