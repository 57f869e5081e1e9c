"""`AVETask` and `AVEWeakTask`: how labels of segments are scored, drawn and described."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from avcore.tasks import Event, Task
from avcore_ave.config import AVETaskConfig
from avcore_ave.drawing import colour, label_bar

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["AVETask", "AVEWeakTask"]


class AVETask(Task):
    """One class for each segment of a clip: an event that is both seen and heard, or background.

    Attributes:
        weak: only whole clips have labels in training.
    """

    weak: ClassVar[bool] = False
    score: ClassVar[str] = "accuracy"
    prediction: ClassVar[Mapping[str, str]] = {"labels": "segment", "probability": "segment"}
    config: AVETaskConfig

    def __init__(self, config: AVETaskConfig) -> None:
        super().__init__(config)

    @property
    def classes(self) -> tuple[str, ...]:
        """The events, then background."""
        return self.config.names

    @property
    def background(self) -> int:
        """The last index."""
        return self.config.background

    def metrics(self, protocol: str) -> "Metric":
        """`AVEMetrics` for ``clean`` or ``paper``."""
        from avcore_ave.metrics import AVEMetrics

        return AVEMetrics(protocol, background=self.config.background, paper_batch=self.config.paper_batch)

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        """A bar with the name of the class at the lower edge of each frame.

        Args:
            frames_TYX3: uint8 frames of any size.
            prediction: ``labels`` (T,), predicted or true. With ``probability`` (T,) the bar is filled as far.
        """
        labels = prediction["labels"].tolist()
        sure = prediction["probability"].tolist() if "probability" in prediction else [1.0] * len(labels)
        names, background = self.config.names, self.config.background
        return np.stack(
            [
                label_bar(frame, names[label], colour(label, background), filled)
                for frame, label, filled in zip(frames_TYX3, labels, sure, strict=True)
            ]
        )

    def is_empty(self, targets: Mapping[str, Tensor]) -> bool:
        """Whether every segment is background."""
        return bool((targets["labels"] == self.config.background).all())

    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        """The most frequent class of training segments, background included, for every segment.

        Weak: that of training clips.
        """
        counts_C = torch.zeros(len(self.classes), dtype=torch.long)
        for truth in truths:
            labels = truth["clip_label"] if self.weak else truth["labels"]
            counts_C += labels.flatten().bincount(minlength=len(counts_C))
        return {"labels": counts_C.argmax().expand(segments)}

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The true labels of one clip."""
        return {"labels": targets["labels"]}

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        """Such as ``1-2 background | 3-10 Dog, bark`` by numbers of segments; for a single one ``Dog, bark 87 %``."""
        labels: list[int] = prediction["labels"].tolist()
        names = self.config.names
        if len(labels) == 1:
            sure = f" {100 * float(prediction['probability']):.0f} %" if "probability" in prediction else ""
            return f"{names[labels[0]]}{sure}"
        runs, place = [], 1
        for label, run in groupby(labels):
            last = place + len(list(run)) - 1
            runs.append(f"{place}-{last} {names[label]}" if last > place else f"{place} {names[label]}")
            place = last + 1
        return " | ".join(runs)

    def events(
        self, times: Sequence[tuple[float, float]], predictions: Sequence[Mapping[str, Tensor]]
    ) -> list[Event] | None:
        """Runs of segments of one class that is not background, with the mean probability of its segments."""
        found, place = [], 0
        for label, run in groupby(int(prediction["labels"][0]) for prediction in predictions):
            first, place = place, place + len(list(run))
            if label != self.background:
                sure = [float(prediction["probability"][0]) for prediction in predictions[first:place]]
                found.append(
                    Event(
                        label=self.classes[label],
                        start_s=times[first][0],
                        stop_s=times[place - 1][1],
                        probability=sum(sure) / len(sure),
                    )
                )
        return found


class AVEWeakTask(AVETask):
    """The same, learned from the classes of whole clips: training has the target ``clip_label`` () alone."""

    weak: ClassVar[bool] = True

    def is_empty(self, targets: Mapping[str, Tensor]) -> bool:
        """Whether every segment is background; of a training clip, whether it has no event."""
        return super().is_empty(targets if "labels" in targets else {"labels": targets["clip_label"]})
