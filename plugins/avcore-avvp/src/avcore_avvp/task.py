"""`AVVPTask`: how what is heard and seen in each second is scored, drawn and described."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from avcore import read_features
from avcore.tasks import Event, Input, Task
from avcore_avvp.config import FEATURES, AVVPTaskConfig
from avcore_avvp.drawing import Row, paint_line, paint_moment

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["LETTERS", "MODALITIES", "AVVPTask", "runs"]

MODALITIES = ("audio", "visual")
"""The order of the axis of length 2 in all that is predicted."""
LETTERS = ("A", "V")
"""How they are written on pictures."""


class AVVPTask(Task):
    """Which classes are heard and which are seen in each segment of a clip; any number of them, apart.

    Training clips have labels of the whole clip alone, with no word of modality or time.
    """

    score: ClassVar[str] = "segment_Type"
    prediction: ClassVar[Mapping[str, str]] = {
        "events": "segment",
        "probability": "segment",
        "place": "segment",
        "line": "clip",
    }
    config: AVVPTaskConfig

    def __init__(self, config: AVVPTaskConfig) -> None:
        super().__init__(config)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in their order."""
        return self.config.classes

    @property
    def inputs(self) -> Mapping[str, Input]:
        """Features from files, those that ``task_options.features`` names."""
        return {
            name: Input(shape=FEATURES[name], help=f"a file of features, {FEATURES[name]}, .npy, .pt or .h5")
            for name in self.config.features
        }

    def read_input(self, name: str, text: str) -> Tensor:
        """The features in the file that a person names; they are those of one clip of 10 s."""
        return read_features(text, FEATURES[name])

    def metrics(self, protocol: str) -> "Metric":
        """`AVVPMetrics` for ``clean`` or ``paper``."""
        from avcore_avvp.metrics import AVVPMetrics

        return AVVPMetrics(protocol)

    def is_empty(self, targets: Mapping[str, Tensor]) -> bool:
        """Whether nothing is heard or seen in any second; of a training clip, whether it has no class."""
        return not bool(targets.get("seconds", targets["labels"]).any())

    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        """The class that most training clips have, heard and seen throughout: their labels know no more."""
        counts_C = torch.zeros(len(self.classes))
        for truth in truths:
            counts_C += truth["labels"]
        events = torch.zeros(segments, 2, len(self.classes), dtype=torch.bool)
        events[..., counts_C.argmax()] = True
        return {"events": events}

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """What is heard and seen in one clip; None of a training clip, whose seconds nobody knows."""
        return {"events": targets["seconds"]} if "seconds" in targets else None

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        """A time line at the lower edge: for each class that occurs a row of sound (A) and one of pictures (V).

        Args:
            frames_TYX3: uint8 frames of any size.
            prediction: ``events`` (T, 2, C), predicted or true. The frames of a clip side by side make its time line.
                A single frame of a longer clip, with ``line`` and ``place``, has the whole one, and its own segment
                marked.
        """
        events, whole = prediction["events"], prediction.get("line")
        if whole is not None and len(events) == 1 < len(whole):
            rows = self._rows(whole)
            return paint_line(frames_TYX3[0], rows, int(prediction["place"][0]))[None]
        rows = self._rows(events)
        return np.stack([paint_moment(frame, rows, place) for place, frame in enumerate(frames_TYX3)])

    def _rows(self, events_T2C: Tensor) -> list[Row]:
        """The rows of the classes that occur."""
        occurring = events_T2C.any(0).any(0).nonzero().flatten().tolist()
        return [
            Row(f"{letter} {self.classes[index]}", index, tuple(events_T2C[:, modality, index].tolist()))
            for index in occurring
            for modality, letter in enumerate(LETTERS)
        ]

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        """Such as ``Speech A 1-4 V 2 | Dog A 3`` by numbers of segments; for a single one ``Speech A 93 %, V 60 %``."""
        events = prediction["events"]
        texts = []
        for index in events.any(0).any(0).nonzero().flatten().tolist():
            found = []
            for modality, letter in enumerate(LETTERS):
                column = events[:, modality, index].tolist()
                if len(column) == 1 and column[0]:
                    sure = f" {100 * float(prediction['probability'][0, modality, index]):.0f} %"
                    found.append(letter + (sure if "probability" in prediction else ""))
                elif any(column):
                    spans = (str(a + 1) if b == a + 1 else f"{a + 1}-{b}" for a, b in runs(column))
                    found.append(f"{letter} {','.join(spans)}")
            texts.append(f"{self.classes[index]} {(', ' if len(events) == 1 else ' ').join(found)}")
        return " | ".join(texts)

    def events(
        self, times: Sequence[tuple[float, float]], predictions: Sequence[Mapping[str, Tensor]]
    ) -> list[Event] | None:
        """What is heard and what is seen, each longest run of segments, with the mean probability of its segments."""
        here_T2C = torch.cat([prediction["events"] for prediction in predictions])
        sure_T2C = torch.cat([prediction["probability"] for prediction in predictions])
        return [
            Event(
                label=self.classes[index],
                modality=name,
                start_s=times[first][0],
                stop_s=times[behind - 1][1],
                probability=float(sure_T2C[first:behind, modality, index].mean()),
            )
            for index in here_T2C.any(0).any(0).nonzero().flatten().tolist()
            for modality, name in enumerate(MODALITIES)
            for first, behind in runs(here_T2C[:, modality, index].tolist())
        ]


def runs(here: list[bool]) -> list[tuple[int, int]]:
    """The longest runs: the first place of each, and the one behind its last."""
    around = [False, *here, False]
    edges = [place for place in range(len(here) + 1) if around[place] != around[place + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))
