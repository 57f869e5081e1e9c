"""Small media files that say what is in them: a frame is as bright as its number, a tone begins at a known time."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

CODECS = {
    "mp4": ("libx264", "aac"),
    "mkv": ("libx264", "flac"),
    "webm": ("libvpx-vp9", "libopus"),
    "avi": ("mjpeg", "mp3"),
}


def brightness(number: int) -> int:
    """Of frame ``number``; differs by more than what compression changes."""
    return 20 + 4 * number


def _tone(seconds: float, onset: float, rate: int = 48000, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return (level * 32767 * np.sin(2 * np.pi * hertz * times) * (times >= onset)).astype(np.int16)


def _write_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, samples: np.ndarray, rate: int, start: float
) -> None:
    resampler = av.AudioResampler(format=stream.format.name, layout="stereo", rate=rate)
    for begin in range(0, len(samples), 960):
        block = np.repeat(samples[begin : begin + 960], 2)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), begin + round(start * rate)
        for resampled in resampler.resample(frame):
            container.mux(stream.encode(resampled))
    container.mux(stream.encode(None))


def _make_video(
    path: Path,
    *,
    seconds: float = 5.0,
    fps: int = 10,
    width: int = 48,
    height: int = 32,
    keyframes: int = 12,
    sound: bool = True,
    pictures: bool = True,
    onset: float = 1.0,
    sound_start: float = 0.0,
) -> Path:
    video_codec, audio_codec = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        # A container takes no stream once its header is written.
        video = container.add_stream(video_codec, rate=fps) if pictures else None
        audio = container.add_stream(audio_codec, rate=48000, layout="stereo") if sound else None
        if video is not None:
            video.width, video.height, video.gop_size = width, height, keyframes
            video.pix_fmt = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
            video.thread_count = 1
            if video_codec == "libx264":
                video.options = {"sc_threshold": "0"}  # no keyframes but those asked for
            for number in range(round(seconds * fps)):
                picture = np.full((height, width, 3), brightness(number), np.uint8)
                picture[: height // 2, : width // 2] //= 2  # the corner at the top left is darker
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None:
            _write_sound(container, audio, _tone(seconds, onset), 48000, sound_start)
    return path


def _make_wav(path: Path, samples: np.ndarray, rate: int = 16000, codec: str = "pcm_s16le") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        size = stream.frame_size or 1024
        for begin in range(0, len(samples), size):
            frame = av.AudioFrame.from_ndarray(samples[begin : begin + size][np.newaxis], format="s16p", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), begin
            for resampled in av.AudioResampler(format=stream.format.name).resample(frame):
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    return _make_video


@pytest.fixture(scope="session")
def make_wav() -> Callable[..., Path]:
    return _make_wav


@pytest.fixture(scope="session")
def tone() -> Callable[..., np.ndarray]:
    return _tone


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same 5 s at 10 frames a second in every container, with a tone from 1 s on."""
    folder = tmp_path_factory.mktemp("videos")
    return {kind: _make_video(folder / f"a video.{kind}") for kind in CODECS}
