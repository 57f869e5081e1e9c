"""Prediction on anybody's video: an overlay video with its sound, and a picture strip.

Shape letters: B clips, T segments, S samples, Y and X image rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from avcore.data.cuts import Cuts
from avcore.data.media import MediaInfo, decode_audio, decode_frames, probe, segment_times
from avcore.errors import AVCoreError, ConfigError, DataError, PluginError, did_you_mean
from avcore.report.events import save_events
from avcore.report.overlay import Pixels, column_width, fitting, resize, save_png, side_by_side, strip, waveform
from avcore.report.prediction import Prediction, Span, answers_clips, in_words, save_predictions
from avcore.report.video import frame_count, read_frames, write_video
from avcore.tasks import Batch, Task

if TYPE_CHECKING:
    from avcore.config import RunConfig
    from avcore.model import AVModel

__all__ = ["predict_video"]

LONG_SIDE = 1280  # px of the overlay video
THUMBNAIL = 144  # px, shorter side of a frame in the strip
COLUMNS = 10  # of the strip before it starts a new line
MOST_COLUMNS = 60  # of the strip; a longer video shows evenly spaced segments
FPS = (5, 60)  # Hz, limits: slide shows would skip segments, screen recordings state 1000 Hz
DEFAULT_FPS = 25  # Hz, for files that state no rate
DRAWN_RATE = 16000  # Hz, of the drawn sound where the model hears none


def predict_video(
    model: AVModel,
    config: RunConfig,
    path: Path | str,
    out: Path | str | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
    inputs: Sequence[Mapping[str, str]] = (MappingProxyType({}),),
) -> list[Prediction]:
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
        inputs: what a person gives beside the video, by the names that the task asks for (a question); several to have
            each answered. Streams that see none of it run once for all.

    Returns:
        One for each of ``inputs``. The overlay video ``<name>.overlay.mp4`` has the size of the source (1280 px at most
        on the long side), its rate (5 to 60 Hz) and its sound; ``<name>.strip.png`` has a column for each segment (60
        at most, evenly spaced) with frame, prediction and sound; ``<name>.predictions.json`` and ``.csv`` have the
        predictions in words. Of a task that predicts events, these as ``<name>.events.json`` and ``.csv``. Of several
        inputs each has an overlay video, and events, by its number: ``<name>.2.overlay.mp4``; the rest is one for all.

    Raises:
        AVCoreError: the video is missing, unreadable, has no pictures or no sound for a model that listens, is
            shorter than half a segment, or the results exist; the task asks for an input that is not given.
    """
    path, task = Path(path), model.task
    given = [
        _given(task, config.task, texts, number if len(inputs) > 1 else 0) for number, texts in enumerate(inputs, 1)
    ]
    if not given:
        raise ConfigError("predict is given an empty list of inputs; leave them out, or give one.")
    info = _usable(path, model)
    folder = Path(out) if out is not None else Path("predictions")
    stem = fitting(name or path.stem)
    stems = [stem] if len(given) == 1 else [f"{stem}.{number}" for number in range(1, len(given) + 1)]
    strip_file, json_file, csv_file = (
        folder / f"{stem}.{ending}" for ending in ("strip.png", "predictions.json", "predictions.csv")
    )
    own = [[folder / f"{one}.{end}" for end in ("overlay.mp4", "events.json", "events.csv")] for one in stems]
    for file in (*chain(*own), strip_file, json_file, csv_file):
        if file.exists() and not overwrite:
            raise AVCoreError(f"{file} exists already. Choose another --out folder, or replace it with --overwrite.")

    cuts = Cuts.of(info.duration_s, model.clip_seconds, model.segments)
    sound, rate = _sound(path, info, model, cuts)
    answers = _predict(model, config, path, cuts, sound, rate, given)
    sound_S = sound if sound is None or sound.ndim == 1 else sound.mean(0).astype(np.int16)
    fps, times = _frame_rate(info), cuts.times(info.duration_s)
    painters: list[_Painter] = []
    found: list[Prediction] = []
    for texts, clips, (video_file, *event_files) in zip(inputs, answers, own, strict=True):
        segments = [_segment(task, clips, *cuts.clip_of(index)) for index in range(cuts.count)]
        painters.append(_Painter(task, segments, cuts, fps, frame_count(info.duration_s, fps)))
        frames = read_frames(path, fps=fps, seconds=info.duration_s, long_side=LONG_SIDE)
        write_video(video_file, painters[-1].over(frames), fps, None if sound is None else path)
        events = task.events(times, segments)
        if events is not None:
            save_events(events, *event_files)
        spans = _spans(task, clips if answers_clips(task) else segments, cuts, times, sound_S, rate)
        found.append(
            Prediction(inputs=dict(texts), video=video_file, strip=strip_file, spans=spans, summary="", events=events)
        )
    title = (
        f"{path.name}: {config.task}, {config.method or '+'.join((*config.prompts, *config.fusions)) or 'head only'}"
    )
    save_png(_strip(painters, [one.spans for one in found], times, sound_S, rate, cuts, title), strip_file)
    listed = {
        "Overlay" if sound is None else "Overlay with sound": [one.video for one in found],
        "Picture strip": [strip_file],
        "Predictions": [json_file, csv_file],
        "Events": [file for one, files in zip(found, own, strict=True) if one.events is not None for file in files[1:]],
    }
    lines = [f"{what}: {' and '.join(map(str, files))}." for what, files in listed.items() if files]
    summary = " ".join([f"Segments of {cuts.seconds:g} s: {cuts.count}.", *lines])
    found = [replace(one, summary=summary) for one in found]
    save_predictions(found, json_file, csv_file)
    return found


# --------------------------------------------------------------------------------------------------------------------
# From the file to predictions


def _given(task: Task, name: str, texts: Mapping[str, str], number: int) -> dict[str, Tensor]:
    """What a person gave, as the task reads it, with the axis B; ``number`` names it where there are several."""
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
    try:
        read = {key: task.read_input(key, texts[key]) for key in wanted}
    except AVCoreError as error:
        if number:
            error.args = (f"Input {number}: {error}",)
        raise
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
    inputs: Sequence[dict[str, Tensor]],
) -> list[list[dict[str, Tensor]]]:
    """For each of the inputs the prediction of each clip, on the CPU."""
    device = next(model.parameters()).device
    frames = None  # (segments, 3, Y, X), or (segments, K, 3, Y, X)
    if model.image is not None:
        times = segment_times(cuts.seen * model.image.frames, 0.0, cuts.seen * cuts.seconds)
        frames = decode_frames(path, times, model.image.size).reshape(cuts.seen, *model.image.shape)
    listened = sound if model.sound is not None else None
    given = [{key: tensor.to(device) for key, tensor in one.items()} for one in inputs]
    found: list[list[dict[str, Tensor]]] = [[] for _ in inputs]
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
            )
            for answers, output in zip(found, model.outputs(batch.to(device), given), strict=True):
                answers.append({key: _on_host(value[0]) for key, value in model.predict(output).items()})
                _check_axes(model, answers[-1])
    finally:
        model.train(training)
    return found


def _on_host(value: Tensor) -> Tensor:
    return (value.float() if value.is_floating_point() else value).cpu()


def _check_axes(model: AVModel, prediction: Mapping[str, Tensor]) -> None:
    """Refuse what the task does not declare."""
    declared = model.task.prediction
    for key in prediction:
        if declared.get(key) not in ("clip", "segment", "pixel"):
            task = type(model.task).__name__
            raise PluginError(
                f"{type(model.head).__name__} predicts '{key}', and {task}.prediction does not say whether that is one "
                f"for each clip, segment or pixel (it names {', '.join(declared) or 'nothing'}): tell the author of "
                f"{task}."
            )


def _segment(task: Task, clips: Sequence[Mapping[str, Tensor]], clip: int, place: int) -> dict[str, Tensor]:
    """One segment of a clip's prediction as a clip with T = 1; what is of the whole clip stays whole."""
    return {
        key: value if task.prediction[key] == "clip" else value[place : place + 1] for key, value in clips[clip].items()
    }


def _spans(
    task: Task,
    predictions: Sequence[Mapping[str, Tensor]],
    cuts: Cuts,
    times: Sequence[tuple[float, float]],
    sound_S: np.ndarray | None,
    rate: int,
) -> list[Span]:
    """What is told of each clip, or of each segment."""
    count = cuts.per_clip if answers_clips(task) else 1
    spans = []
    for first, prediction in zip(cuts.starts if answers_clips(task) else range(cuts.count), predictions, strict=True):
        # A video that is shorter than a clip ends before it.
        inside = times[first : first + count]
        spans.append(
            Span(
                start_s=inside[0][0],
                stop_s=inside[-1][1],
                level_db=_level(sound_S, cuts.samples(first, len(inside), rate)),
                text=task.describe(prediction),
                details=task.details(inside, prediction),
            )
        )
    return spans


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


def _level(sound_S: np.ndarray | None, samples: slice) -> float | None:
    """Root mean square in dB below full scale, at least -96 (one step of 16 bits); None where there is no sound."""
    if sound_S is None:
        return None
    loudness = float(np.sqrt(np.mean((sound_S[samples].astype(np.float64) / 32768) ** 2)))
    return round(20 * math.log10(max(loudness, 10**-4.8)), 1)


def _strip(
    painters: Sequence[_Painter],
    spans: Sequence[Sequence[Span]],
    times: Sequence[tuple[float, float]],
    sound_S: np.ndarray | None,
    rate: int,
    cuts: Cuts,
    title: str,
) -> Pixels:
    rows: list[tuple[str, Pixels]] = []
    peak = None if sound_S is None else float(np.abs(sound_S.astype(np.int32)).max(initial=1))
    columns = painters[0].columns
    for first in range(0, len(columns), COLUMNS):
        line = columns[first : first + COLUMNS]
        frames = np.stack([painters[0].thumbnails(index)[0] for index in line])
        rows.append(
            ("video", strip(frames, [f"{in_words(*times[index])} s" for index in line], height=frames.shape[1]))
        )
        for painter, told in zip(painters, spans, strict=True):
            painted = np.stack([painter.thumbnails(index)[1] for index in line])
            texts = _captions(painter.task, told, cuts, line)
            rows.append(("prediction", strip(painted, texts if any(texts) else None, height=painted.shape[1])))
        if sound_S is not None:
            pieces = np.stack([sound_S[cuts.samples(index, 1, rate)] for index in line])
            rows.append(("sound", waveform(pieces, frames.shape[2], peak=peak)))
    return side_by_side(rows, title)


def _captions(task: Task, spans: Sequence[Span], cuts: Cuts, line: Sequence[int]) -> list[str | None]:
    """What stands over each column; of a whole clip it begins over its first column in the line."""
    if not answers_clips(task):
        return [spans[index].text for index in line]
    clips = [cuts.clip_of(index)[0] for index in line]
    return [spans[clip].text if clip not in clips[:place] else None for place, clip in enumerate(clips)]
