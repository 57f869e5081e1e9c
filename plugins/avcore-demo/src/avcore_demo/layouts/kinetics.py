"""The layout of Kinetics-Sounds in OGM-GE's lists: clips of 10 s with one class each, as pictures and sound.

    classes.txt                          the classes in the order of their indices: the kinds, or what is given
    my_{train,val,test}.txt              clip,10,label
    <split>/<clip>/{00000..}.jpg         a picture a second, from the middle of it
    <split>/<clip>/<clip>.wav            16-bit PCM, 16 kHz, mono

OGM-GE has no list of val; the demo has one where clips are asked for. The class is what is seen and heard.
"""

from __future__ import annotations

from pathlib import Path

from .. import KINDS, media
from ..world import Clip


def write_clip(root: Path, name: str, split: str, clip: Clip, size: int) -> None:
    """Writes the pictures, of `size` px, and the sound of one clip."""
    folder = root / split / name
    media.write_seconds(folder, folder / f"{name}.wav", clip, size, digits=5, first=0)


def write_lists(root: Path, everything: list[tuple[str, str, Clip]], classes: tuple[str, ...] = KINDS) -> None:
    """Writes the names of the classes and the lists of the splits that have clips."""
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    for split in dict.fromkeys(split for _, split, _ in everything):
        lines = [f"{name},10,{classes.index(clip.category)}\n" for name, of, clip in everything if of == split]
        (root / f"my_{split}.txt").write_text("".join(lines), encoding="utf-8")
