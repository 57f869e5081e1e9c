"""`AVQATask`: how a question is read, and how answers are scored, drawn and described."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from avcore.errors import AVCoreError
from avcore.tasks import Input, Task
from avcore_avqa.config import AVQATaskConfig
from avcore_avqa.drawing import paint_heat, paint_seconds, paint_text, seconds_height
from avcore_avqa.sentences import letters_of, sentence_of, text_of
from avcore_avqa.words import ids_of, refuse_bytes, refuse_several, words_of

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["QUESTION", "AVQATask"]

QUESTION = "question"
"""The name of the input."""
RANKS = ("answer", "second", "third")
"""The answers that are written with their probabilities."""


class AVQATask(Task):
    """One answer of a fixed list to a question about a whole clip."""

    score: ClassVar[str] = "accuracy"
    prediction: ClassVar[Mapping[str, str]] = {
        **{"answer": "clip", "probability": "clip", "question": "clip"},
        # What was attended to; a head that attends to nothing leaves it out.
        **{"seconds": "clip", "place": "segment", "regions": "pixel"},
        # Of the first stage, which has nothing else but regions.
        **{"match": "segment", "match_negative": "segment"},
    }
    config: AVQATaskConfig

    def __init__(self, config: AVQATaskConfig) -> None:
        super().__init__(config)

    @property
    def classes(self) -> tuple[str, ...]:
        """The answers in their order."""
        return self.config.answers

    @property
    def inputs(self) -> Mapping[str, Input]:
        """``question``, the ids of its words, or with ``question=text`` its letters."""
        if self.grounds:
            return {}
        if self.reads_text:
            return {QUESTION: Input(shape=(self.config.letters,), dtype="int64", help="a question in any words")}
        return {
            QUESTION: Input(
                shape=(self.config.length,),
                dtype="int64",
                help="a question in the words of the training questions, such as "
                "'How many instruments are sounding in the video?'",
            )
        }

    def read_input(self, name: str, text: str) -> Tensor:
        """The ids of the words of a question, or its letters.

        Raises:
            AVCoreError: it is empty, more than one, or no text; or, of words, too long, or some are unknown to the
                training questions.
        """
        refuse_bytes(text)
        refuse_several(words := words_of(text))
        return self.question(words)

    @property
    def reads_text(self) -> bool:
        """Questions are any text, for a pretrained encoder, and no words of a list."""
        return self.config.question == "text"

    @property
    def grounds(self) -> bool:
        """The match of sound and pictures is learnt, and no answers: AVST's first stage."""
        return self.config.stage == "grounding"

    def question(self, words: Sequence[str]) -> Tensor:
        """The input ``question`` of words, whether of a data set or of a person; raises as `read_input`."""
        return letters_of(sentence_of(words), self.config.letters) if self.reads_text else self.ids(words)

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

    def metrics(self, protocol: str) -> "Metric":
        """`AVQAMetrics` or, of the first stage, `MatchMetrics`, the same for ``clean`` and ``paper``."""
        from avcore_avqa.metrics import AVQAMetrics, MatchMetrics

        return MatchMetrics(protocol) if self.grounds else AVQAMetrics(protocol)

    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        """The most frequent answer of training, whatever is asked; in the first stage, that everything matches."""
        if self.grounds:
            return dict.fromkeys(("match", "match_negative"), torch.ones(segments))
        counts_C = torch.zeros(len(self.classes), dtype=torch.int64)
        for truth in truths:
            counts_C[truth["answer"]] += 1
        return {"answer": counts_C.argmax()}

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The right answer to one question; the first stage has none to draw."""
        if self.grounds:
            return None
        return {"answer": targets["answer"]}

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        """The question above, the answers below, the regions attended to as heat, the seconds as a bar under it.

        Args:
            frames_TYX3: uint8 frames of any size.
            prediction: ``answer``, and whatever there is of ``probability``, ``question``, ``regions`` (T, Y, X) of any
                size, and ``seconds`` of the clip with the ``place`` (T,) of each frame among them.
        """
        question, answered = self.asked(prediction), self._answered(prediction)
        seconds = prediction["seconds"].float().numpy() if "seconds" in prediction else None
        drawn = []
        for at, frame in enumerate(frames_TYX3):
            painted, bottom = frame, len(frame)
            if "regions" in prediction:
                painted = paint_heat(painted, prediction["regions"][at].float().numpy())
            if seconds is not None:
                painted = paint_seconds(painted, seconds, int(prediction["place"][at]))
                bottom -= seconds_height(frame)
            painted = paint_text(painted, answered, bottom=bottom)
            drawn.append(paint_text(painted, question) if question else painted)
        return np.stack(drawn)

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        """Such as ``How many instruments are sounding in the video? two 71 %, one 12 %, three 5 %``."""
        return " ".join(text for text in (self.asked(prediction), self._answered(prediction)) if text)

    def details(self, times: Sequence[tuple[float, float]], prediction: Mapping[str, Tensor]) -> dict[str, Any]:
        """``answer`` with its ``probability``, the ``second`` and the ``third`` with theirs, and ``attention``.

        Of the first stage how sure it is that sound and pictures ``match``, for each segment.

        That is a list with an object for each segment: ``start`` and ``end`` in s, how much of the whole attention its
        ``sound`` and its ``pictures`` get, and the ``region`` of its picture that gets most: left, top, right and
        bottom, in shares of the picture.
        """
        found: dict[str, Any] = {}
        if self.grounds:
            return {"match": [round(sure, 4) for sure in prediction["match"].tolist()]}
        for name, (answer, sure) in zip(RANKS, self._best(prediction), strict=False):
            found |= {name: answer, "probability" if name == "answer" else f"{name}_probability": round(sure, 4)}
        if "seconds" in prediction:
            weights = [[round(weight, 4) for weight in pair] for pair in prediction["seconds"].tolist()]
            regions = [_warmest(heat_GH) for heat_GH in prediction["regions"]]
            found["attention"] = [
                {
                    "start": round(start, 3),
                    "end": round(stop, 3),
                    "sound": sound,
                    "pictures": pictures,
                    "region": region,
                }
                for (start, stop), (sound, pictures), region in zip(times, weights, regions, strict=False)
            ]
        return found

    def asked(self, prediction: Mapping[str, Tensor]) -> str:
        """The question that a prediction answers; empty where it does not say."""
        ids = prediction[QUESTION].tolist() if QUESTION in prediction else []
        if self.reads_text:
            return text_of(ids)
        words = [self.config.words[place] for place in ids if place]
        return f"{' '.join(words)}?" if words else ""

    def _best(self, prediction: Mapping[str, Tensor]) -> list[tuple[str, float]]:
        """The most probable answers and how sure they are."""
        best = prediction["probability"].topk(min(len(RANKS), len(self.classes)))
        return [(self.classes[at], sure) for at, sure in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def _answered(self, prediction: Mapping[str, Tensor]) -> str:
        if self.grounds:
            return f"sound and pictures match: {100 * float(prediction['match'].mean()):.0f} %"
        if "probability" not in prediction:
            return self.classes[int(prediction["answer"])]
        return ", ".join(f"{answer} {100 * sure:.0f} %" for answer, sure in self._best(prediction))


def _warmest(heat_GH: Tensor) -> list[float]:
    """Left, top, right and bottom of the greatest weight's place on the grid, in shares of the picture."""
    rows, columns = heat_GH.shape
    row, column = divmod(int(heat_GH.argmax()), columns)
    return [round(edge, 4) for edge in (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)]
