"""When and how the pictures of a video are shown: at which times, and which way up."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from heapq import heappop, heappush
from itertools import islice
from typing import Any, cast

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

__all__ = ["RAW", "Clock", "lag", "reorders_unsaid", "upright"]

RAW = ("h261", "h263", "h264", "hevc", "vvc", "obu", "m4v", "mjpeg", "mpegvideo", "vc1", "dirac")
"""FFmpeg's names of video without a container, which has no clock."""

LOOKED_AT = 32  # packets; no format reorders pictures farther than 16


class Clock:
    """Tells when each picture of a stream is shown, asked in the order in which the decoder gives them.

    A container may state when a picture is shown, when it is decoded (AVI), or neither. As FFmpeg's own programs do,
    this goes by the times of showing until they prove more faulty than those of decoding; without any, and in a raw
    stream, it counts.
    """

    def __init__(self, video: VideoStream) -> None:
        self._counts = video.container.format.name in RAW
        rate = video.average_rate or video.guessed_rate
        self._step = max(1, round(1 / (rate * video.time_base))) if rate and video.time_base else 1
        self._last: int | None = None
        self._pts, self._dts = _Track(), _Track()

    def time(self, frame: VideoFrame) -> int:
        """When a picture is shown, in the time base of its stream."""
        self._pts.take(frame.pts)
        self._dts.take(frame.dts)
        told = frame.pts if self._pts.faults <= self._dts.faults or frame.dts is None else frame.dts
        told = frame.dts if told is None else told
        following = 0 if self._last is None else self._last + (frame.duration or self._step)
        if self._counts or told is None or (self._pts.faults and self._last is not None and told <= self._last):
            told = following
        self._last = told
        return told


class _Track:
    """Counts how often times do not go on."""

    def __init__(self) -> None:
        self.faults = 0
        self._last: int | None = None

    def take(self, time: int | None) -> None:
        if time is not None:
            self.faults += self._last is not None and time <= self._last
            self._last = time


def reorders_unsaid(container: InputContainer, video: VideoStream) -> bool:
    """Whether pictures are shown in another order than they are decoded in, and the container does not say when.

    AVI never does, and ASF and an MPEG program stream for some pictures only: where reading begins in its middle, times
    are off.
    """
    return container.format.name in ("avi", "asf", "mpeg") and video.codec_context.has_b_frames


def lag(container: InputContainer, video: VideoStream) -> int:
    """How much later pictures are shown than their packets say, in the time base of the stream.

    It decodes the first ones, from where the container stands.
    """
    clock, late = Clock(video), 0
    told: list[int] = []
    with closing(cast("Generator[Packet[VideoStream], None, None]", container.demux(video))) as demuxed:
        for packet in islice(demuxed, LOOKED_AT):
            at = packet.dts if packet.pts is None else packet.pts
            if packet.size and at is not None:
                heappush(told, at)
            for frame in packet.decode():
                shown = clock.time(frame)
                if told:
                    late = max(late, shown - heappop(told))
    return late


def upright(picture_YX3: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """The picture of a frame turned and mirrored as its display matrix says, to the nearest of the eight ways."""
    matrix = _display_matrix(frame)
    if matrix is None:
        return np.ascontiguousarray(np.rot90(picture_YX3, round(frame.rotation / 90)))
    # Column x and row y are shown at column a x + c y and row b x + d y.
    a, b, _, c, d = matrix[:5].astype(float)
    if abs(a) + abs(d) < abs(b) + abs(c):
        picture_YX3, a, d = picture_YX3.swapaxes(0, 1), c, b
    return np.ascontiguousarray(picture_YX3[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _display_matrix(frame: VideoFrame) -> np.ndarray | None:
    try:
        # Not `frame.side_data`: a frame and what it holds there refer to each other and keep their memory for long.
        entry: Any = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    except ValueError:  # other side data, of a kind that PyAV does not know
        return None
    return None if entry is None else np.frombuffer(bytes(entry), np.int32)
