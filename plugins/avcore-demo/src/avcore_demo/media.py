"""Writes the demo's pictures, sounds and videos. The same input gives the same bytes of png and wav."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .world import Clip

RATE = 16000
"""Rate of the sound of all layouts, Hz."""

# Black, and white at index 255, where AVSBench's MS3 masks have their foreground.
_PALETTE = [0] * 765 + [255] * 3


def write_frame(path: Path, frame_YX3: NDArray[np.uint8]) -> None:
    """Writes a picture as RGB png."""
    Image.fromarray(frame_YX3).save(path, compress_level=4)


def write_jpeg(path: Path, frame_YX3: NDArray[np.uint8]) -> None:
    """Writes a picture as jpg, with little loss."""
    Image.fromarray(frame_YX3).save(path, quality=95, subsampling=0)


def write_bit_mask(path: Path, mask_YX: NDArray[np.bool_]) -> None:
    """Writes a mask as 1-bit png."""
    Image.fromarray(mask_YX.astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE).save(path)


def write_palette_mask(path: Path, mask_YX: NDArray[np.bool_]) -> None:
    """Writes a mask as png with a palette whose index 255 is the foreground."""
    picture = Image.fromarray(mask_YX.astype(np.uint8) * 255)
    picture.putpalette(_PALETTE)
    picture.save(path)


def pcm(wave_S: NDArray[np.float32]) -> NDArray[np.int16]:
    """16-bit samples from samples in -1..1."""
    return np.round(wave_S * 32767).astype("<i2")


def write_wav(path: Path, wave_S: NDArray[np.float32], rate: int) -> None:
    """Writes mono sound, -1..1 at `rate` Hz, as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm(wave_S).tobytes())


def write_seconds(pictures: Path, sound: Path, clip: Clip, size: int, *, digits: int, first: int = 1) -> None:
    """Writes a clip as pictures and sound: a jpg of each second, from the middle of it, and a wav file at `RATE`.

    Args:
        pictures: The folder of the pictures, which is made.
        sound: The wav file; its folder is made where it is not there.
        clip: What is written.
        size: Rows and columns of the pictures, px.
        digits: Of the numbers that the pictures are called by.
        first: The first of them.
    """
    pictures.mkdir(parents=True)
    for second in range(clip.seconds):
        write_jpeg(pictures / f"{first + second:0{digits}d}.jpg", clip.frame(second + 0.5, size))
    sound.parent.mkdir(exist_ok=True)
    write_wav(sound, clip.waveform(RATE), RATE)


def write_mp4(path: Path, frames: list[NDArray[np.uint8]], fps: int, wave_S: NDArray[np.float32], rate: int) -> None:
    """Writes a video of H.264 and AAC from RGB frames (Y, X, 3) at `fps` Hz and mono sound at `rate` Hz."""
    import av
    from av.audio.frame import AudioFrame
    from av.video.frame import VideoFrame

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "18"})
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        # A keyframe every second makes seeking cheap.
        video.gop_size = fps
        sound = container.add_stream("aac", rate=rate, layout="mono")
        sound.bit_rate = 64000
        for index, frame_YX3 in enumerate(frames):
            picture = VideoFrame.from_ndarray(frame_YX3, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, fps)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        samples = AudioFrame.from_ndarray(pcm(wave_S)[None], format="s16", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = rate, 0, Fraction(1, rate)
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
