"""The layout of LLP: clips of 10 s with the kinds that occur in them, and the seconds in which they are seen and heard.

    categories.txt                           the classes, the kinds
    AVVP_train.csv, AVVP_{val,test}_pd.csv   filename, event_labels: the kinds that are seen or heard anywhere
    AVVP_eval_{audio,visual}.csv             filename, onset, offset, event_labels: runs of seconds of val and test
    frame/<id>/{00000001..}.jpg              a picture a second, from the middle of it
    audio/<id>.wav                           16-bit PCM, 16 kHz, mono

The tables are parted by tabs; a clip is called <id>_0_10.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import KINDS, media
from ..world import Clip

LISTS = {"train": "AVVP_train.csv", "val": "AVVP_val_pd.csv", "test": "AVVP_test_pd.csv"}


def write_clip(root: Path, name: str, split: str, clip: Clip, size: int) -> None:
    """Writes the pictures, of `size` px, and the sound of one clip."""
    media.write_seconds(root / "frame" / name, root / "audio" / f"{name}.wav", clip, size, digits=8)


def write_lists(root: Path, everything: list[tuple[str, str, Clip]]) -> None:
    """Writes the names of the classes, the lists of the splits, and the seconds of val and test."""
    (root / "categories.txt").write_text("".join(f"{kind}\n" for kind in KINDS), encoding="utf-8")
    for split, file in LISTS.items():
        rows = [
            [_full(name), ",".join(thing.kind for thing in clip.things)] for name, of, clip in everything if of == split
        ]
        _write(root / file, ["filename", "event_labels"], rows)
    dense = [(_full(name), clip) for name, split, clip in everything if split != "train"]
    for file, stream in (("AVVP_eval_audio.csv", "sounding_TK"), ("AVVP_eval_visual.csv", "seen_TK")):
        rows = [
            [name, str(onset), str(offset), thing.kind]
            for name, clip in dense
            for thing, present_T in zip(clip.things, getattr(clip, stream).T, strict=True)
            for onset, offset in _runs(present_T)
        ]
        _write(root / file, ["filename", "onset", "offset", "event_labels"], rows)


def _runs(present_T: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """The first second of each run, and the one behind its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], present_T, [False]]).astype(np.int8)))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _full(name: str) -> str:
    return f"{name}_0_10"


def _write(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]), encoding="utf-8")
