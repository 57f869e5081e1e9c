"""Sound and pictures that tell the time, and what is heard and seen of them."""

import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avcore.report.video import read_frames, write_video

__all__ = ["FAULTS", "RATE", "add_pictures", "bursts", "given", "heard", "mux_pictures", "numbers", "overlay", "pieces"]

RATE = 16000
FAULTS = Path(os.environ.get("AVCORE_TEST_DATA", "/nowhere")) / "faults"
given = pytest.mark.skipif(not FAULTS.is_dir(), reason="AVCORE_TEST_DATA names no folder with faults/")


def bursts(seconds: int, rate: int = RATE) -> np.ndarray:
    """A burst of 0.1 s at k + 0.2 s in each second k."""
    time = np.arange(seconds * rate) / rate
    inside = (time % 1 >= 0.2) & (time % 1 < 0.3)
    return (12000 * np.sign(np.sin(2 * np.pi * 1000 * time)) * inside).astype(np.int16)


def heard(samples_S: np.ndarray, rate: int = RATE) -> list[float]:
    """When each burst begins, s."""
    loud = np.flatnonzero(np.abs(samples_S.astype(int)) > 4000) / rate
    return [float(time) for time, before in zip(loud, [-1.0, *loud], strict=False) if time - before > 0.5]


def pieces(samples_S: np.ndarray, rate: int, at: Callable[[int], float | None]) -> Iterator[av.AudioFrame]:
    """Frames of 320 samples, frame k at ``at(k)`` s, or left out."""
    for number, begin in enumerate(range(0, len(samples_S), 320)):
        time = at(number)
        if time is not None:
            piece = np.ascontiguousarray(samples_S[None, begin : begin + 320])
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, round(time * rate), Fraction(1, rate)
            yield frame


def add_pictures(target: Any, codec: str = "libx264", size: tuple[int, int] = (32, 48), **options: str) -> Any:
    video = target.add_stream(codec, rate=10, options=options)
    video.height, video.width, video.pix_fmt, video.bit_rate = *size, "yuv420p", 4_000_000
    return video


def mux_pictures(target: Any, video: Any, count: int, first: int = 0) -> None:
    """Picture k has the brightness 20 + 4 k."""
    for number in range(count):
        picture = np.full((video.height, video.width, 3), 20 + 4 * (number % 58), np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = first + number, Fraction(1, 10)
        target.mux(video.encode(frame))
    target.mux(video.encode(None))


def numbers(frames: Sequence[np.ndarray] | np.ndarray) -> list[int]:
    return [round((float(frame.mean()) - 20) / 4) for frame in frames]


def overlay(path: Path, seconds: float) -> Path:
    fps = Fraction(10)
    frames = read_frames(path, fps=fps, seconds=seconds)
    return write_video(path.with_name("overlay.mp4"), frames, fps, path)
