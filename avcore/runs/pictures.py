"""Pictures of predictions: what the model saw, the truth, and what it said for each change.

Shape letters: T segments, Y and X image rows and columns.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
from torch import Tensor

from avcore.engine.evaluate import Example
from avcore.report.overlay import fitting, save_png, side_by_side, strip
from avcore.report.prediction import answers_clips
from avcore.tasks import Task

__all__ = ["draw_example", "save_pictures"]


def draw_example(task: Task, examples: Mapping[str, Example]) -> np.ndarray:
    """One clip: its frames, the truth, and a row for each change of what it was given.

    Args:
        task: draws.
        examples: the words of a change (`avcore.data.changes`) -> the same clip with the prediction under it; its
            frames must be there.

    Returns:
        (Y, X, 3) uint8.
    """
    first = next(iter(examples.values()))
    assert first.frames is not None
    frames_TYX3 = np.ascontiguousarray(first.frames.permute(0, 2, 3, 1).numpy())
    rows = [("video", strip(frames_TYX3))]
    truth = task.truth(first.targets)
    if truth is not None:
        rows.append(("truth", _drawn(task, frames_TYX3, truth)))
    for words, example in examples.items():
        title = fill(words, 16)
        text = "" if answers_clips(task) else task.describe(example.prediction)
        rows.append((title, _drawn(task, frames_TYX3, example.prediction)))
        if text and truth is None:
            rows[-1] = (f"{title}\n{text}", rows[-1][1])
    return side_by_side(rows, first.name)


def _drawn(task: Task, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
    """The painted frames of a clip; an answer for the whole of it is written above, where there is room for it."""
    text = task.describe(prediction) if answers_clips(task) else ""
    return strip(task.draw(frames_TYX3, prediction), [text, *[None] * (len(frames_TYX3) - 1)] if text else None)


def save_pictures(task: Task, split: str, by_change: Mapping[str, Sequence[Example]], folder: Path) -> list[Path]:
    """A PNG file ``<split>-<number>-<clip>.png`` for each clip, and its path; none without a visual stream."""
    paths: list[Path] = []
    for number, examples in enumerate(zip(*by_change.values(), strict=True)):
        if examples[0].frames is None:
            continue
        picture = draw_example(task, dict(zip(by_change, examples, strict=True)))
        name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in examples[0].name)
        paths.append(save_png(picture, folder / f"{split}-{number + 1:02d}-{fitting(name)}.png"))
    return paths
