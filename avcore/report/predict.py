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

from avcore.data.cuts import Cuts
from avcore.data.media import MediaInfo, decode_audio, decode_frames, probe, segment_times
from avcore.errors import AVCoreError, ConfigError, DataError, PluginError, did_you_mean
from avcore.report.events import save_events
from avcore.report.overlay import Pixels, column_width, fitting, resize, save_png, side_by_side, strip, waveform
from avcore.report.video import frame_count, read_frames, write_video
from avcore.tasks import Batch, Event, Task

if TYPE_CHECKING:
    from avcore.config import RunConfig
    from avcore.model import AVModel

__all__ = ["Prediction", "Segment", "predict_video"]

LONG_SIDE = 1280  # px of the overlay video
THUMBNAIL = 144  # px, shorter side of a frame in the strip
COLUMNS = 10  # of the strip before it starts a new line
MOST_COLUMNS = 60  # of the strip; a longer video shows evenly spaced segments
FPS = (5, 60)  # Hz, limits: slide shows would skip segments, screen recordings state 1000 Hz
DEFAULT_FPS = 25  # Hz, for files that state no rate
DRAWN_RATE = 16000  # Hz, of the drawn sound where the model hears none


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

    @property
    def span(self) -> str:
        """``4 to 5``, in s."""
        return f"{round(self.start_s, 2):g} to {round(self.stop_s, 1):g}"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Where the results for a video lie, and what they are in words.

    Attributes:
        video, strip: the files.
        segments: what was predicted for each.
        summary: a line for a person.
        events: what was predicted over the whole video; None for a task without events.
    """

    video: Path
    strip: Path
    segments: list[Segment]
    summary: str
    events: list[Event] | None = None

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
    inputs: Mapping[str, str] | None = None,
) -> Prediction:
    """Run a model over a video of any format, size, rate and length, and draw what it predicts.

    The video is cut into segments as long as those of the clips that the model was trained on (AVSBench: 1 s), see
    `avcore.data.cuts.Cuts`; each frame shows the prediction of its segment.

    Args:
        model: on any device; left in the mode in which it came.
        config: of the run that trained it.
        path: of the video.
        out: the folder for the results, ``predictions`` in the working directory by default.
        name: beginning of the results' file names; the stem of ``path`` by default.
        overwrite: replace results that are there already.
        inputs: what a person gives beside the video, by the names that the task asks for (a question).

    Returns:
        The overlay video ``<name>.overlay.mp4`` in the size of the source (1280 px at most on the long side), with its
        rate (5 to 60 Hz) and its sound, and ``<name>.strip.png``: a column for each segment (60 at most, evenly spaced)
        with frame, prediction and sound. Of a task that predicts events, these as ``<name>.events.json`` and ``.csv``.

    Raises:
        AVCoreError: the video is missing, unreadable, has no pictures or no sound for a model that listens, is
            shorter than half a segment, or the results exist; the task asks for an input that is not given.
    """
    path = Path(path)
    given = _given(model.task, config.task, inputs or {})
    info = _usable(path, model)
    folder = Path(out) if out is not None else Path("predictions")
    stem = fitting(name or path.stem)
    endings = ("overlay.mp4", "strip.png", "events.json", "events.csv")
    video_file, strip_file, *event_files = (folder / f"{stem}.{ending}" for ending in endings)
    for file in (video_file, strip_file, *event_files):
        if file.exists() and not overwrite:
            raise AVCoreError(f"{file} exists already. Choose another --out folder, or replace it with --overwrite.")

    cuts = Cuts.of(info.duration_s, model.clip_seconds, model.segments)
    sound, rate = _sound(path, info, model, cuts)
    predictions = _predict(model, config, path, cuts, sound, rate, given)
    sound_S = sound if sound is None or sound.ndim == 1 else sound.mean(0).astype(np.int16)
    fps = _frame_rate(info)
    painter = _Painter(model.task, predictions, cuts, fps, frame_count(info.duration_s, fps))
    frames = read_frames(path, fps=fps, seconds=info.duration_s, long_side=LONG_SIDE)
    write_video(video_file, painter.over(frames), fps, None if sound is None else path)

    times = cuts.times(info.duration_s)
    segments = [
        Segment(start_s=start, stop_s=stop, level_db=level, text=model.task.describe(prediction))
        for (start, stop), level, prediction in zip(times, _levels(sound_S, rate, cuts), predictions, strict=True)
    ]
    title = (
        f"{path.name}: {config.task}, {config.method or '+'.join((*config.prompts, *config.fusions)) or 'head only'}"
    )
    save_png(_strip(painter, segments, sound_S, rate, cuts, title), strip_file)
    kind = "Overlay" if sound is None else "Overlay with sound"
    summary = f"Segments of {cuts.seconds:g} s: {cuts.count}. {kind}: {video_file}. Picture strip: {strip_file}."
    events = model.task.events(times, predictions)
    if events is not None:
        save_events(events, *event_files)
        summary += f" Events: {' and '.join(map(str, event_files))}."
    return Prediction(video=video_file, strip=strip_file, segments=segments, summary=summary, events=events)


# --------------------------------------------------------------------------------------------------------------------
# From the file to predictions


def _given(task: Task, name: str, texts: Mapping[str, str]) -> dict[str, Tensor]:
    """What a person gave, as the task reads it, with the axis B."""
    wanted = task.inputs
    for key in texts:
        if key not in wanted:
            raise ConfigError(
                f"Task '{name}' takes no input '{key}'.{did_you_mean(key, wanted)} It takes: "
                f"{', '.join(wanted) or 'none'}."
            )
    lacking = [f'--input {key}="..." ({spec.help})' for key, spec in wanted.items() if key not in texts]
    if lacking:
        raise ConfigError(f"Task '{name}' answers about what it is given beside the video: add {', '.join(lacking)}.")
    read = {key: task.read_input(key, texts[key]) for key in wanted}
    for key, tensor in read.items():
        if tuple(tensor.shape) != wanted[key].shape:
            raise PluginError(
                f"--input {key}: task '{name}' reads {tuple(tensor.shape)} where it declares {wanted[key].shape}: tell "
                "its author."
            )
    return {key: tensor[None] for key, tensor in read.items()}


def _usable(path: Path, model: AVModel) -> MediaInfo:
    info = probe(path)
    if info.width is None:
        raise DataError(f"{path} has no pictures, only sound; predict takes a video (mp4, webm, mkv, ...).")
    if info.audio_rate is None and model.sound is not None:
        raise DataError(f"{path} has no sound that can be decoded, and this model listens. Give it a video with sound.")
    shortest = model.clip_seconds / model.segments / 2
    if info.duration_s < shortest:
        raise DataError(f"{path} lasts {info.duration_s:.2f} s; this model needs at least {shortest:g} s.")
    return info


def _frame_rate(info: MediaInfo) -> Fraction:
    return Fraction(min(max(info.fps or DEFAULT_FPS, FPS[0]), FPS[1])).limit_denominator(1001)


def _sound(path: Path, info: MediaInfo, model: AVModel, cuts: Cuts) -> tuple[np.ndarray | None, int]:
    """The sound of all segments, (S,) or (2, S) int16, zero-padded to whole clips, and its rate in Hz.

    None where there is none, or none that can be decoded for a model that does not listen.
    """
    rate, channels = (model.sound.rate, model.sound.channels) if model.sound is not None else (DRAWN_RATE, 1)
    if info.audio_rate is None:
        return None, rate
    last = cuts.samples(cuts.starts[-1], cuts.per_clip, rate)
    try:
        return decode_audio(path, rate=rate, start=0.0, seconds=last.stop / rate, channels=channels), rate
    except DataError:
        if model.sound is not None:
            raise
        return None, rate


@torch.no_grad()
def _predict(
    model: AVModel,
    config: RunConfig,
    path: Path,
    cuts: Cuts,
    sound: np.ndarray | None,
    rate: int,
    inputs: dict[str, Tensor],
) -> list[dict[str, Tensor]]:
    """The prediction of each segment in the form of a clip with T = 1, on the CPU."""
    device = next(model.parameters()).device
    frames = None  # (segments, 3, Y, X), or (segments, K, 3, Y, X)
    if model.image is not None:
        times = segment_times(cuts.seen * model.image.frames, 0.0, cuts.seen * cuts.seconds)
        frames = decode_frames(path, times, model.image.size).reshape(cuts.seen, *model.image.shape)
    listened = sound if model.sound is not None else None
    found: list[dict[str, Tensor]] = []
    training = model.training
    model.eval()
    try:
        for start in cuts.starts:
            clip = slice(start, start + cuts.per_clip)
            seen = None if frames is None else torch.from_numpy(frames[None, clip])
            piece = cuts.samples(start, cuts.per_clip, rate)
            heard = None if listened is None else torch.from_numpy(listened[None, ..., piece])
            valid = torch.ones(1, dtype=torch.bool)
            batch = Batch(
                frames=seen,
                waveform=heard,
                targets={},
                names=[path.stem],
                samples=torch.zeros(1, dtype=torch.long),
                valid=valid,
                inputs=inputs,
            )
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.train.precision == "bf16"):
                output = model(batch.to(device))
            whole = {key: _on_host(value[0]) for key, value in model.predict(output).items()}
            axes = _axes(model, whole)
            shown = range(len(found) - start, min(cuts.per_clip, cuts.count - start))
            found += [_segment(whole, index, axes) for index in shown]
    finally:
        model.train(training)
    return found


def _on_host(value: Tensor) -> Tensor:
    return (value.float() if value.is_floating_point() else value).cpu()


def _axes(model: AVModel, prediction: Mapping[str, Tensor]) -> Mapping[str, str]:
    """The axes of each prediction, as the task declares them."""
    declared = model.task.prediction
    for key in prediction:
        if declared.get(key) not in ("clip", "segment", "pixel"):
            task = type(model.task).__name__
            raise PluginError(
                f"{type(model.head).__name__} predicts '{key}', and {task}.prediction does not say whether that is one "
                f"for each clip, segment or pixel (it names {', '.join(declared) or 'nothing'}): tell the author of "
                f"{task}."
            )
    return declared


def _segment(clip: Mapping[str, Tensor], index: int, axes: Mapping[str, str]) -> dict[str, Tensor]:
    """One segment of a prediction as a clip of its own; what is of the whole clip stays whole."""
    return {key: value if axes[key] == "clip" else value[index : index + 1] for key, value in clip.items()}


# --------------------------------------------------------------------------------------------------------------------
# From predictions to pictures


class _Painter:
    """Paints each frame of the video with the prediction of its segment, and keeps thumbnails of both for the strip.

    The thumbnail of a segment is its middle frame, which is the one that the model sees.
    """

    def __init__(
        self, task: Task, predictions: Sequence[Mapping[str, Tensor]], cuts: Cuts, fps: Fraction, total: int
    ) -> None:
        self.task, self.predictions, self.cuts, self.fps = task, predictions, cuts, fps
        step = max(1.0, cuts.count / MOST_COLUMNS)
        self.columns = [int(number * step) for number in range(min(cuts.count, MOST_COLUMNS))]
        self._middles = {
            segment: min(int((segment + 0.5) * cuts.seconds * fps + 1e-6), total - 1) for segment in self.columns
        }
        self._kept: dict[int, tuple[Pixels, Pixels]] = {}

    def thumbnails(self, segment: int) -> tuple[Pixels, Pixels]:
        """A segment's frame without and with the prediction."""
        return self._kept[self._middles[segment]]

    def over(self, frames: Iterator[Pixels]) -> Iterator[Pixels]:
        """The painted frames, (Y, X, 3) each."""
        wanted = set(self._middles.values())
        for number, frame_YX3 in enumerate(frames):
            segment = self.cuts.at(number / float(self.fps))
            painted_YX3 = self.task.draw(frame_YX3[None], self.predictions[segment])[0]
            if number in wanted:
                self._kept[number] = (_thumbnail(frame_YX3), _thumbnail(painted_YX3))
            yield painted_YX3


def _thumbnail(frame_YX3: Pixels) -> Pixels:
    rows, columns, _ = frame_YX3.shape
    # Upright videos get higher thumbnails: captions need the width.
    height = THUMBNAIL if rows <= columns else min(2 * THUMBNAIL, round(THUMBNAIL * rows / columns))
    return resize(frame_YX3, height, column_width(frame_YX3.shape, height))


def _levels(sound_S: np.ndarray | None, rate: int, cuts: Cuts) -> list[float | None]:
    """Root mean square of each segment in dB below full scale, at least -96 (one step of 16 bits)."""
    if sound_S is None:
        return [None] * cuts.count
    pieces = (sound_S[cuts.samples(index, 1, rate)].astype(np.float64) / 32768 for index in range(cuts.count))
    return [round(20 * math.log10(max(float(np.sqrt(np.mean(piece**2))), 10**-4.8)), 1) for piece in pieces]


def _strip(
    painter: _Painter, segments: Sequence[Segment], sound_S: np.ndarray | None, rate: int, cuts: Cuts, title: str
) -> Pixels:
    rows: list[tuple[str, Pixels]] = []
    peak = None if sound_S is None else float(np.abs(sound_S.astype(np.int32)).max(initial=1))
    for first in range(0, len(painter.columns), COLUMNS):
        line = painter.columns[first : first + COLUMNS]
        frames, painted = (np.stack(pictures) for pictures in zip(*map(painter.thumbnails, line), strict=True))
        times = [f"{segments[index].span} s" for index in line]
        texts = [segments[index].text for index in line]
        rows.append(("video", strip(frames, times, height=frames.shape[1])))
        rows.append(("prediction", strip(painted, texts if any(texts) else None, height=painted.shape[1])))
        if sound_S is not None:
            pieces = np.stack([sound_S[cuts.samples(index, 1, rate)] for index in line])
            rows.append(("sound", waveform(pieces, frames.shape[2], peak=peak)))
    return side_by_side(rows, title)
