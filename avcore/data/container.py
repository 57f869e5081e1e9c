"""Opening media files and reading their packets, with limits and errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from avcore.errors import AVCoreError

__all__ = ["MAX_SECONDS", "MAX_SIDE", "check_size", "existing", "opened", "origin", "packets", "video_stream"]

StreamT = TypeVar("StreamT", AudioStream, VideoStream)

MAX_SIDE = 8192  # px
MAX_SECONDS = 12 * 3600.0
SLACK = 1.0  # s that the packets of a file may fall short of the duration in its header

# In these FFmpeg takes the duration from the header; elsewhere from the size of the file, which proves nothing.
STATED_DURATION = {"matroska", "mov", "flac"}
RIFF_SLACK = 1024  # bytes; some writers count paddings or late chunks wrongly
UNKNOWN_LENGTH = 0x7FFF0000  # programs that write to a pipe put something from here on into a RIFF header

# FFmpeg is to read the file and nothing else: no playlists, which name other files and hosts and may wait for them.
ONLY_FILES = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,avi,wav,w64,aiff,caf,au,ogg,flac,mp3,aac,ac3,amr,mpegts,mpeg,mpegvideo,flv,asf,"
    "gif,h264,hevc,ivf",
}


def existing(path: Path | str) -> Path:
    """The absolute path of a regular file that is not empty."""
    path = Path(path)
    if not path.exists():
        raise AVCoreError(f"{path} does not exist.")
    if not path.is_file():
        raise AVCoreError(f"{path} is not a regular file.")
    if path.stat().st_size == 0:
        raise AVCoreError(f"{path} is empty (0 bytes).")
    return path.absolute()


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse pictures that would need gigabytes to decode."""
    if not 0 < width <= MAX_SIDE or not 0 < height <= MAX_SIDE:
        raise AVCoreError(f"{path} says it is {width} x {height} px; at most {MAX_SIDE} x {MAX_SIDE} are read.")


@contextmanager
def opened(path: Path | str) -> Iterator[InputContainer]:
    """Open a media file for reading; what FFmpeg finds wrong with it, then or later, becomes an AVCoreError."""
    path = existing(path)
    _check_riff(path)
    try:
        with av.open(str(path), metadata_errors="replace", options=ONLY_FILES) as container:
            if (container.duration or 0) / av.time_base > MAX_SECONDS:
                hours = (container.duration or 0) / av.time_base / 3600
                raise AVCoreError(f"{path} says it lasts {hours:.0f} hours; at most {MAX_SECONDS / 3600:.0f} are read.")
            video = video_stream(container)
            if video is not None:
                check_size(path, video.codec_context.width, video.codec_context.height)
            yield container
    except av.FFmpegError as error:
        raise AVCoreError(
            f"{path} cannot be decoded: {error.strerror}. It is damaged, cut short, or of no known media format."
        ) from error


def _check_riff(path: Path) -> None:
    """Refuse a wav or avi file shorter than its header says; FFmpeg reads one as if it were meant to be short."""
    with path.open("rb") as file:
        head = file.read(8)
    stated = int.from_bytes(head[4:], "little") + 8
    size = path.stat().st_size
    if head[:4] == b"RIFF" and size + RIFF_SLACK < stated < UNKNOWN_LENGTH:
        raise AVCoreError(
            f"{path} is cut short: it should have {stated} bytes and has {size}. Copy or download it again."
        )


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first stream of moving pictures; a cover picture is none."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def origin(container: InputContainer) -> float:
    """Where time 0 of the file lies on the clock of its streams, s."""
    return (container.start_time or 0) / av.time_base


def packets(container: InputContainer, wanted: StreamT) -> Iterator[Packet[StreamT]]:
    """The packets of a stream from where the container stands, at its end an empty one that flushes the decoder.

    Raises:
        AVCoreError: the file ends long before the time that its header says.
    """
    last = 0.0
    for packet in container.demux():
        if packet.dts is not None and packet.time_base is not None:
            last = max(last, float((packet.dts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is wanted:
            if packet.size == 0:
                _check_complete(container, last - origin(container))
            yield cast("Packet[StreamT]", packet)


def _check_complete(container: InputContainer, last: float) -> None:
    stated = (container.duration or 0) / av.time_base
    if container.format.name.split(",")[0] in STATED_DURATION and last < stated - SLACK:
        raise AVCoreError(
            f"{container.name} is cut short: it should last {stated:.1f} s and ends after {last:.1f} s. "
            "Copy or download it again."
        )
