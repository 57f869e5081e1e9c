"""Videos read frame by frame as they are shown, and written with their sound. PyAV only.

Shape letters: Y and X image rows and columns, S samples.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from avcore.data.clock import Clock, upright
from avcore.data.container import audio_stream, on_one_thread, opened, origin, video_stream
from avcore.data.sound import Resampler, sound_blocks
from avcore.errors import AVCoreError, DataError, why
from avcore.report.overlay import Pixels, resize

__all__ = ["Sound", "frame_count", "read_frames", "write_video"]

Sound = Path | tuple[np.ndarray, int]
"""A file with sound, or mono samples (S,) int16 and their rate in Hz."""

RATE = 48000
BT709 = 1


def frame_count(seconds: float, fps: Fraction) -> int:
    """How many frames `read_frames` yields."""
    return max(1, round(seconds * fps))


def read_frames(path: Path, *, fps: Fraction, seconds: float, long_side: int | None = None) -> Iterator[Pixels]:
    """The pictures of a video at a constant rate, upright and with square pixels.

    Frame k is the picture shown nearest to k / fps s after time 0 (where the earliest stream of the file begins); a
    video of varying rate, or whose sound is longer than its pictures, so keeps its timing.

    Args:
        path: of the video.
        fps: frames a second to yield, Hz.
        seconds: how long to go on; the last picture is held where the pictures end earlier.
        long_side: larger pictures are made smaller to this many px on the long side.

    Yields:
        (Y, X, 3) uint8, all of one size.

    Raises:
        AVCoreError: no picture could be decoded.
    """
    total = frame_count(seconds, fps)
    done = 0
    with opened(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise DataError(f"'{path}' has no pictures, only sound.")
        on_one_thread(stream)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        shape: tuple[int, ...] | None = None
        held: Any = None
        picture_YX3: Pixels | None = None

        def shown() -> Pixels:
            nonlocal shape, picture_YX3
            if picture_YX3 is None:
                picture_YX3 = _upright(held, aspect, long_side)
                # Recorded calls change their size on the way.
                shape = shape or picture_YX3.shape
                picture_YX3 = resize(picture_YX3, *shape[:2])
            return picture_YX3

        clock, base = Clock(stream), float(stream.time_base or 1)
        for frame in container.decode(stream):
            until = clock.time(frame) * base - origin(container) - 0.5 / float(fps)
            while held is not None and done < total and done / fps < until:
                yield shown()
                done += 1
            held, picture_YX3 = frame, None
            if done >= total:
                return
        if held is None:
            raise DataError(f"No picture of '{path}' could be decoded; the file may be damaged.")
        for _ in range(done, total):
            yield shown()


def _upright(frame: Any, aspect: Fraction, long_side: int | None) -> Pixels:
    """The frame as a player shows it: square pixels, turned as its display matrix says, within ``long_side`` px."""
    height, width = frame.height, max(1, round(frame.width * aspect))
    scale = min(1.0, (long_side or max(height, width)) / max(height, width))
    size = {"height": max(1, round(height * scale)), "width": max(1, round(width * scale))}
    picture_YX3 = frame.to_ndarray(format="rgb24", interpolation=Interpolation.BICUBIC, threads=1, **size)
    return upright(picture_YX3, frame)


def write_video(path: Path, frames: Iterable[Pixels], fps: Fraction | float, audio: Sound | None = None) -> Path:
    """Write an mp4 (H.264 yuv420p, AAC), whole or not at all.

    The first frame is shown at time 0 of the sound, which is where the earliest stream of a file begins; sound that
    lasts longer than the frames is cut. Frames of an odd height or width get one more row or column, a copy of the
    last.

    Args:
        path: of the new file; its folder is made, an older file is replaced.
        frames: (Y, X, 3) uint8 each, all of one size, at least one.
        fps: frames a second, Hz.
        audio: the sound; a file without any, or None, gives a silent video.

    Returns:
        ``path``.

    Raises:
        ValueError: there is no frame, or the frames differ in size.
        AVCoreError: the file with the sound cannot be read, or nothing can be written at ``path``.
    """
    rate = Fraction(fps).limit_denominator(1001)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(aside), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            _encode(container, iter(frames), rate, audio)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise AVCoreError(f"Cannot write {path}: {why(error)}.") from error
    finally:
        with suppress(OSError):
            aside.unlink()
    return path


def _encode(container: Any, frames: Iterator[Pixels], rate: Fraction, audio: Sound | None) -> None:
    first = next(frames, None)
    if first is None:
        raise ValueError("A video needs at least one frame.")
    video = container.add_stream("libx264", rate=rate)
    video.height, video.width = (first.shape[0] + 1) // 2 * 2, (first.shape[1] + 1) // 2 * 2
    video.pix_fmt = "yuv420p"
    context = video.codec_context
    context.thread_count = 1
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.options = {"crf": "18", "preset": "veryfast", "x264-params": "threads=1:lookahead-threads=1"}
    track = None if audio is None else _Track.open(container, audio)

    for count, picture_YX3 in enumerate(chain([first], frames)):
        if picture_YX3.shape != first.shape:
            raise ValueError(f"Frame {count} is {picture_YX3.shape}, the first one {first.shape}.")
        container.mux(video.encode(_picture(picture_YX3, video.height, video.width, count)))
        if track is not None:
            track.write_until(round((count + 1) / rate * RATE))
    container.mux(video.encode(None))
    if track is not None:
        track.close()


def _picture(picture_YX3: Pixels, height: int, width: int, count: int) -> Any:
    """An encoder's frame, padded to even sides."""
    below, right = height - picture_YX3.shape[0], width - picture_YX3.shape[1]
    padded = np.pad(picture_YX3, ((0, below), (0, right), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
    colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
    frame = frame.reformat(format="yuv420p", threads=1, **colours)
    frame.pts = count
    return frame


class _Track:
    """Writes blocks of sound (channels, S) just as far as the pictures have come, so that the file interleaves."""

    def __init__(self, container: Any, start: np.ndarray, blocks: Iterator[np.ndarray]) -> None:
        self.layout = "mono" if len(start) == 1 else "stereo"
        self.container = container
        self.stream = container.add_stream("aac", rate=RATE, layout=self.layout)
        self.pending: np.ndarray | None = start
        self.blocks = blocks
        self.written = 0

    @classmethod
    def open(cls, container: Any, audio: Sound) -> "_Track | None":
        """A track for the sound, or None if there is none."""
        blocks = _sound_blocks(audio)
        start = next(blocks, None)
        return None if start is None else cls(container, start, blocks)

    def write_until(self, sample: int) -> None:
        """Write up to, not including, this sample."""
        while self.pending is not None and self.written < sample:
            piece, rest = np.split(self.pending, [sample - self.written], axis=1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, self.written, Fraction(1, RATE)
            self.container.mux(self.stream.encode(frame))
            self.written += piece.shape[1]
            self.pending = rest if rest.shape[1] else next(self.blocks, None)

    def close(self) -> None:
        """Flush the encoder."""
        self.container.mux(self.stream.encode(None))


def _sound_blocks(audio: Sound) -> Iterator[np.ndarray]:
    """Sound at 48 kHz as contiguous float blocks (1 or 2, S) that begin at time 0 of its file."""
    for block_SC in _given(*audio) if isinstance(audio, tuple) else _read(audio):
        if len(block_SC):
            yield np.ascontiguousarray(block_SC.T, dtype=np.float32) / 32768


def _read(path: Path) -> Iterator[np.ndarray]:
    with opened(path) as container:
        stream = audio_stream(container)
        if stream is not None:
            yield from sound_blocks(container, stream, RATE, min(2, stream.channels))


def _given(samples_S: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """One second of mono samples after the other."""
    resampler: Resampler | None = None
    for start in range(0, len(samples_S), rate):
        piece = np.ascontiguousarray(samples_S[None, start : start + rate], dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        resampler = resampler or Resampler(frame, RATE, 1)
        yield resampler.take(frame)
    if resampler is not None:
        yield resampler.take(None)
