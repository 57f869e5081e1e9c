"""Prediction on anybody's video: an overlay video with its sound, and a picture strip.

Shape letters: B clips, T segments, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from avcore.data.media import MediaInfo, decode_audio, decode_frames, probe, segment_times
from avcore.errors import AVCoreError
from avcore.report.overlay import Pixels, column_width, resize, save_png, side_by_side, strip, waveform
from avcore.report.video import read_frames, write_video
from avcore.tasks import Batch, Task

if TYPE_CHECKING:
    from avcore.config import RunConfig
    from avcore.model import AVModel

__all__ = ["Prediction", "Segment", "predict_video"]

LONG_SIDE = 1280  # px of the overlay video
THUMBNAIL = 144  # px, height of a frame in the strip
COLUMNS = 10  # of the strip before it starts a new line
MOST_COLUMNS = 60  # of the strip; a longer video shows evenly spaced segments
MOST_FPS = 60  # screen recordings state rates of 1000 Hz and more
DEFAULT_FPS = 25  # for files that state none
PICTURE_RATE = 16000  # Hz, of the drawn sound where the model hears none


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What was predicted for one segment of the video.

    Attributes:
        start_s, stop_s: s from the beginning of the video.
        level_db: loudness, dB below full scale; None for a video without sound.
        text: what the task says of it; empty if the picture says it all.
    """

    start_s: float
    stop_s: float
    level_db: float | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Where the results for a video lie, and what they are in words."""

    video: Path
    strip: Path
    segments: list[Segment]
    summary: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON; paths become text."""
        return asdict(self) | {"video": str(self.video), "strip": str(self.strip)}


def predict_video(
    model: AVModel,
    config: RunConfig,
    path: Path | str,
    out: Path | str | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> Prediction:
    """Run a model over a video of any format, size, rate and length, and draw what it predicts.

    The video is cut into segments as long as those of the clips that the model was trained on (AVSBench: 1 s), and
    these into clips of T. A rest of less than T segments is predicted in the last whole clip, which begins earlier
    and overlaps the one before it; a video shorter than a clip is padded with its last picture and silence. Less than
    half a segment at the end belongs to the segment before it.

    Args:
        model: on any device; left in the mode in which it came.
        config: of the run that trained it.
        path: of the video.
        out: the folder for the results, ``predictions`` in the working directory by default.
        name: beginning of the results' file names; the stem of ``path`` by default.
        overwrite: replace results that are there already.

    Returns:
        The overlay video ``<name>.overlay.mp4`` in the size of the source (1280 px at most on the long side), with its
        rate and its sound, and ``<name>.strip.png``: a column for each segment with frame, prediction and sound.

    Raises:
        AVCoreError: the video is missing, unreadable, has no pictures or no sound for a model that listens, is
            shorter than half a segment, or the results exist.
    """
    path = Path(path)
    info = _usable(path, model)
    folder = Path(out) if out is not None else Path("predictions")
    stem = name or path.stem
    video_file, strip_file = folder / f"{stem}.overlay.mp4", folder / f"{stem}.strip.png"
    for file in (video_file, strip_file):
        if file.exists() and not overwrite:
            raise AVCoreError(f"{file} exists already. Choose another --out folder, or replace it with --overwrite.")

    cuts = _Cuts.of(info.duration_s, model.clip_seconds, model.segments)
    sound_S, rate = _sound(path, info, model, cuts)
    predictions = _predict(model, config, path, cuts, sound_S, rate)
    painted = _Painter(model.task, predictions, cuts, _frame_rate(info))
    frames = read_frames(path, fps=painted.fps, seconds=info.duration_s, long_side=LONG_SIDE)
    write_video(video_file, painted.over(frames), painted.fps, path)

    segments = [
        Segment(start_s=start, stop_s=stop, level_db=level, text=model.task.describe(prediction))
        for (start, stop), level, prediction in zip(
            cuts.times(info.duration_s), _levels(sound_S, rate, cuts), predictions, strict=True
        )
    ]
    title = f"{path.name}: {config.task}, {config.method or '+'.join((*config.prompts, *config.fusion)) or 'head only'}"
    save_png(_strip(painted, segments, sound_S, rate, cuts, title), strip_file)
    kind = "Overlay with sound" if info.audio_rate is not None else "Overlay"
    summary = f"Segments of {cuts.seconds:g} s: {cuts.count}. {kind}: {video_file}. Picture strip: {strip_file}."
    return Prediction(video=video_file, strip=strip_file, segments=segments, summary=summary)


# --------------------------------------------------------------------------------------------------------------------
# From the file to predictions


@dataclass(frozen=True)
class _Cuts:
    """``count`` segments of ``seconds`` s, seen by the model in clips of ``per_clip`` that begin at ``starts``."""

    count: int
    seconds: float
    per_clip: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, duration_s: float, clip_seconds: float, per_clip: int) -> _Cuts:
        seconds = clip_seconds / per_clip
        count = max(1, round(duration_s / seconds))
        whole = range(0, count - per_clip + 1, per_clip)
        rest = [max(0, count - per_clip)] if len(whole) * per_clip < count else []
        return cls(count, seconds, per_clip, (*whole, *rest))

    def at(self, time_s: float) -> int:
        """The segment shown at a time."""
        return min(int(time_s / self.seconds + 1e-6), self.count - 1)

    def times(self, duration_s: float) -> list[tuple[float, float]]:
        """Begin and end of each segment, s; the last one ends with the video."""
        begins = [index * self.seconds for index in range(self.count)]
        return list(zip(begins, [*begins[1:], duration_s], strict=True))

    def samples(self, segment: int, count: int, rate: int) -> slice:
        """Where ``count`` segments from this one on lie in sound of ``rate`` Hz."""
        start = round(segment * self.seconds * rate)
        return slice(start, start + round(count * self.seconds * rate))


def _usable(path: Path, model: AVModel) -> MediaInfo:
    info = probe(path)
    if info.width is None:
        raise AVCoreError(f"{path} has no pictures, only sound; predict takes a video (mp4, webm, mkv, ...).")
    if info.audio_rate is None and model.sound is not None:
        raise AVCoreError(f"{path} has no sound, and this model listens. Give it a video with sound.")
    shortest = model.clip_seconds / model.segments / 2
    if info.duration_s < shortest:
        raise AVCoreError(f"{path} lasts {info.duration_s:.2f} s; this model needs at least {shortest:g} s.")
    return info


def _frame_rate(info: MediaInfo) -> Fraction:
    return min(Fraction(info.fps or DEFAULT_FPS).limit_denominator(1001), Fraction(MOST_FPS))


def _sound(path: Path, info: MediaInfo, model: AVModel, cuts: _Cuts) -> tuple[np.ndarray | None, int]:
    """The sound of all segments (S,) int16, zero-padded to whole clips, and its rate in Hz."""
    rate = model.sound.rate if model.sound is not None else PICTURE_RATE
    if info.audio_rate is None:
        return None, rate
    last = cuts.samples(cuts.starts[-1], cuts.per_clip, rate)
    return decode_audio(path, rate=rate, seconds=last.stop / rate), rate


@torch.no_grad()
def _predict(
    model: AVModel, config: RunConfig, path: Path, cuts: _Cuts, sound_S: np.ndarray | None, rate: int
) -> list[dict[str, Tensor]]:
    """The prediction of each segment in the form of a clip with T = 1, on the CPU."""
    device = next(model.parameters()).device
    frames_N3YX = None
    if model.image is not None:
        seen = cuts.starts[-1] + cuts.per_clip
        frames_N3YX = decode_frames(path, segment_times(seen, 0.0, seen * cuts.seconds), model.image.size)
    heard_S = sound_S if model.sound is not None else None
    found: list[dict[str, Tensor]] = []
    training = model.training
    model.eval()
    try:
        for start in cuts.starts:
            clip = slice(start, start + cuts.per_clip)
            frames = None if frames_N3YX is None else torch.from_numpy(frames_N3YX[None, clip])
            heard = cuts.samples(start, cuts.per_clip, rate)
            sound = None if heard_S is None else torch.from_numpy(heard_S[None, heard])
            valid = torch.ones(1, dtype=torch.bool)
            batch = Batch(frames=frames, waveform=sound, targets={}, names=[path.stem], valid=valid)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.train.precision == "bf16"):
                output = model(batch.to(device))
            whole = {key: _on_host(value[0]) for key, value in model.predict(output).items()}
            shown = range(len(found) - start, min(cuts.per_clip, cuts.count - start))
            found += [_segment(whole, index, cuts.per_clip) for index in shown]
    finally:
        model.train(training)
    return found


def _on_host(value: Tensor) -> Tensor:
    return (value.float() if value.is_floating_point() else value).cpu()


def _segment(clip: Mapping[str, Tensor], index: int, segments: int) -> dict[str, Tensor]:
    """One segment of a prediction as a clip of its own: what has an entry for each segment has T as its first axis."""
    return {
        key: value[index : index + 1] if value.ndim and value.shape[0] == segments else value
        for key, value in clip.items()
    }


# --------------------------------------------------------------------------------------------------------------------
# From predictions to pictures


class _Painter:
    """Paints each frame of the video with the prediction of its segment, and keeps thumbnails of both for the strip.

    The thumbnail of a segment is its middle frame, which is the one that the model sees.
    """

    def __init__(self, task: Task, predictions: Sequence[Mapping[str, Tensor]], cuts: _Cuts, fps: Fraction) -> None:
        self.task, self.predictions, self.cuts, self.fps = task, predictions, cuts, fps
        step = max(1.0, cuts.count / MOST_COLUMNS)
        self.columns = [int(number * step) for number in range(min(cuts.count, MOST_COLUMNS))]
        self.thumbnails: dict[int, tuple[Pixels, Pixels]] = {}

    def over(self, frames: Iterator[Pixels]) -> Iterator[Pixels]:
        """The painted frames, (Y, X, 3) each."""
        chosen = set(self.columns)
        for number, frame_YX3 in enumerate(frames):
            time = number / float(self.fps)
            segment = self.cuts.at(time)
            painted_YX3 = self.task.draw(frame_YX3[None], self.predictions[segment])[0]
            middle = (segment + 0.5) * self.cuts.seconds
            if segment in chosen and (segment not in self.thumbnails or time <= middle + 1e-6):
                self.thumbnails[segment] = (_thumbnail(frame_YX3), _thumbnail(painted_YX3))
            yield painted_YX3


def _thumbnail(frame_YX3: Pixels) -> Pixels:
    return resize(frame_YX3, THUMBNAIL, column_width(frame_YX3.shape, THUMBNAIL))


def _levels(sound_S: np.ndarray | None, rate: int, cuts: _Cuts) -> list[float | None]:
    """Root mean square of each segment in dB below full scale, at least -96 (one step of 16 bits)."""
    if sound_S is None:
        return [None] * cuts.count
    pieces = (sound_S[cuts.samples(index, 1, rate)].astype(np.float64) / 32768 for index in range(cuts.count))
    return [round(20 * math.log10(max(float(np.sqrt(np.mean(piece**2))), 10**-4.8)), 1) for piece in pieces]


def _strip(
    painter: _Painter, segments: Sequence[Segment], sound_S: np.ndarray | None, rate: int, cuts: _Cuts, title: str
) -> Pixels:
    rows: list[tuple[str, Pixels]] = []
    shown = [index for index in painter.columns if index in painter.thumbnails]
    peak = None if sound_S is None else float(np.abs(sound_S.astype(np.int32)).max(initial=1))
    for first in range(0, len(shown), COLUMNS):
        line = shown[first : first + COLUMNS]
        frames, painted = (np.stack(pictures) for pictures in zip(*(painter.thumbnails[i] for i in line), strict=True))
        times = [f"{segments[index].start_s:g} to {segments[index].stop_s:.3g} s" for index in line]
        texts = [segments[index].text for index in line]
        rows.append(("video", strip(frames, times, height=THUMBNAIL)))
        rows.append(("prediction", strip(painted, texts if any(texts) else None, height=THUMBNAIL)))
        if sound_S is not None:
            pieces = np.stack([sound_S[cuts.samples(index, 1, rate)] for index in line])
            rows.append(("sound", waveform(pieces, frames.shape[2], peak=peak)))
    return side_by_side(rows, title)
