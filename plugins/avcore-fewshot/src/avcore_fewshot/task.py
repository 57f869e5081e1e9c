"""`WordsTask`: any words in each second of a video."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from avcore.errors import AVCoreError
from avcore.tasks import Event, Task
from avcore_avar.drawing import best_bars
from avcore_fewshot.config import WordsTaskConfig

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["WordsTask"]

SHOWN = {"visual": "seen", "audio": "heard", "scores": "both"}
MODALITY = {"visual": "visual", "audio": "audio", "scores": ""}


class WordsTask(Task):
    """One of any words for each segment, by pictures, by sound, and by the mean of both; nothing is true or false."""

    score: ClassVar[str] = "none"
    prediction: ClassVar[Mapping[str, str]] = {"scores": "segment", "visual": "segment", "audio": "segment"}
    config: WordsTaskConfig

    def __init__(self, config: WordsTaskConfig) -> None:
        super().__init__(config)

    @property
    def classes(self) -> tuple[str, ...]:
        """The words."""
        return self.config.classes

    def metrics(self, protocol: str) -> "Metric":
        """None: words of a person have no truth.

        Raises:
            AVCoreError: always.
        """
        raise AVCoreError("Task 'words' has no truth to be scored by: choose the task of a data set with --task NAME.")

    def best(self, prediction: Mapping[str, Tensor]) -> list[tuple[str, str, float]]:
        """What it is by, the best word of the first segment and its probability: by pictures, by sound, by both."""
        kinds = [kind for kind in SHOWN if kind in prediction]
        if len(kinds) == 2:  # one stream, and the same once more
            kinds.remove("scores")
        found = []
        for kind in kinds:
            sure, index = prediction[kind][0].max(-1)
            found.append((kind, self.classes[int(index)], float(sure)))
        return found

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        """A bar for what is seen, heard, and both, over the lower edge of each frame."""
        drawn = []
        for place, frame in enumerate(frames_TYX3):
            one = {kind: scores[place : place + 1] for kind, scores in prediction.items()}
            drawn.append(best_bars(frame, [(f"{SHOWN[kind]}: {name}", sure) for kind, name, sure in self.best(one)]))
        return np.stack(drawn)

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        """Such as ``seen: dog 87 % | heard: violin 60 % | both: dog 55 %``, of the first segment."""
        return " | ".join(f"{SHOWN[kind]}: {name} {100 * sure:.0f} %" for kind, name, sure in self.best(prediction))

    def events(
        self, times: Sequence[tuple[float, float]], predictions: Sequence[Mapping[str, Tensor]]
    ) -> list[Event] | None:
        """Runs of segments of one word, by pictures, by sound, and (without modality) by both."""
        found = []
        lines: dict[str, list[tuple[str, float]]] = {}
        for prediction in predictions:
            for kind, name, sure in self.best(prediction):
                lines.setdefault(kind, []).append((name, sure))
        for kind, line in lines.items():
            place = 0
            for name, run in groupby(line, key=lambda one: one[0]):
                sure_ones = [sure for _, sure in run]
                first, place = place, place + len(sure_ones)
                found.append(
                    Event(
                        label=name,
                        modality=MODALITY[kind],
                        start_s=times[first][0],
                        stop_s=times[place - 1][1],
                        probability=sum(sure_ones) / len(sure_ones),
                    )
                )
        return found
