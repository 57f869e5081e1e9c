"""The layout of AVSBench: pictures, masks and sound, and videos of the clips of val and test.

S4, one thing sounds through the whole clip:

    Single-source/s4_meta_data.csv                                        name,start_time,category,split
    Single-source/s4_data/visual_frames/<split>/<category>/<name>/<name>_{1..5}.png     RGB
    Single-source/s4_data/gt_masks/<split>/<category>/<name>/<name>_{1..5}.png          1-bit; train has only _1.png
    Single-source/s4_data/audio_wav/<split>/<category>/<name>.wav                       16-bit PCM, 16 kHz, mono
    Single-source/s4_data/videos/<split>/<category>/<name>.mp4                          val and test only

MS3, one or two things sound at a time:

    Multi-sources/ms3_meta_data.csv                                       name,split
    Multi-sources/ms3_data/visual_frames/<name>/<name>.mp4_{1..5}.png
    Multi-sources/ms3_data/gt_masks/<split>/<name>/<name>_{1..5}.png      palette, foreground at index 255
    Multi-sources/ms3_data/audio_wav/<split>/<name>.wav
    Multi-sources/ms3_data/videos/<split>/<name>.mp4
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import media
from ..styles import SECONDS
from ..world import Clip

FPS = 8
"""Pictures per second of the videos."""

# The picture of a second is the last of 16, as in AVSBench.
MOMENTS = tuple(second + 15 / 16 for second in range(SECONDS))


def write_table(root: Path, everything: list[tuple[str, str, Clip]], style: str) -> None:
    """Writes the list of clips from their (name, split, clip)."""
    if style == "s4":
        header = ["name", "start_time", "category", "split"]
        rows = [[name, "0", clip.category, split] for name, split, clip in everything]
        table = root / "Single-source" / "s4_meta_data.csv"
    else:
        header, rows = ["name", "split"], [[name, split] for name, split, _ in everything]
        table = root / "Multi-sources" / "ms3_meta_data.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write_s4(root: Path, name: str, split: str, clip: Clip, size: int) -> None:
    """Writes the files of one clip of S4, pictures of `size` px."""
    data, below = root / "Single-source" / "s4_data", Path(split) / clip.category
    frames, masks = _folder(data / "visual_frames" / below / name), _folder(data / "gt_masks" / below / name)
    for number, t in enumerate(MOMENTS, 1):
        frame_YX3, masks_KYX = clip.picture(t, size)
        media.write_frame(frames / f"{name}_{number}.png", frame_YX3)
        if split != "train" or number == 1:
            media.write_bit_mask(masks / f"{name}_{number}.png", _union(masks_KYX[clip.sounding(t)]))
    _write_sound(data, below, name, split, clip, size)


def write_ms3(root: Path, name: str, split: str, clip: Clip, size: int) -> None:
    """Writes the files of one clip of MS3, pictures of `size` px."""
    data = root / "Multi-sources" / "ms3_data"
    frames, masks = _folder(data / "visual_frames" / name), _folder(data / "gt_masks" / split / name)
    for number, t in enumerate(MOMENTS, 1):
        frame_YX3, masks_KYX = clip.picture(t, size)
        media.write_frame(frames / f"{name}.mp4_{number}.png", frame_YX3)
        media.write_palette_mask(masks / f"{name}_{number}.png", _union(masks_KYX[clip.sounding(t)]))
    _write_sound(data, Path(split), name, split, clip, size)


def _write_sound(data: Path, below: Path, name: str, split: str, clip: Clip, size: int) -> None:
    """Writes the wav file and, but for training clips, the video."""
    wave_S = clip.waveform(media.RATE)
    media.write_wav(_folder(data / "audio_wav" / below) / f"{name}.wav", wave_S, media.RATE)
    if split != "train":
        frames = [clip.frame(index / FPS, size) for index in range(SECONDS * FPS)]
        media.write_mp4(_folder(data / "videos" / below) / f"{name}.mp4", frames, FPS, wave_S, media.RATE)


def _union(masks_KYX: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(masks_KYX.any(axis=0))


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
