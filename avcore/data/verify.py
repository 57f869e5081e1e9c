"""Looking at every clip of a data set, before a run meets what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from avcore.data.cache import read_frames, read_sound
from avcore.data.media import check_video, probe, sound_gaps
from avcore.data.reader import torch_loader
from avcore.errors import AVCoreError
from avcore.tasks import Clip, Dataset

__all__ = ["Finding", "list_clips", "verify"]

SIZE = 32  # px; small, because what is read is only looked at
RATE = 16000  # Hz


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a clip.

    Attributes:
        split: the split it is in.
        clip: its name; empty where the list of clips itself cannot be read.
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
    *,
    visual: bool = True,
    audio: bool = True,
    workers: int = 0,
) -> Iterable[list[Finding]]:
    """Read clips as a run would, and every picture of their stretches of videos besides.

    Args:
        dataset: the reader.
        listed: clips with their splits, from `list_clips`.
        visual, audio: whether pictures and sound are looked at.
        workers: processes that read; 0 reads in this one.

    Returns:
        What is found about each clip, in order, as it is found.
    """
    return torch_loader(_Checker(dataset, listed, visual=visual, audio=audio), range(len(listed)), workers)


class _Checker(TorchDataset[list[Finding]]):
    """What there is to say of each clip, in this process or in a worker."""

    def __init__(self, dataset: Dataset, listed: Sequence[tuple[str, Clip]], *, visual: bool, audio: bool) -> None:
        self.dataset = dataset
        self.listed = listed
        self.visual = visual
        self.audio = audio

    def __getitem__(self, index: int) -> list[Finding]:
        split, clip = self.listed[index]
        checks = [self._target, *([self._frames] if self.visual else []), *([self._sound] if self.audio else [])]
        found: dict[str, Finding] = {}  # by text: pictures and sound of one bad file are one finding
        for check in checks:
            try:
                notes = [Finding(split=split, clip=clip.name, text=text, defect=False) for text in check(clip)]
            except AVCoreError as error:
                notes = [Finding(split=split, clip=clip.name, text=str(error), defect=True)]
            for note in notes:
                found.setdefault(note.text, note)
        return list(found.values())

    def _target(self, clip: Clip) -> Iterator[str]:
        self.dataset.target(clip)
        yield from ()

    def _frames(self, clip: Clip) -> Iterator[str]:
        segments = self.dataset.segments
        # How many pictures a segment has is the backbone's to say: any number that is the same for all will do.
        many = 1 if isinstance(clip.frames, Path) else max(1, len(clip.frames) // segments)
        frames_N3YX = read_frames(clip, segments, SIZE, many)
        if isinstance(clip.frames, Path):
            check_video(clip.frames, start=clip.start, seconds=clip.seconds)
            yield from self._length(clip, clip.frames)
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
        end, lasts = clip.start + clip.seconds, probe(path).duration_s
        if 0 < lasts < end - clip.seconds / self.dataset.segments:
            yield f"{path} lasts {lasts:.1f} s; the clip is to end at {end:.1f} s."
