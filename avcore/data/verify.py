"""Looking at every clip of a data set, before a run meets what is wrong with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from avcore.data.broken import reading_of
from avcore.data.cache import read_frames, read_sound
from avcore.data.media import check_video, probe, sound_gaps
from avcore.data.pictures import by_number
from avcore.data.randomness import drawn
from avcore.data.workers import Loaded
from avcore.errors import AVCoreError
from avcore.tasks import Clip, Dataset, Task

__all__ = ["NO_TRUTH", "Finding", "ends_early", "has_truth", "list_clips", "truths", "verify"]

NO_TRUTH = (
    "NOTHING IS IN THE TRUTH of any of its clips (no foreground, no event): nothing can be learnt from it, and no "
    "score on it means anything. Look at the files of the truth."
)
SIZE = 32  # px; small, because what is read is only looked at
RATE = 16000  # Hz
CROWD = 2000  # files in a folder, which are those of many clips: looking for gaps at each clip would take too long


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a clip.

    Attributes:
        split: the split it is in.
        clip: its name; empty where it is about the split: its list cannot be read, or there is no truth in it.
        text: what was found, with the file.
        defect: True where a run could not use the clip; False where it can, but hardly as was meant (silence).
    """

    split: str
    clip: str
    text: str
    defect: bool


def list_clips(dataset: Dataset) -> tuple[list[tuple[str, Clip]], list[Finding]]:
    """Every clip with its split, and a finding for each split whose list cannot be read."""
    listed: list[tuple[str, Clip]] = []
    findings: list[Finding] = []
    for split in dataset.splits:
        try:
            listed += [(split, clip) for clip in dataset.clips(split)]
        except AVCoreError as error:
            findings.append(Finding(split=split, clip="", text=str(error), defect=True))
    return listed, findings


def verify(
    dataset: Dataset,
    listed: Sequence[tuple[str, Clip]],
    task: Task,
    *,
    visual: bool = True,
    audio: bool = True,
    workers: int = 0,
) -> Iterator[list[Finding]]:
    """Read clips as a run would, and every picture of their stretches of videos besides.

    Args:
        dataset: the reader.
        listed: clips with their splits, from `list_clips`.
        task: knows whether there is anything in the truth of a clip.
        visual, audio: whether pictures and sound are looked at.
        workers: processes that read; 0 reads in this one.

    Yields:
        What is found about each clip, in order, as it is found; with the last one what is found about whole splits.
    """
    checker = _Checker(dataset, listed, task, visual=visual, audio=audio)
    read, empty = Counter[str](), Counter[str]()
    for place, (found, is_empty) in enumerate(Loaded(checker, range(len(listed)), workers), start=1):
        read[listed[place - 1][0]] += is_empty is not None
        empty[listed[place - 1][0]] += is_empty is True
        yield found if place < len(listed) else [*found, *_without_truth(read, empty)]


def _without_truth(read: Counter[str], empty: Counter[str]) -> Iterator[Finding]:
    for split, clips in read.items():
        if clips and empty[split] == clips:
            yield Finding(split=split, clip="", text=NO_TRUTH, defect=True)


def has_truth(dataset: Dataset, clips: Sequence[Clip], task: Task, *, skip: bool) -> bool:
    """Whether there is anything in the truth of a split: `Task.is_empty` of clip after clip, up to one that is not.

    Raises:
        AVCoreError: a truth cannot be read; with ``skip`` that clip does not count, and where none counts it is True.
    """
    read = 0
    for targets in truths(dataset, clips, skip=skip):
        if not task.is_empty(targets):
            return True
        read += 1
    return not read


def truths(dataset: Dataset, clips: Sequence[Clip], *, skip: bool) -> Iterator[dict[str, Tensor]]:
    """The targets of clips, one after the other, as an evaluation sees them.

    Raises:
        AVCoreError: one cannot be read; with ``skip`` that one is left out.
    """
    for index, clip in enumerate(clips):
        with suppress(*[AVCoreError] if skip else []):
            with reading_of(clip):
                targets = dataset.target(drawn(dataset, clip, index))
            yield targets


class _Checker(TorchDataset[tuple[list[Finding], bool | None]]):
    """What there is to say of each clip, and whether its truth is empty, in this process or in a worker."""

    def __init__(
        self, dataset: Dataset, listed: Sequence[tuple[str, Clip]], task: Task, *, visual: bool, audio: bool
    ) -> None:
        self.dataset = dataset
        self.listed = listed
        self.task = task
        self.visual = visual
        self.audio = audio

    def __getitem__(self, index: int) -> tuple[list[Finding], bool | None]:
        split, clip = self.listed[index]
        is_empty: bool | None = None

        def truth(clip: Clip) -> Iterator[str]:
            nonlocal is_empty
            with reading_of(clip):
                seen = drawn(self.dataset, clip, index)
                is_empty = self.task.is_empty(self.dataset.target(seen))
                self.dataset.inputs(seen, 0)
            yield from ()

        checks = [truth, *([self._frames] if self.visual else []), *([self._sound] if self.audio else [])]
        found: dict[str, Finding] = {}  # by text: pictures and sound of one bad file are one finding
        for check in checks:
            try:
                notes = [Finding(split=split, clip=clip.name, text=text, defect=False) for text in check(clip)]
            except AVCoreError as error:
                notes = [Finding(split=split, clip=clip.name, text=str(error), defect=True)]
            for note in notes:
                found.setdefault(note.text, note)
        return list(found.values()), is_empty

    def _frames(self, clip: Clip) -> Iterator[str]:
        segments = self.dataset.segments
        # How many pictures a segment has is the backbone's to say: any number that is the same for all will do.
        many = 1 if isinstance(clip.frames, Path) else max(1, len(clip.frames) // segments)
        frames_N3YX = read_frames(clip, segments, SIZE, many)
        if isinstance(clip.frames, Path):
            check_video(clip.frames, start=clip.start, seconds=clip.seconds)
            yield from self._length(clip, clip.frames)
        else:
            yield from _gaps(clip.frames[0])
        if len(frames_N3YX) > 1 and (frames_N3YX == frames_N3YX[0]).all():
            yield f"All {len(frames_N3YX)} pictures are the same."

    def _sound(self, clip: Clip) -> Iterator[str]:
        samples_S = read_sound(clip, RATE)
        if clip.audio is not None:
            yield from self._length(clip, clip.audio)
        if not np.any(samples_S):
            yield "The sound is silence."
            return
        path = clip.audio or clip.frames
        gaps = sound_gaps(path, start=clip.start, seconds=clip.seconds) if isinstance(path, Path) else []
        if gaps:
            listed = ", ".join(f"{begin:.1f} to {end:.1f} s" for begin, end in gaps[:3])
            more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
            yield f"{path} has no sound from {listed}{more}: silence stands there."

    def _length(self, clip: Clip, path: Path) -> Iterator[str]:
        yield from ends_early(clip, path, self.dataset.segments)


def ends_early(clip: Clip, path: Path, segments: int) -> Iterator[str]:
    """That a file of a clip ends a segment or more before the clip does.

    Raises:
        AVCoreError: the file cannot be read.
    """
    end, lasts = clip.start + clip.seconds, probe(path).duration_s
    if 0 < lasts < end - clip.seconds / segments:
        yield f"{path} lasts {lasts:.1f} s; the clip is to end at {end:.1f} s."


@lru_cache(maxsize=1)
def _names_in(folder: Path) -> list[Path]:
    return by_number(folder.iterdir())


def _gaps(picture: Path) -> Iterator[str]:
    """Where the numbers of the pictures beside this one, of equal names but for the last number, leave some out."""
    pieces = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", picture.name)
    if pieces is None:
        return
    names = _names_in(picture.parent)
    if len(names) > CROWD:
        return
    alike = re.compile(re.escape(pieces[1]) + "([0-9]+)" + re.escape(pieces[3]))
    numbers = [(int(match[1]), match[0]) for path in names if (match := alike.fullmatch(path.name))]
    steps = [(after - before, last, name) for (before, last), (after, name) in pairwise(numbers)]
    usual = min((step for step, *_ in steps if step), default=1)
    for step, last, name in steps:
        if step == 0:
            yield f"{last} and {name} have the same number."
        elif step != usual:
            yield f"After {last} comes {name}: the numbers of the pictures leave some out."
        if step != usual:
            return
