"""`AVARTask`: how the classes of clips are scored, drawn and described."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from avcore.tasks import Task
from avcore_avar.config import AVARTaskConfig
from avcore_avar.drawing import best_bars

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["AVARTask"]

BEST = 5
"""Classes that are shown."""


class AVARTask(Task):
    """One class for a whole clip."""

    score: ClassVar[str] = "top1"
    prediction: ClassVar[Mapping[str, str]] = {"label": "clip", "scores": "clip"}
    config: AVARTaskConfig

    def __init__(self, config: AVARTaskConfig) -> None:
        super().__init__(config)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names in the order of their indices."""
        return self.config.classes

    def metrics(self, protocol: str) -> "Metric":
        """`AVARMetrics`, the same for ``clean`` and ``paper``."""
        from avcore_avar.metrics import AVARMetrics

        return AVARMetrics(self.config.classes, per_class=self.config.per_class)

    def best(self, prediction: Mapping[str, Tensor]) -> list[tuple[str, float]]:
        """Names and probabilities of the five best classes of one clip, the best first; of a truth its class alone."""
        if "scores" not in prediction:
            return [(self.classes[int(prediction["label"])], 1.0)]
        best = prediction["scores"].topk(min(BEST, len(self.classes)))
        return [
            (self.classes[int(index)], float(value)) for value, index in zip(best.values, best.indices, strict=True)
        ]

    def draw(self, frames_TYX3: np.ndarray, prediction: Mapping[str, Tensor]) -> np.ndarray:
        """The five best classes as bars over the lower edge of each frame.

        Args:
            frames_TYX3: uint8 frames of any size.
            prediction: ``label`` () and ``scores`` (C,); of the truth ``label`` alone.
        """
        best = self.best(prediction)
        return np.stack([best_bars(frame, best) for frame in frames_TYX3])

    def majority(self, truths: Iterable[Mapping[str, Tensor]], segments: int) -> dict[str, Tensor] | None:
        """The most frequent class of training clips; as scores the shares of all, for the best five."""
        counts_C = torch.zeros(len(self.classes), dtype=torch.long)
        for truth in truths:
            counts_C[truth["label"]] += 1
        return {"label": counts_C.argmax(), "scores": counts_C / counts_C.sum()}

    def truth(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The true class of one clip."""
        return {"label": targets["label"]}

    def describe(self, prediction: Mapping[str, Tensor]) -> str:
        """Such as ``dog 87 %, cat 9 %, sheep 2 %, bird 1 %, lion 1 %``: the five best; of the truth the name alone."""
        best = self.best(prediction)
        if "scores" not in prediction:
            return best[0][0]
        return ", ".join(f"{name} {100 * value:.0f} %" for name, value in best)

    def details(self, times: Sequence[tuple[float, float]], prediction: Mapping[str, Tensor]) -> dict[str, Any]:
        """``class``, the best one, its ``probability``, and the five best with theirs as ``best``."""
        best = {name: round(value, 4) for name, value in self.best(prediction)}
        name, value = next(iter(best.items()))
        return {"class": name, "probability": value, "best": best}
