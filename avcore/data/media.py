"""Pictures and sound out of media files, with PyAV (FFmpeg's libraries).

Time 0 of a file is where its earliest stream begins. Everything runs on one thread, because the loader decodes several
clips side by side. Shape letters: T times, S samples, C channels, Y and X image rows and columns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from avcore.data.clock import RAW, Clock, reorders_unsaid, upright
from avcore.data.container import (
    MAX_SECONDS,
    Extent,
    audio_stream,
    check_frame,
    check_size,
    extent,
    on_one_thread,
    opened,
    origin,
    packets,
    video_stream,
)
from avcore.data.pictures import resized
from avcore.data.sound import sound_blocks, sound_stretches
from avcore.errors import DataError

__all__ = [
    "MediaInfo",
    "check_video",
    "decode_audio",
    "decode_frames",
    "probe",
    "segment_times",
    "sound_gaps",
]

SEEK_COST = 2.0  # of a frame decoded after a seek, in units of one decoded in sequence
LEAD = 1.0  # s at the beginning of a file that need not be decodable: recordings of broadcasts begin anywhere
LEAST_GAP = 0.2  # s; sound ends a little before or after the pictures nearly everywhere
ROUNDING = 0.0005  # s: Matroska rounds timestamps to 1 ms, so that a frame may begin just after its due time


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """What a media file holds; None for what it has not.

    Attributes:
        duration_s: length of the file, s.
        fps: mean frames per second.
        width, height: px, as stored.
        audio_rate: Hz.
        channels: of the sound.
        frames: number of pictures.
    """

    duration_s: float
    fps: float | None
    width: int | None
    height: int | None
    audio_rate: int | None
    channels: int | None
    frames: int | None


def probe(path: Path | str) -> MediaInfo:
    """Read what a media file says of itself, without decoding it; sound of an unknown format is as none.

    Raises:
        AVCoreError: the file is missing, unreadable, or holds neither pictures nor sound.
    """
    with opened(path) as container:
        video = video_stream(container)
        audio = audio_stream(container)
        if video is None and audio is None:
            raise DataError(f"{path} holds neither pictures nor sound.")
        if video is not None:
            on_one_thread(video)
        if audio is not None and audio.codec_context is None:
            audio = None
        reach = extent(container)
        return MediaInfo(
            duration_s=reach.seconds,
            fps=None if video is None else _rate(container, video, reach),
            width=video.codec_context.width if video is not None else None,
            height=video.codec_context.height if video is not None else None,
            audio_rate=audio.codec_context.sample_rate if audio is not None else None,
            channels=audio.codec_context.channels if audio is not None else None,
            frames=None if video is None else reach.frames,
        )


def _rate(container: InputContainer, video: VideoStream, reach: Extent) -> float | None:
    # Of a raw stream FFmpeg assumes a rate, and takes the clock of DV for it; how long packets last says it better.
    if container.format.name in (*RAW, "dv") and reach.seconds:
        return reach.frames / reach.seconds
    rate = video.average_rate or video.guessed_rate
    return float(rate) if rate else None


def segment_times(segments: int, start: float, seconds: float, offset: float = 0.5) -> tuple[float, ...]:
    """When each of T equal segments is looked at, s: at the fraction ``offset`` of it, by default in the middle."""
    return tuple(start + (index + offset) * seconds / segments for index in range(segments))


def decode_frames(path: Path | str, times_s: Sequence[float], size: int) -> np.ndarray:
    """The frames that are shown at given times, resized to ``size`` px square (bicubic, antialiased, no crop).

    A time before the first frame takes the first one, a time after the end the last one. The file is decoded in
    sequence or, where keyframes lie close together, from the keyframe before each time; the frames are the same.

    Args:
        path: a video file of a format that avcore reads (`avcore.data.container.FORMATS`).
        times_s: T times in any order, s from time 0 of the file.
        size: Y = X, px.

    Returns:
        (T, 3, Y, X) uint8, RGB, turned upright where the file asks for it.

    Raises:
        AVCoreError: the file is missing, damaged, cut short, without pictures, or more than 8192 px wide or high.
    """
    for look in (_by_seeking, _in_sequence):
        with opened(path) as container:
            video = video_stream(container)
            if video is None or video.time_base is None:
                raise DataError(f"{path} has no pictures, only sound.")
            on_one_thread(video)
            wanted = [int((time + origin(container) + ROUNDING) / video.time_base) for time in times_s]
            found = look(container, video, wanted, size)
            if found is not None:
                return np.stack([found[time] for time in wanted])
    raise AssertionError("decoding in sequence always finds a frame or raises")


def _frames(
    container: InputContainer, video: VideoStream, *, from_start: bool = False
) -> Iterator[tuple[int, VideoFrame]]:
    """Frames with their timestamps, in order, from where the container stands.

    Raises:
        AVCoreError: it stands at the beginning (``from_start``), and the pictures there cannot be decoded.
    """
    first: int | None = None  # when the earliest picture that is to be shown is due
    clock = Clock(video)
    for packet in packets(container, video):
        if from_start and packet.pts is not None and not packet.is_discard:
            first = packet.pts if first is None else min(first, packet.pts)
        for frame in packet.decode():
            time = clock.time(frame)
            if from_start and first is not None:
                _check_lead(container, first, time, video)
            from_start = False
            yield time, frame


def _check_lead(container: InputContainer, first: int, decoded: int, video: VideoStream) -> None:
    # A decoder leaves out, without a word, all that stands before the first key picture.
    lead = float((decoded - first) * (video.time_base or 0))
    if lead > LEAD:
        raise DataError(
            f"{container.name} is damaged: its first {lead:.1f} s cannot be decoded, for the key picture that they "
            "refer to is missing. Copy or download it again."
        )


def _picture(frame: VideoFrame, size: int, path: str) -> np.ndarray:
    check_size(Path(path), frame.width, frame.height)
    return resized(Image.fromarray(upright(frame.to_ndarray(format="rgb24", threads=1), frame)), size)


def _in_sequence(
    container: InputContainer, video: VideoStream, wanted: Sequence[int], size: int
) -> Mapping[int, np.ndarray]:
    """Decode until the last of the wanted timestamps, and keep the frame shown at each."""
    pending = sorted(set(wanted), reverse=True)
    found: dict[int, np.ndarray] = {}
    shown: VideoFrame | None = None
    for timestamp, frame in _frames(container, video, from_start=True):
        check_frame(frame, container.name)
        if shown is not None and timestamp > pending[-1]:
            picture = _picture(shown, size, container.name)
            while pending and timestamp > pending[-1]:
                found[pending.pop()] = picture
            if not pending:
                return found
        shown = frame
    if shown is None:
        raise DataError(f"{container.name} has a video stream without a single picture in it.")
    return found | dict.fromkeys(pending, _picture(shown, size, container.name))


def _by_seeking(
    container: InputContainer, video: VideoStream, wanted: Sequence[int], size: int
) -> Mapping[int, np.ndarray] | None:
    """Decode only what lies between the wanted frames and the keyframes before them.

    None where that is not worth it, or where the index of the file doesn't tell exactly which frame is shown when.
    """
    if container.format.name in RAW or reorders_unsaid(container, video):
        return None
    index: list[int] = []
    keys: list[int] = []
    for packet in packets(container, video):
        if packet.size == 0 or (packet.dts is not None and packet.dts > max(wanted)):
            break
        if packet.pts is None:
            return None
        index.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    index.sort()
    if not index or not keys or min(keys) > index[0] or len(set(index)) < len(index):
        return None

    shown_at = {time: index[max(bisect_right(index, time) - 1, 0)] for time in wanted}
    runs: defaultdict[int, set[int]] = defaultdict(set)
    for timestamp in shown_at.values():
        runs[keys[bisect_right(keys, timestamp) - 1]].add(timestamp)
    cost = sum(bisect_right(index, max(targets)) - bisect_right(index, key) + 1 for key, targets in runs.items())
    if SEEK_COST * cost > bisect_right(index, max(shown_at.values())):
        return None

    pictures: dict[int, np.ndarray] = {}
    for key, targets in runs.items():
        try:
            container.seek(key, stream=video)
        except av.FFmpegError:  # a file that cannot be searched
            return None
        for timestamp, frame in _frames(container, video):
            if frame.is_corrupt:  # damaged, or shown here without a picture before the keyframe that it refers to
                return None
            if timestamp in targets:
                pictures[timestamp] = _picture(frame, size, container.name)
            if timestamp >= max(targets):
                break
    if not pictures.keys() >= set(shown_at.values()):
        return None
    return {time: pictures[timestamp] for time, timestamp in shown_at.items()}


def check_video(path: Path | str, *, start: float = 0.0, seconds: float) -> None:
    """Decode every picture of a stretch of a video, where `decode_frames` may leave out most, and keep none.

    Args:
        path: a video file of a format that avcore reads (`avcore.data.container.FORMATS`).
        start: where the stretch begins, s from time 0 of the file.
        seconds: how long it is, s.

    Raises:
        AVCoreError: as `decode_frames`, for anything that is damaged within the stretch.
    """
    with opened(path) as container:
        video = video_stream(container)
        if video is None or video.time_base is None:
            raise DataError(f"{path} has no pictures, only sound.")
        on_one_thread(video)
        first, last = (int((origin(container) + time) / video.time_base) for time in (start, start + seconds))
        if start > 0 and container.format.name not in RAW:
            with suppress(av.FFmpegError):  # a file that cannot be searched is read from its beginning
                container.seek(first, stream=video)
        for timestamp, frame in _frames(container, video, from_start=not start):
            check_size(Path(path), frame.width, frame.height)
            if timestamp >= first:
                check_frame(frame, container.name)
            if timestamp >= last:
                break


def decode_audio(path: Path | str, *, rate: int, start: float = 0.0, seconds: float, channels: int = 1) -> np.ndarray:
    """Sound as one or two channels of 16 bits: channels mixed down, resampled, trimmed or zero-padded.

    Args:
        path: a sound or video file of a format that avcore reads (`avcore.data.container.FORMATS`).
        rate: of the result, Hz.
        start: where to begin, s from time 0 of the file.
        seconds: how much to take, s.
        channels: of the result, 1 or 2; sound of one channel comes twice then.

    Returns:
        (S,) int16 with S = round(seconds * rate), or (2, S).

    Raises:
        AVCoreError: the file is missing, damaged, cut short, or without sound.
    """
    if start < 0 or not 0 < seconds <= MAX_SECONDS:
        raise DataError(f"{path}: {seconds} s of sound from {start} s on cannot be had; both must be positive.")
    first, count = round(start * rate), round(seconds * rate)
    blocks: list[np.ndarray] = []
    with opened(path) as container:
        audio = audio_stream(container)
        if audio is None:
            raise DataError(f"{path} has no sound.")
        length = 0
        for block in sound_blocks(container, audio, rate, channels):
            blocks.append(block)
            length += len(block)
            if length >= first + count:
                break
        if not blocks:
            raise DataError(f"{container.name} has a sound stream without a single sample in it.")
    samples_SC = np.concatenate(blocks)[first : first + count]
    samples_SC = np.pad(samples_SC, ((0, count - len(samples_SC)), (0, 0)))
    return samples_SC[:, 0] if channels == 1 else np.ascontiguousarray(samples_SC.T)


def sound_gaps(path: Path | str, *, start: float = 0.0, seconds: float) -> list[tuple[float, float]]:
    """Where a stretch of a file has no sound, s from time 0: before it begins, in holes of it, and after its end.

    Where `decode_audio` gives silence. Less than 0.2 s on end is passed over.

    Args:
        path: a file with sound.
        start: where the stretch begins, s from time 0 of the file.
        seconds: how long it is, s.

    Raises:
        AVCoreError: as `decode_audio`.
    """
    with opened(path) as container:
        audio = audio_stream(container)
        found = [] if audio is None else sound_stretches(container, audio, start + seconds)
    gaps: list[tuple[float, float]] = []
    reached = start
    for begin, end in [*found, (start + seconds, start + seconds)]:
        if min(begin, start + seconds) - reached > LEAST_GAP:
            gaps.append((reached, min(begin, start + seconds)))
        reached = max(reached, end)
    return gaps
