"""Opening media files and reading their packets, with limits and errors that name the file."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.frame import Frame
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from avcore.data.clock import RAW, lag, reorders_unsaid
from avcore.data.headers import check_riff, states_length
from avcore.errors import DataError, why

__all__ = [
    "MAX_SECONDS",
    "MAX_SIDE",
    "RESTART",
    "Extent",
    "audio_stream",
    "check_frame",
    "check_size",
    "existing",
    "extent",
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
INDEXED = {"mov", "asf", "mxf", "wav", "w64", "aiff", "caf", "flac"}  # that state how far each stream reaches
RESTART = 1.0  # s; where times go back so far, files were joined, and the clock begins anew
COUNTED = 1 << 30  # frames; an AVI that was written to a pipe states as many or more

# FFmpeg is to read the file and nothing else: no playlists, which name other files and hosts and may wait for them.
FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,flv,asf,mxf,gxf,dv,nut,rm,wtv,ivf,gif,yuv4mpegpipe,"
    "wav,w64,aiff,caf,au,ogg,flac,mp3,aac,ac3,eac3,dts,dtshd,truehd,amr,amrnb,amrwb,wv,ape,tta,tak,mpc,mpc8,dsf,voc,"
    + ",".join(RAW)
)
STILLS = {"mjpeg", "png", "bmp", "gif", "tiff", "webp"}  # FFmpeg's names of how single pictures are coded
GUESSED_TIMES = cast("int", av.container.Flags.gen_pts.value)
ONLY_FILES = {"protocol_whitelist": "file", "format_whitelist": FORMATS}


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
    check_riff(path)
    options = ONLY_FILES if states_length(path) else {**ONLY_FILES, "ignore_length": "1"}
    try:
        with av.open(str(path), metadata_errors="replace", options=options) as container:
            # PyAV lets FFmpeg guess times that a container (AVI, MPEG-PS) does not state; FFmpeg's programs do not.
            container.flags &= ~GUESSED_TIMES
            _check_length(path, stated_length(container))
            video, audio = video_stream(container), audio_stream(container)
            if video is not None and video.codec_context is not None:
                check_size(path, video.codec_context.width, video.codec_context.height)
            if audio is not None and audio.codec_context is not None and audio.codec_context.sample_rate:
                _check_rate(path, audio.codec_context.sample_rate)
            yield container
    except av.FFmpegError as error:
        foreign = _foreign_format(path) if isinstance(error, av.ArgumentError) else None
        if foreign is not None:
            raise DataError(
                f"{path} cannot be decoded: it is of the format '{foreign}', which avcore does not read. Convert it "
                "to mp4 or wav first; docs/troubleshooting.md lists what is read."
            ) from error
        raise DataError(
            f"{path} cannot be decoded: {why(error)}. It is damaged, cut short, or of no known media format."
        ) from error


def _foreign_format(path: Path) -> str | None:
    """FFmpeg's name of a file's format if that is none of `FORMATS`; only its messages tell."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    # What is repeated is told late, among the messages of the next file.
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as messages, suppress(av.FFmpegError):
            av.open(str(path), options=ONLY_FILES).close()
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
    return next((name for _, name, text in messages if "not on whitelist" in text), None)


def _check_length(path: Path | str, seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise DataError(f"{path} says it lasts {seconds / 3600:.0f} hours; at most {MAX_SECONDS / 3600:.0f} are read.")


def _check_rate(path: Path, rate: int) -> None:
    if rate > MAX_RATE:
        raise DataError(f"{path} says its sound has {rate} Hz; at most {MAX_RATE} are read.")
    if rate < MIN_RATE:
        raise DataError(f"{path} says its sound has {rate} Hz; at least {MIN_RATE} are read.")


def video_stream(container: InputContainer) -> VideoStream | None:
    """The stream of moving pictures that a player shows: the default one, or else the first; a cover is none.

    Matroska does not say which are covers; what is coded as single pictures are is taken where there is no other.
    """
    return _default(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)


def audio_stream(container: InputContainer) -> AudioStream | None:
    """The stream of sound that a player plays: the default one, or else the first, of those that it can decode."""
    return _default(container.streams.audio)


def _default(streams: Iterable[StreamT]) -> StreamT | None:
    def rank(stream: StreamT) -> tuple[bool, bool, bool]:
        coded = stream.codec_context
        # FFmpeg knows no rate where a format that does not state it (MPEG-TS) has no sound in the stream.
        usable = coded is not None and (isinstance(stream, VideoStream) or coded.sample_rate > 0)
        moves = coded is None or coded.name not in STILLS
        return usable, moves, bool(stream.disposition & Disposition.default)

    return max(streams, key=rank, default=None)


def on_one_thread(stream: StreamT) -> StreamT:
    """Let a stream be decoded by the calling thread alone, and no picture of more than `MAX_SIDE` squared pixels.

    Raises:
        AVCoreError: it is of a format that FFmpeg does not know.
    """
    if stream.codec_context is None:
        what = "pictures" if isinstance(stream, VideoStream) else "sound"
        raise DataError(f"{stream.container.name} cannot be decoded: the format of its {what} is not known.")
    stream.codec_context.thread_count = 1
    if isinstance(stream, VideoStream):
        # A picture within the stream may be larger than the header says; FFmpeg checks before it takes the memory.
        stream.codec_context.options = {"max_pixels": str(MAX_SIDE**2)}
    return stream


def origin(container: InputContainer) -> float:
    """Where time 0 of the file, the beginning of the earlier one of its two streams, lies on their clock, s."""
    streams = (video_stream(container), audio_stream(container))
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in streams
        if stream is not None and stream.start_time is not None and stream.time_base is not None
    ]
    return min(starts, default=(container.start_time or 0) / av.time_base)


def stated_length(container: InputContainer) -> float:
    """How long the file is from its time 0 on, as it says, with subtitles and all; s; 0 where it does not say.

    Some state where the file ends on its clock, which need not begin with 0: FFmpeg as a writer of Matroska, and every
    writer of mp4 in fragments.
    """
    if any(stream.frames >= COUNTED for stream in container.streams):
        return 0.0
    stated, begin = (container.duration or 0) / av.time_base, origin(container)
    kind = container.format.name.split(",")[0]
    fragmented = kind == "mov" and not any(stream.frames for stream in container.streams)
    if (fragmented or kind == "matroska") and stated > begin > 0:
        return stated - begin
    return stated


@dataclass
class Extent:
    """How far the pictures and the sound of a file reach.

    Attributes:
        seconds: from time 0 to where the later one of the two streams ends.
        frames: pictures; 0 for a file without any.
    """

    seconds: float
    frames: int


def extent(container: InputContainer) -> Extent:
    """How far a file reaches, as its header says where that can be relied on, else as its packets do."""
    video, audio = video_stream(container), audio_stream(container)
    streams = [stream for stream in (video, audio) if stream is not None]
    begin = origin(container)
    kind = container.format.name.split(",")[0]
    frames = 0 if video is None else video.frames
    if kind in INDEXED and begin <= 0 and (frames or video is None):
        ends = [_end(stream) for stream in streams]
        if all(ends):
            return Extent(max(ends) - begin, frames)
    return _measured(container, streams, begin)


def _end(stream: VideoStream | AudioStream) -> float:
    if stream.duration is None or stream.time_base is None:
        return 0.0
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)


def _measured(container: InputContainer, streams: Sequence[VideoStream | AudioStream], begin: float) -> Extent:
    """Count what there is. A raw stream has no clock: each packet begins where the one before it ends."""
    found = Extent(0.0, 0)
    unsaid = -math.inf  # where the last picture ends of which is said only when it is decoded
    ends = dict.fromkeys((stream.index for stream in streams), begin)
    with closing(cast("Generator[Packet[Stream], None, None]", container.demux(*streams))) as demuxed:
        for packet in demuxed:
            stream = packet.stream
            if packet.size == 0 or packet.is_discard or packet.time_base is None:
                continue
            at = packet.dts if packet.pts is None else packet.pts
            at = None if container.format.name in RAW else at
            end = ends[stream.index]
            start = end if at is None else float(at * packet.time_base)
            start = end if start < end - RESTART else start
            lasts = float((packet.duration or 0) * packet.time_base)
            if isinstance(stream, VideoStream):
                found.frames += 1
                lasts = lasts or float(1 / (stream.average_rate or stream.guessed_rate or math.inf))
            ends[stream.index] = max(end, start + lasts)
            if isinstance(stream, VideoStream) and packet.pts is None:
                unsaid = max(unsaid, ends[stream.index])
    video = video_stream(container)
    if video is not None and video.codec_context and video.time_base and reorders_unsaid(container, video):
        # Of damage those will tell who want the pictures.
        with suppress(av.FFmpegError):
            container.seek(0)
            shown = unsaid + float(lag(container, video) * video.time_base)
            ends[video.index] = max(ends[video.index], shown)
    found.seconds = max([begin, *ends.values()]) - begin
    _check_length(container.name, found.seconds)
    return found


def check_frame(frame: Frame, path: str) -> None:
    """Refuse a picture or a piece of sound that the decoder had to patch up."""
    if frame.is_corrupt and states_length(Path(path)):
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
            # Where frames are reordered, the last one may be decoded long before it is shown. When packets are to be
            # decoded is not known at once after a search.
            told = [at for at in (packet.dts, packet.pts) if at is not None]
            if told and packet.time_base is not None:
                last = max(last, float((max(told) + (packet.duration or 0)) * packet.time_base))
            if packet.stream is wanted:
                # FFmpeg doubts the last packet of a file that does not say where its sound ends.
                if packet.is_corrupt and states_length(Path(container.name)):
                    raise DataError(
                        f"{container.name} is damaged or cut short: a part of it is missing. Copy or download it again."
                    )
                if packet.size == 0:
                    _check_complete(container, last - origin(container))
                yield cast("Packet[StreamT]", packet)


def _check_complete(container: InputContainer, last: float) -> None:
    stated = stated_length(container)
    if container.format.name.split(",")[0] in STATED_DURATION and last < stated - SLACK:
        raise DataError(
            f"{container.name} is cut short: it should last {stated:.1f} s and ends after {last:.1f} s. "
            "Copy or download it again."
        )
