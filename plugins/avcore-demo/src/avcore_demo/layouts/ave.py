"""The layout of AVE: clips of 10 s with one event each, as videos.

    Annotations.txt             Category&VideoID&Quality&StartTime&EndTime, by class as the official file, no header
    categories.txt              the classes in their order, that of the kinds
    {train,val,test}_order.h5   dataset order: row numbers into Annotations.txt
    {train,val,test}Set.txt     the rows themselves, in the order of the split
    negatives.txt               clips without an event, for training with labels of clips alone
    AVE/<id>.mp4                H.264 and AAC, 16 kHz, mono

The event is where its class is seen and heard at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import KINDS, media
from ..world import Clip

FPS = 2
"""Pictures per second of the videos."""

NEGATIVES = "negatives"
"""The split of the clips without an event."""


def write_clip(root: Path, name: str, split: str, clip: Clip, size: int) -> None:
    """Writes the video of one clip, pictures of `size` px."""
    folder = root / "AVE"
    folder.mkdir(exist_ok=True)
    frames = [clip.frame(index / FPS, size) for index in range(clip.seconds * FPS)]
    media.write_mp4(folder / f"{name}.mp4", frames, FPS, clip.waveform(media.RATE), media.RATE)


def write_lists(root: Path, everything: list[tuple[str, str, Clip]]) -> None:
    """Writes annotations, categories, splits and the list of clips without an event."""
    import h5py  # type: ignore[import-untyped]

    events = [(name, split, clip) for name, split, clip in everything if split != NEGATIVES]
    events.sort(key=lambda one: KINDS.index(one[2].category))
    rows = {name: _row(name, clip) for name, _, clip in events}
    numbers = {name: number for number, name in enumerate(rows)}
    _write(root / "Annotations.txt", list(rows.values()))
    _write(root / "categories.txt", list(dict.fromkeys(clip.category for _, _, clip in events)))
    for split in ("train", "val", "test"):
        names = [name for name, of, _ in everything if of == split]
        _write(root / f"{split}Set.txt", [rows[name] for name in names])
        with h5py.File(root / f"{split}_order.h5", "w") as file:
            # Without times of the file's objects: the same clips give the same bytes.
            file.create_dataset("order", data=np.array([numbers[name] for name in names], np.int64), track_times=False)
    _write(root / f"{NEGATIVES}.txt", [name for name, split, _ in everything if split == NEGATIVES])


def _row(name: str, clip: Clip) -> str:
    event_T = (clip.seen_TK & clip.sounding_TK).any(1)
    seconds = np.flatnonzero(event_T)
    return f"{clip.category}&{name}&good&{seconds[0]}&{seconds[-1] + 1}"


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
