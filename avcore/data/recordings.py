"""Recordings of any container and length as clips of one length, in splits that stay: anybody's own videos.

A reader lists its files as `Recording`s and derives from `Recordings`, which probes how long they are, cuts them into
clips, and puts them into splits where nothing else does.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from avcore.data.cuts import Cuts
from avcore.data.media import probe
from avcore.data.pictures import by_number
from avcore.errors import AVCoreError, DataError
from avcore.specs import RecordingSettings, Windows
from avcore.tasks import Clip, Dataset

__all__ = ["Recording", "Recordings", "find_videos", "listed", "split_by_hash", "within"]

SPLITS = ("train", "val", "test")
SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".mpg"),
        *(".mpeg", ".mpe", ".vob", ".ts", ".mts", ".m2ts", ".flv", ".f4v", ".wmv", ".asf"),
        *(".ogv", ".ogm", ".mxf", ".gxf", ".dv", ".nut", ".rm", ".wtv"),
    )
)
"""How the names of videos end, in small letters."""
NAMED = 5
"""Files that a note names."""


def within(path: Path, root: Path) -> str:
    """The name of a file below ``root``, alike on every system: ``/`` between folders, letters with their accents."""
    return unicodedata.normalize("NFC", path.relative_to(root).as_posix())


def find_videos(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder whose names end as those of videos, and the other ones, both in order.

    Hidden files and folders are passed over: what systems leave behind (``.DS_Store``, ``._IMG_1.MOV``, ``Thumbs.db``).
    """
    videos: list[Path] = []
    others: list[Path] = []
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower() not in ("thumbs.db", "desktop.ini"):
                (videos if Path(name).suffix.lower() in SUFFIXES else others).append(Path(at, name))
    return by_number(videos), by_number(others)


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more


def split_by_hash(groups: Mapping[str, str], fractions: Mapping[str, float], seed: int = 0) -> dict[str, str]:
    """A split for each name that follows from the name alone, on every machine: others may come or go.

    A hash of the name without its ending is a number from 0 to 1, and ``fractions`` divide that range. Where a split
    that is due a file of a class (to the nearest whole number) would have none of it, or a split none at all, and only
    there, a file changes over: that whose number is nearest to its range. Train has one of every class.

    Args:
        groups: name -> its class.
        fractions: split -> its share, train first; one of 0 gets nothing.
        seed: of the hash.
    """
    total, low = sum(fractions.values()), 0.0
    ranges: dict[str, tuple[float, float]] = {}
    for split, share in fractions.items():
        if share > 0:
            ranges[split] = (low, low + share / total)
            low += share / total
    places = {name: _number(name, seed) for name in groups}
    last = [*ranges][-1]
    found = {
        name: next((split for split, (_, high) in ranges.items() if place < high), last)
        for name, place in places.items()
    }
    members: defaultdict[str, list[str]] = defaultdict(list)
    for name, group in groups.items():
        members[group].append(name)
    first = next(iter(ranges))
    for names in members.values():
        due = {split: (low, high) for split, (low, high) in ranges.items() if len(names) * (high - low) >= 0.5}
        _fill(found, names, places, {first: ranges[first], **due})
    _fill(found, [*groups], places, ranges)
    return found


def _number(name: str, seed: int) -> float:
    stem = name.removesuffix(Path(name).suffix)
    digest = hashlib.sha256(f"{seed}/{unicodedata.normalize('NFC', stem)}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _fill(
    found: dict[str, str], names: Sequence[str], places: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]
) -> None:
    """Let every one of these splits have one of the names, from those that have several or are not among them."""
    for split, (low, high) in ranges.items():
        held = Counter(found[name] for name in names)
        spare = [name for name in names if held[found[name]] > 1 or found[name] not in ranges]
        if not held[split] and spare:
            nearest = min(spare, key=lambda name: (max(low - places[name], places[name] - high, 0.0), name))
            found[nearest] = split


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A video file of any length.

    Attributes:
        name: unique; `within` its root.
        path: of the file.
        group: its class, of which every split is to have some; `Clip.group`.
        split: the one that it is in; empty where nothing says so.
        info: of its clips.
    """

    name: str
    path: Path
    group: str = ""
    split: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


class Recordings(Dataset):
    """A reader of recordings; a subclass lists them, and gives the targets of the clips that they are cut into.

    Clips lie as `avcore predict` lays them: end to end, the last one ending with the recording, so that it may overlap
    the one before it. A recording shorter than a clip is filled up with silence and its last picture. Where recordings
    name splits, ``val`` and ``test`` that none is in are drawn from train, where there is any.

    Attributes:
        nothing: the group of clips that are of no class; empty where there is none.

    Args:
        config: how they are cut and split.
        recordings: all of them, in order.
        source: the file or folder that lists them, for errors.

    Raises:
        DataError: some name a split and others none, a split is unknown, or there are too few to be split.
    """

    nothing: ClassVar[str] = ""

    def __init__(self, config: RecordingSettings, recordings: Sequence[Recording], source: Path) -> None:
        self.config = config
        self.segments = config.segments
        self.windows = Windows(length=config.window_seconds, margin=config.window_margin)
        self.recordings = tuple(recordings)
        self.source = source
        self._drawn: tuple[str, ...] = ()
        self._splits = self._assigned()
        self.splits = tuple(split for split in SPLITS if split in self._splits.values())
        self._clips: dict[str, list[Clip]] = {}
        self._counts: dict[str, dict[str, int]] = {}

    def _assigned(self) -> dict[str, str]:
        named = {one.name: one.split for one in self.recordings if one.split}
        wrong = next((one for one in self.recordings if one.split and one.split not in SPLITS), None)
        if wrong is not None:
            raise DataError(f"'{self.source}': split '{wrong.split}' of '{wrong.name}' is none of {', '.join(SPLITS)}.")
        without = [one.name for one in self.recordings if not one.split]
        if named and without:
            raise DataError(
                f"'{self.source}' names a split for some recordings and none for others ({listed(without)}): name one "
                "for all of them, or for none, and a hash of their names decides."
            )
        if not self.recordings:
            raise DataError(f"'{self.source}' lists no video.")
        fractions = dict(zip(SPLITS, self.config.fractions, strict=True))
        given = set(named.values())
        if given and "train" not in given:  # enough to score a run on
            return named
        self._drawn = tuple(split for split in SPLITS if split not in given and fractions[split] > 0)
        if not self._drawn:
            return named
        open_to = {one.name: one.group for one in self.recordings if one.split in ("", "train")}
        shares = {split: fractions[split] for split in SPLITS if split in self._drawn or split == "train"}
        if len(open_to) < len(shares):
            raise DataError(
                f"'{self.source}' lists too few files ({len(open_to)}) for the splits {', '.join(shares)}: add some, "
                "at least one for each, or leave a split out with data.fractions."
            )
        return named | split_by_hash(open_to, shares, self.config.split_seed)

    def clips(self, split: str) -> Sequence[Clip]:
        """The clips of a split, those of one recording after the other.

        Raises:
            DataError: no such split, or no clip is left in it.
        """
        if split not in self.splits:
            raise DataError(f"'{self.source}' has no split '{split}', only {', '.join(self.splits)}.")
        if split not in self._clips:
            counts: Counter[str] = Counter()
            self._clips[split] = [
                clip for one in self.recordings if self._splits[one.name] == split for clip in self._cut(one, counts)
            ]
            self._counts[split] = {name: counts[name] for name in ("files", "windows", "padded") if counts[name]}
        if not self._clips[split]:
            raise DataError(f"No clip is left in split '{split}' of '{self.source}'.")
        return self._clips[split]

    def _cut(self, one: Recording, counts: Counter[str]) -> list[Clip]:
        lasts = self.lasts(one)
        starts = (0.0,) if lasts is None else self._starts(lasts)
        step = self.config.clip_seconds / self.segments
        found: list[Clip] = []
        for start in starts:
            name = one.name if len(starts) == 1 else f"{one.name}@{start:g}"
            clip = Clip(
                name=name,
                frames=one.path,
                audio=None,
                seconds=self.config.clip_seconds,
                start=start,
                group=one.group,
                info=one.info,
            )
            made = self.made_of(clip, one, lasts)
            found += made
            counts["windows"] += len(made) if len(starts) > 1 else 0
            if lasts is not None and lasts < start + self.config.clip_seconds - step / 2:
                counts["padded"] += len(made)
        counts["files"] += 1
        return found

    def split_of(self, one: Recording) -> str:
        """The split that a recording is in."""
        return self._splits[one.name]

    def lasts(self, one: Recording) -> float | None:
        """How long a recording is, s; None where it cannot be read, which makes a broken clip."""
        try:
            return probe(one.path).duration_s
        except AVCoreError:
            return None

    def _starts(self, lasts: float) -> tuple[float, ...]:
        length = self.config.clip_seconds
        if self.config.long == "cut":
            cuts = Cuts.of(lasts, length, self.segments)
            return tuple(start * cuts.seconds for start in cuts.starts)
        return (0.0,) if self.config.long == "first" else (max(0.0, (lasts - length) / 2),)

    def made_of(self, clip: Clip, one: Recording, lasts: float | None) -> list[Clip]:
        """What becomes of a piece of a recording: the clip itself, none, or several that see the same. Override it.

        Args:
            clip: the piece.
            one: where it comes from.
            lasts: how long that is, s; None where it cannot be read.
        """
        return [clip]

    def counts(self, split: str) -> dict[str, int]:
        """``files``, clips that are ``windows`` of longer ones, and ``padded`` ones of shorter, where there are any."""
        self.clips(split)
        return self._counts[split]

    def notes(self) -> list[str]:
        """How the splits came about, which classes one has not that another has, and how many clips are filled up."""
        found = []
        if len(self._drawn) > ("train" in self._drawn):
            files = [*self._splits.values()]
            shares = ", ".join(f"{split} {files.count(split)}" for split in self.splits)
            drawn = " and ".join(self._drawn)
            what = "the splits" if "train" in self._drawn else f"{drawn} from the files of train"
            found.append(
                f"A hash of the files' names chooses {what}: {shares} files. Settings: data.fractions, data.split_seed."
            )
        groups: dict[str, list[str]] = {}
        for split in self.splits:
            with suppress(DataError):  # told where the split is read
                groups[split] = [clip.group for clip in self.clips(split) if clip.group != self.nothing]
        classes = [*dict.fromkeys(group for of in groups.values() for group in of)]
        for split, of in groups.items():
            if lacking := [name for name in classes if name not in of]:
                learnt = ", so that they cannot be learnt" if split == "train" else ""
                found.append(f"Classes of which {split} has no clip{learnt}: {listed(lacking)}.")
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for name in classes:
            alike[name.casefold()].append(name)
        if pairs := [" and ".join(names) for names in alike.values() if len(names) > 1]:
            found.append(f"Classes whose names differ in capitals alone: {listed(pairs)}.")
        padded = sum(self.counts(split).get("padded", 0) for split in groups)
        if padded:
            found.append(
                f"Clips shorter than {self.config.clip_seconds:g} s, filled up with silence and their last picture: "
                f"{padded}."
            )
        return found
