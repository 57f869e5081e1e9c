"""`AVQATask`: how a question is read, and how answers are scored, drawn and described."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from avcore.errors import AVCoreError
from avcore.tasks import Input, Task
from avcore_avqa.config import AVQATaskConfig
from avcore_avqa.drawing import paint_lines
from avcore_avqa.metrics import AVQAMetrics
from avcore_avqa.words import ids_of, words_of

__all__ = ["QUESTION", "AVQATask"]

QUESTION = "question"
"""The name of the input."""
SHOWN = 3
"""Answers that are written with their probabilities."""


class AVQATask(Task):
    """One answer of a fixed list to a question about a whole clip."""

    score: ClassVar[str] = "accuracy"
    prediction: ClassVar[Mapping[str, str]] = {"answer": "clip", "probability": "clip", "question": "clip"}
    config: AVQATaskConfig

    def __init__(self, config: AVQATaskConfig) -> None:
        super().__init__(config)

    @property
    def classes(self) -> tuple[str, ...]:
        """The answers in their order."""
        return self.config.answers

    @property
    def inputs(self) -> Mapping[str, Input]:
        """``question``, the ids of its words."""
        return {
            QUESTION: Input(
                shape=(self.config.length,),
                dtype="int64",
                help="a question in the words of the training questions, such as "
                "'How many instruments are sounding in the video?'",
            )
        }

    def read_input(self, name: str, text: str) -> Tensor:
        """The ids of the words of a question.

        Raises:
            AVCoreError: it is empty, too long, or has words that the training questions lack; names them.
        """
        return self.ids(words_of(text))

    def ids(self, words: Iterable[str]) -> Tensor:
        """The ids of words, filled up: (L,) int64; see `avcore_avqa.words.ids_of`."""
        return torch.tensor(ids_of(list(words), self.config.words, self.config.length))

    def index(self, answer: str) -> int:
        """The index of an answer.

        Raises:
            AVCoreError: no training question has it.
        """
        if answer not in self.classes:
            raise AVCoreError(
                f"'{answer}' is none of the {len(self.classes)} answers of the training questions "
                "(task_options.answers), so that nothing can give it. Take the question out, or add one to train."
            )
        return self.classes.index(answer)

    def metrics(self, protocol: str) -> Metric:
        """`AVQAMetrics`, the same for ``clean`` and ``paper``."""
        return AVQAMetrics(protocol)

    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        """The most frequent answer of training, whatever is asked."""
        counts_C = torch.zeros(len(self.classes), dtype=torch.int64)
        for truth in truths:
            counts_C[truth["answer"]] += 1
        return {"answer": counts_C.argmax()}

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The right answer to one question."""
        return {"answer": targets["answer"]}

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        """The question, where it is known, and the answers at the lower edge of every picture."""
        lines = [text for text in (self.asked(prediction), self._answered(prediction)) if text]
        return np.stack([paint_lines(frame, lines) for frame in frames_TYX3])

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        """Such as ``How many instruments are sounding in the video? two 71 %, one 12 %, three 5 %``."""
        return " ".join(text for text in (self.asked(prediction), self._answered(prediction)) if text)

    def asked(self, prediction: Mapping[str, Tensor]) -> str:
        """The question that a prediction answers; empty where it does not say."""
        ids = prediction[QUESTION].tolist() if QUESTION in prediction else []
        words = [self.config.words[place] for place in ids if place]
        return f"{' '.join(words)}?" if words else ""

    def _answered(self, prediction: Mapping[str, Tensor]) -> str:
        if "probability" not in prediction:
            return self.classes[int(prediction["answer"])]
        best = prediction["probability"].topk(min(SHOWN, len(self.classes)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return ", ".join(f"{self.classes[place]} {100 * sure:.0f} %" for place, sure in pairs)
