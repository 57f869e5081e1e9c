"""Clips that cannot be read: what is done about them, which they are, and how many there may be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from avcore.data.container import existing
from avcore.errors import DataError, why
from avcore.tasks import Clip

__all__ = ["BrokenClips", "BrokenPolicy", "is_there", "reading_of", "refuse_missing"]

BrokenPolicy = Literal["stop", "replace", "leave_out"]
"""``stop`` raises; ``replace`` takes another clip, to train on; ``leave_out`` takes one that counts in no score."""


@dataclass
class BrokenClips:
    """The broken clips of a split, found so far.

    Args:
        split: its name.
        total: clips in it.
        limit: the share of them, 0 to 1, that may be broken; above 0 it is one clip at least.

    Attributes:
        causes: the name of each broken clip and what is wrong with it.
    """

    split: str
    total: int
    limit: float
    causes: dict[str, str] = field(default_factory=dict)

    def add(self, found: Mapping[str, str]) -> dict[str, str]:
        """Take in names and causes; returns those that are new.

        Raises:
            AVCoreError: more are broken than may be.
        """
        new = {name: cause for name, cause in found.items() if name not in self.causes}
        self.causes |= new
        if len(self.causes) > max(self.limit * self.total, self.limit > 0):
            count, (name, cause) = len(self.causes), list(self.causes.items())[-1]
            raise DataError(
                f"{count} of {self.total} clips of split '{self.split}' cannot be read: {count / self.total:.1%} "
                f"where data.broken_limit allows {self.limit:.1%}. 'avcore data verify' lists all; mend them, take "
                f"them off the list of clips, or raise the limit. The last: clip {name}: {cause}"
            )
        return new


def refuse_missing(split: str, clips: Sequence[Clip], *, visual: bool, audio: bool) -> None:
    """Look whether the files of all clips are there, before anything is read.

    Args:
        split: whose clips these are.
        clips: all of it.
        visual, audio: whether pictures and sound are wanted.

    Raises:
        DataError: some are not; names the first one and how many clips lack one.
    """
    lost = [(clip, path) for clip in clips for path in _wanted(clip, visual, audio) if not os.path.lexists(path)]
    if lost:
        clip, path = lost[0]
        raise DataError(
            f"{len({one.name for one, _ in lost})} of {len(clips)} clips of split '{split}' lack files "
            f"({len(lost)} in all), the first of them clip {clip.name}: {path} does not exist. 'avcore data verify' "
            "lists all; data.broken=skip goes on without these clips."
        )


def is_there(clip: Clip) -> bool:
    """Whether the files of a clip exist."""
    return all(os.path.lexists(path) for path in _wanted(clip, visual=True, audio=True))


def _wanted(clip: Clip, visual: bool, audio: bool) -> set[Path]:
    pictures = clip.frames if isinstance(clip.frames, tuple) else (clip.frames,)
    sounds = pictures if clip.audio is None else (clip.audio,)
    return {*(pictures if visual else ()), *(sounds if audio else ()), *clip.files}


@contextmanager
def reading_of(clip: Clip) -> Iterator[None]:
    """What a reader does with the files of a clip; one that is missing or cannot be opened makes a broken clip.

    Raises:
        DataError: instead of the error of the system.
    """
    for path in clip.files:
        existing(path)
    try:
        yield
    except (OSError, EOFError) as error:
        named = getattr(error, "filename", None) or f"A file of clip {clip.name}"
        raise DataError(f"{named} cannot be read: {why(error)}.") from error
