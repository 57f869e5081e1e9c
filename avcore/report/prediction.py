"""What was predicted for a video, as records and as files: JSON and CSV."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from avcore.report.overlay import save_bytes
from avcore.tasks import Event, Task

__all__ = ["Prediction", "Span", "answers_clips", "in_words", "save_predictions"]


def answers_clips(task: Task) -> bool:
    """Whether a task's answer, the first of `Task.prediction`, is one for a whole clip."""
    return next(iter(task.prediction.values()), "") == "clip"


def in_words(start_s: float, stop_s: float) -> str:
    """``4 to 5``, in s."""
    return f"{round(start_s, 2):g} to {round(stop_s, 1):g}"


@dataclass(frozen=True, kw_only=True)
class Span:
    """What was predicted for a piece of the video: a segment, or a clip for a task that answers for whole clips.

    Attributes:
        start_s, stop_s: s from the beginning of the video.
        level_db: loudness, dB below full scale; None for a video without sound.
        text: what the task says of it; empty if the picture says it all.
        details: the same as plain data, by name; empty if the task gives none.
    """

    start_s: float
    stop_s: float
    level_db: float | None
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def span(self) -> str:
        """``4 to 5``, in s."""
        return in_words(self.start_s, self.stop_s)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Where the results for a video lie, and what they are in words.

    Attributes:
        inputs: what was given beside the video, by name.
        video, strip: the files.
        spans: what was predicted for each piece, one after the other.
        summary: a line for a person.
        events: what was predicted over the whole video; None for a task without events.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    video: Path
    strip: Path
    spans: list[Span]
    summary: str
    events: list[Event] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON; paths become text."""
        return asdict(self) | {"video": str(self.video), "strip": str(self.strip)}


def save_predictions(found: Sequence[Prediction], json_file: Path, csv_file: Path) -> None:
    """Write predictions as a list of objects, and their spans as a table with a header.

    A span is a line: what was given beside the video, ``start`` and ``end`` in s, ``level_db``, ``prediction`` in
    words, and a column for each of its details; a detail that is a list or an object is written as JSON.

    Raises:
        AVCoreError: nothing can be written there.
    """
    objects = [one.to_dict() for one in found]
    save_bytes(_text(json.dumps(objects, indent=2, ensure_ascii=False) + "\n"), json_file)
    lines = [
        {
            **one.inputs,
            **{"start": round(span.start_s, 3), "end": round(span.stop_s, 3), "level_db": span.level_db},
            "prediction": span.text,
            **{name: _cell(value) for name, value in span.details.items()},
        }
        for one in found
        for span in one.spans
    ]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    save_bytes(_text(table.getvalue()), csv_file)


def _text(text: str) -> bytes:
    """UTF-8; names of files may hold bytes that are none."""
    return text.encode(errors="backslashreplace")


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | tuple) else value
