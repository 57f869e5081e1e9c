"""A video whose every second shows and sounds something else, a toy model that listens and looks, and its task."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avcore.report.overlay import Pixels
from avcore.report.video import write_video
from avcore.specs import FilterBankGeometry, ImageGeometry, Windows
from avcore.tasks import Batch, Task

RATE = 16000
FPS = 10
LOUD = (1, 3)
"""The seconds in which the video of `make_video` sounds; it is reddish then, bluish otherwise."""


class ToyTask(Task):
    """The prediction tints what sounds: a mask (T, Y, X) at the model's size, and a title of the whole clip."""

    score = "none"
    prediction: ClassVar[dict[str, str]] = {"masks": "pixel", "title": "clip"}

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        masks = nn.functional.interpolate(prediction["masks"][:, None], frames_TYX3.shape[1:3])[:, 0].numpy()
        assert len(masks) == len(frames_TYX3)
        assert prediction["title"].shape == (7,)
        return frames_TYX3 // 2 + np.array([0, 127, 0], dtype=np.uint8) * masks[..., None].astype(np.uint8)

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        return f"{float(prediction['masks'].mean()):.1f} sounds"


class WholeClips(ToyTask):
    """One answer for each clip, with the seconds that sound as plain data."""

    prediction: ClassVar[dict[str, str]] = {"title": "clip", "masks": "pixel"}

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        return f"{int(prediction['masks'].amax((1, 2)).sum())} of {len(prediction['masks'])} sound"

    def details(self, times: Sequence[tuple[float, float]], prediction: Mapping[str, Tensor]) -> dict[str, Any]:
        loud = prediction["masks"].amax((1, 2)).tolist()
        return {"kind": "sound", "at": [start for (start, _), here in zip(times, loud, strict=False) if here]}


class ToyModel(nn.Module):
    """Marks the left half of each segment whose sound is loud; remembers the batches that it was given."""

    def __init__(self, *, listens: bool = True, segments: int = 5, clip_seconds: float = 5.0) -> None:
        super().__init__()
        self.task = ToyTask(None)
        self.segments, self.clip_seconds = segments, clip_seconds
        self.windows = Windows(length=clip_seconds / segments, margin=clip_seconds / segments)
        self.image = ImageGeometry(size=32)
        self.sound = FilterBankGeometry(rate=RATE) if listens else None
        self.scale = nn.Parameter(torch.ones(1))
        self.batches: list[Batch] = []

    def outputs(self, batch: Batch, inputs: Sequence[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        found = self(batch)
        return (found for _ in inputs)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert not self.training
        assert batch.frames is not None
        assert batch.frames.shape == (1, self.segments, 3, 32, 32)
        self.batches.append(batch)
        if self.sound is None:
            return {"loud": torch.ones(1, self.segments)}
        assert batch.waveform is not None
        assert batch.waveform.shape == (1, round(self.clip_seconds * RATE))
        return {"loud": batch.waveform.float().view(1, self.segments, -1).abs().mean(-1) * self.scale > 500}

    def predict(self, out: Mapping[str, Tensor]) -> dict[str, Tensor]:
        masks = torch.zeros(1, self.segments, 32, 32)
        masks[..., :16] = out["loud"].float()[..., None, None]
        return {"masks": masks, "title": torch.zeros(1, 7)}


@pytest.fixture
def toy_model() -> Callable[..., Any]:
    return ToyModel


@pytest.fixture
def whole_clips() -> Callable[[], ToyModel]:
    """Makes a model whose task answers for whole clips."""

    def make() -> ToyModel:
        model = ToyModel()
        model.task = WholeClips(None)
        return model

    return make


@pytest.fixture
def toy_config() -> Any:
    return SimpleNamespace(
        task="toy", method=None, prompts=("toy.rows",), fusions=(), train=SimpleNamespace(precision="fp32")
    )


def picture(second: int, height: int, width: int, number: int) -> Pixels:
    frame = np.full((height, width, 3), (200, 60, 60) if second in LOUD else (60, 60, 200), dtype=np.uint8)
    left = number * 3 % (width - 20)
    frame[height // 3 : height // 3 + 20, left : left + 20] = 240
    return frame


def sound(seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    loud = np.isin(time.astype(int), LOUD)
    return (12000 * np.sin(2 * np.pi * 440 * time) * loud).astype(np.int16)


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    def make(
        seconds: float,
        *,
        name: str = "clip.mp4",
        silent: bool = False,
        size: tuple[int, int] = (90, 160),
        fps: float = FPS,
    ) -> Path:
        frames = (picture(int(number / fps), *size, number) for number in range(round(seconds * fps)))
        return write_video(tmp_path / name, frames, fps, None if silent else (sound(seconds), RATE))

    return make


@pytest.fixture
def make_webm(tmp_path: Path) -> Callable[[], Path]:
    """VP8 and Opus, 4 s long, with pictures at uneven times."""

    def make() -> Path:
        path = tmp_path / "uneven.webm"
        times_ms = [0, 400, 930, 1000, 1033, 1066, 1100, 1900, 2000, 2500, 3000, 3040, 3900]
        with av.open(str(path), "w") as container:
            video = container.add_stream("libvpx", rate=30)
            video.height, video.width, video.pix_fmt = 90, 160, "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000)
            audio = container.add_stream("libopus", rate=48000, layout="mono")
            for number, time_ms in enumerate(times_ms):
                frame = av.VideoFrame.from_ndarray(picture(time_ms // 1000, 90, 160, number), format="rgb24")
                frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            samples = np.repeat(sound(4), 48000 // RATE)
            for start in range(0, len(samples), 4800):
                piece = av.AudioFrame.from_ndarray(samples[None, start : start + 4800], format="s16", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 48000, start, Fraction(1, 48000)
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
        return path

    return make
