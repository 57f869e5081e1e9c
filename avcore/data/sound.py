"""Sound in blocks of samples, every frame at its time: silence fills holes, what overlaps is trimmed.

Shape letters: S samples, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from avcore.data.container import RESTART, check_frame, on_one_thread, origin, packets

__all__ = ["Resampler", "sound_blocks", "sound_stretches"]

ROUNDING = 0.0015  # s: containers round times to 1 ms; sound that is off by no more goes on where it is
JITTER = 0.01  # s: programs that record live note times that tremble by less about the right ones
CLOCKLESS = {"aac", "ac3", "amr", "amrnb", "amrwb", "dts", "dtshd", "eac3", "mp3", "truehd"}  # FFmpeg estimates times
PERSISTENT = 8  # frames; so many in succession, all late or all early, do not tremble but have moved


def sound_blocks(container: InputContainer, audio: AudioStream, rate: int, channels: int) -> Iterator[np.ndarray]:
    """The sound of a stream from time 0 of the file on, (S, C) int16 at ``rate`` Hz.

    Each frame lies at its time, to 1.5 ms (a single one, if times tremble, to 10 ms): before the stream begins and in
    its holes there is silence, of frames that overlap the earlier one is heard, and what precedes time 0 is left out.

    Raises:
        AVCoreError: the stream is damaged or cut short.
    """
    done = 0  # samples given out
    early = 0  # samples that come before that, still to be left out
    resampler: Resampler | None = None
    place = _Place()
    for frame in _frames(container, audio):
        moved = place.moves(frame)
        if resampler is None or moved or not resampler.fits(frame):
            if resampler is not None:
                rest = resampler.take(None)[early:]
                done += len(rest)
                yield rest
            resampler = Resampler(frame, rate, channels)
            begin = round((place.due - origin(container)) * rate) if place.known else done
            for silence in _silence(begin - done, rate, channels):
                done += len(silence)
                yield silence
            early = max(0, done - begin)
        place.follow(frame)
        block = resampler.take(frame)
        left_out = min(early, len(block))
        early -= left_out
        done += len(block) - left_out
        yield block[left_out:]
    if resampler is not None:
        yield resampler.take(None)[early:]


def sound_stretches(container: InputContainer, audio: AudioStream, until: float) -> list[tuple[float, float]]:
    """Where a stream has sound, begin and end of each stretch without a hole, s from time 0, as far as ``until`` s."""
    found: list[tuple[float, float]] = []
    place = _Place()
    for frame in _frames(container, audio):
        if place.moves(frame) or not found:
            found.append((place.due - origin(container), 0.0))
        place.follow(frame)
        found[-1] = (found[-1][0], place.due - origin(container))
        if found[-1][1] > until:
            break
    return found


def _frames(container: InputContainer, audio: AudioStream) -> Iterator[AudioFrame]:
    first = True
    for packet in packets(container, on_one_thread(audio)):
        for frame in packet.decode():
            check_frame(frame, container.name)
            if not first and container.format.name in CLOCKLESS:
                frame.pts = None
            first = False
            yield frame


def _silence(samples: int, rate: int, channels: int) -> Iterator[np.ndarray]:
    """In blocks of 1 s: a damaged time may ask for years, of which nobody takes more than is wanted."""
    for begin in range(0, samples, rate):
        yield np.zeros((min(rate, samples - begin), channels), np.int16)


class _Place:
    """Where the next frame is due on the clock of the stream, if sound goes on as it is.

    Attributes:
        due: s.
        known: whether any frame has told a time so far.
    """

    def __init__(self) -> None:
        self.due = 0.0
        self.known = False
        self._off: list[float] = []
        self._restarts = 0.0

    def moves(self, frame: AudioFrame) -> bool:
        """Whether a frame does not follow on the one before it; ``due`` is then where it belongs."""
        if frame.time is None:
            return False
        time = frame.time + self._restarts
        if self.known and time < self.due - RESTART:
            self._restarts += self.due - time
            return False
        off = time - self.due
        goes_on = self._off and off * self._off[-1] > 0
        self._off = [] if abs(off) <= ROUNDING else [*self._off, off] if goes_on else [off]
        if self.known and abs(off) < JITTER:
            if len(self._off) < PERSISTENT:
                return False
            time = self.due + sum(self._off) / PERSISTENT
        self.due, self.known, self._off = time, True, []
        return True

    def follow(self, frame: AudioFrame) -> None:
        """Take in a frame that lies where it is due."""
        self.due += frame.samples / frame.sample_rate


class Resampler:
    """Makes sound like a given frame's into int16 at ``rate`` Hz, of one channel or two.

    As `av.AudioResampler`, which starts a thread for each processor.
    """

    def __init__(self, like: AudioFrame, rate: int, channels: int) -> None:
        self._channels = channels
        # FFmpeg makes a channel that becomes two softer: it is doubled here instead.
        self._mixed = min(channels, like.layout.nb_channels)
        self._kind = self._kind_of(like)
        self._graph = av.filter.Graph()
        self._graph.threads = 1
        source = self._graph.add_abuffer(
            sample_rate=like.sample_rate, format=like.format, layout=like.layout, time_base=like.time_base
        )
        layout = "mono" if self._mixed == 1 else "stereo"
        wanted = self._graph.add("aformat", sample_rates=str(rate), sample_fmts="s16", channel_layouts=layout)
        self._graph.link_nodes(source, wanted, self._graph.add("abuffersink")).configure()

    def fits(self, frame: AudioFrame) -> bool:
        """Whether a frame has the rate, the channels and the format of the first one."""
        return self._kind_of(frame) == self._kind

    def take(self, frame: AudioFrame | None) -> np.ndarray:
        """The samples that are ready after a further frame, or the last ones (None)."""
        self._graph.push(frame)
        blocks: list[np.ndarray] = [np.empty((0, self._mixed), np.int16)]
        with suppress(av.BlockingIOError, av.EOFError):  # it wants more, or has no more
            while True:
                blocks.append(self._graph.pull().to_ndarray().reshape(-1, self._mixed))
        mixed_SC = np.concatenate(blocks)
        return mixed_SC if self._mixed == self._channels else mixed_SC.repeat(self._channels, axis=1)

    @staticmethod
    def _kind_of(frame: AudioFrame) -> tuple[int, str, str]:
        return frame.sample_rate, frame.layout.name, frame.format.name
