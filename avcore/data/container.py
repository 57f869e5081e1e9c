"""Opening media files and reading their packets, with limits and errors that name the file."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.frame import Frame
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from avcore.errors import DataError, why

__all__ = [
    "MAX_SECONDS",
    "MAX_SIDE",
    "audio_stream",
    "check_frame",
    "check_size",
    "existing",
    "length",
    "on_one_thread",
    "opened",
    "origin",
    "packets",
    "video_stream",
]

StreamT = TypeVar("StreamT", AudioStream, VideoStream)

MAX_SIDE = 8192  # px
MAX_RATE = 768_000  # Hz; resampling from more takes seconds, and no recording has it
MIN_RATE = 100  # Hz; less is a damaged header, and every second that it counts becomes hours of resampled sound
MAX_SECONDS = 12 * 3600.0
MAX_WORK = 600.0  # s of processor time that reading one file once may take
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
    """The absolute path of a regular file that may be read and is not empty."""
    path = Path(path)
    try:
        if not path.exists():
            raise DataError(f"{path} does not exist.")
        if not path.is_file():
            raise DataError(f"{path} is not a regular file.")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes).")
        readable = os.access(path, os.R_OK)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {why(error)}.") from error
    if not readable:
        raise DataError(f"{path} may not be read by this user: its permissions forbid it.")
    return path.absolute()


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse pictures that would need gigabytes to decode."""
    if not 0 < width <= MAX_SIDE or not 0 < height <= MAX_SIDE:
        raise DataError(f"{path} says it is {width} x {height} px; at most {MAX_SIDE} x {MAX_SIDE} are read.")


@contextmanager
def opened(path: Path | str) -> Iterator[InputContainer]:
    """Open a media file for reading; what FFmpeg finds wrong with it, then or later, becomes an AVCoreError."""
    path = existing(path)
    _check_riff(path)
    try:
        with av.open(str(path), metadata_errors="replace", options=ONLY_FILES) as container:
            if length(container) > MAX_SECONDS:
                hours = length(container) / 3600
                raise DataError(f"{path} says it lasts {hours:.0f} hours; at most {MAX_SECONDS / 3600:.0f} are read.")
            video, audio = video_stream(container), audio_stream(container)
            for stream, what in ((video, "pictures"), (audio, "sound")):
                if stream is not None and stream.codec_context is None:
                    raise DataError(f"{path} cannot be decoded: the format of its {what} is not known.")
            if video is not None:
                check_size(path, video.codec_context.width, video.codec_context.height)
            if audio is not None and audio.codec_context.sample_rate:
                _check_rate(path, audio.codec_context.sample_rate)
            yield container
    except av.FFmpegError as error:
        raise DataError(
            f"{path} cannot be decoded: {why(error)}. It is damaged, cut short, or of no known media format."
        ) from error


def _check_rate(path: Path, rate: int) -> None:
    if rate > MAX_RATE:
        raise DataError(f"{path} says its sound has {rate} Hz; at most {MAX_RATE} are read.")
    if rate < MIN_RATE:
        raise DataError(f"{path} says its sound has {rate} Hz; at least {MIN_RATE} are read.")


def _check_riff(path: Path) -> None:
    """Refuse a wav or avi file of another length than its header says; FFmpeg reads what the header counts."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        stated = int.from_bytes(head[4:8], "little") + 8
        if head[:4] == b"RIFF" and size + RIFF_SLACK < stated < UNKNOWN_LENGTH:
            raise DataError(
                f"{path} is cut short: it should have {stated} bytes and has {size}. Copy or download it again."
            )
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            _check_wav_data(path, file, min(size, stated))


def _check_wav_data(path: Path, file: BinaryIO, end: int) -> None:
    """Refuse sound that goes on after the bytes that its header counts: no further piece begins there."""
    while len(head := file.read(8)) == 8:
        name, stated = head[:4], int.from_bytes(head[4:], "little")
        after = file.tell() + stated
        if after + RIFF_SLACK >= end:
            return
        file.seek(after)
        if name == b"data":
            # A piece of odd length should be followed by a byte that fills it up, but not all writers add it.
            following = file.read(5)
            if not _names_piece(following[:4]) and not (stated % 2 and _names_piece(following[1:])):
                raise DataError(
                    f"{path} is damaged: its header counts {stated} bytes of sound, and more follows. Copy or download "
                    "it again."
                )
            return
        file.seek(after + stated % 2)


def _names_piece(four: bytes) -> bool:
    return four.isascii() and four.decode().isprintable()


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first stream of moving pictures; a cover picture is none."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def audio_stream(container: InputContainer) -> AudioStream | None:
    """The first stream of sound."""
    return container.streams.audio[0] if container.streams.audio else None


def on_one_thread(stream: StreamT) -> StreamT:
    """Let a stream be decoded by the calling thread alone, and no picture of more than `MAX_SIDE` squared pixels."""
    stream.codec_context.thread_count = 1
    if isinstance(stream, VideoStream):
        # A picture within the stream may be larger than the header says; FFmpeg checks before it takes the memory.
        stream.codec_context.options = {"max_pixels": str(MAX_SIDE**2)}
    return stream


def origin(container: InputContainer) -> float:
    """Where time 0 of the file lies on the clock of its streams, s."""
    return (container.start_time or 0) / av.time_base


def length(container: InputContainer) -> float:
    """How long the file is from its time 0 on, as it says, s; 0 where it does not say.

    In Matroska FFmpeg, as a writer, states where the file ends on its clock, which need not begin with 0.
    """
    stated = (container.duration or 0) / av.time_base
    if container.format.name.startswith("matroska") and stated > origin(container) > 0:
        return stated - origin(container)
    return stated


def check_frame(frame: Frame, path: str) -> None:
    """Refuse a picture or a piece of sound that the decoder had to patch up."""
    if frame.is_corrupt:
        at = "" if frame.time is None else f" at {frame.time:.2f} s"
        raise DataError(f"{path} is damaged{at}: what is decoded there is guesswork. Copy or download it again.")


def packets(container: InputContainer, wanted: StreamT) -> Iterator[Packet[StreamT]]:
    """The packets of a stream from where the container stands, at its end an empty one that flushes the decoder.

    Raises:
        AVCoreError: a part of the stream is missing, the file ends long before the time that its header says, or it
            takes forever to read.
    """
    last = 0.0
    started = time.thread_time()
    # Closed by hand: one that is dropped half-way, as most are here, never gives back what it holds.
    with closing(cast("Generator[Packet[Stream], None, None]", container.demux())) as demuxed:
        for packet in demuxed:
            if time.thread_time() - started > MAX_WORK:
                raise DataError(
                    f"{container.name} takes more than {MAX_WORK:.0f} s to decode: it is damaged, or too long to be "
                    "read from its beginning. Cut the clip out of it first."
                )
            if packet.dts is not None and packet.time_base is not None:
                # Where frames are reordered, the last one may be decoded long before it is shown.
                end = max(packet.dts, packet.pts or packet.dts) + (packet.duration or 0)
                last = max(last, float(end * packet.time_base))
            if packet.stream is wanted:
                if packet.is_corrupt:
                    raise DataError(
                        f"{container.name} is damaged or cut short: a part of it is missing. Copy or download it again."
                    )
                if packet.size == 0:
                    _check_complete(container, last - origin(container))
                yield cast("Packet[StreamT]", packet)


def _check_complete(container: InputContainer, last: float) -> None:
    stated = length(container)
    if container.format.name.split(",")[0] in STATED_DURATION and last < stated - SLACK:
        raise DataError(
            f"{container.name} is cut short: it should last {stated:.1f} s and ends after {last:.1f} s. "
            "Copy or download it again."
        )
